"""`make demo`, as in the tutorial: two real pictures through every real part, and all the sums."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests import shell

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-demo-")).resolve()
    yield folder
    shutil.rmtree(folder)


def test_demo_makes_two_pictures_and_the_books_agree(folder: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    first = shell.commands(page)[0]

    done = subprocess.run(
        shell.recipe(first), capture_output=True, text=True, check=False, cwd=folder
    )

    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    # 256 x 256 x 2 and 256 x 256 pixels at 1.9073484e-08 USD.
    assert "amount 0.002499999694848 USD" in words
    assert "amount 0.001249999847424 USD" in words
    assert "spent 0.003749999542272" in words
    assert "earned 0.0033749995880448" in words
    assert "platform's fee 0.0003749999542272" in words
    [last] = re.findall(r"^```text\n(trial balance\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert words.endswith(" ".join(last.split()))
    pictures = sorted((folder / "demo-output").glob("*.png"))
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (256, 256)
            assert len(image.getcolors(maxcolors=256 * 256) or ()) > 16
    assert not (folder / ".pixeltoll" / "connection.json").exists()
