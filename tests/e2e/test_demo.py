"""`make demo`, as in the tutorial: pictures of what was asked for, and all the sums."""

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
from tools import checker

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-demo-")).resolve()
    yield folder
    shutil.rmtree(folder)


def shown(folder: Path) -> dict[str, str]:
    found = {}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            reading = checker.read(picture)
        found[path.name] = f"{reading.colour} {reading.shape} on {reading.background}"
    return found


def test_demo_draws_what_it_was_asked_for_and_the_books_agree(folder: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    first = shell.commands(page)[0]

    done = subprocess.run(
        shell.recipe(first), capture_output=True, text=True, check=False, cwd=folder
    )

    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    # 64 x 64 x 2 and 64 x 64 pixels at 1.9073484e-08 USD.
    assert "amount 0.000156249980928 USD" in words
    assert "amount 0.000078124990464 USD" in words
    assert "spent 0.000234374971392" in words
    assert "earned 0.0002109374742528" in words
    assert "platform's fee 0.0000234374971392" in words
    [last] = re.findall(r"^```text\n(trial balance\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert words.endswith(" ".join(last.split()))
    assert shown(folder / "demo-output") == {
        "text-to-image-0.png": "red heart on white",
        "text-to-image-1.png": "red heart on white",
        "image-to-image-0.png": "blue heart on white",
    }
    assert not (folder / ".pixeltoll" / "connection.json").exists()
