"""`pixeltoll demo`: two real pictures through every real part, and the sums to the last decimal."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-demo-")).resolve()
    yield folder
    shutil.rmtree(folder)


def test_demo_makes_two_pictures_and_the_books_agree(folder: Path) -> None:
    output = folder / "pictures"

    done = subprocess.run(
        (
            *(sys.executable, "-m", "pixeltoll", "demo"),
            *("--output", str(output), "--data-dir", str(folder / "data")),
        ),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )

    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    # 256 x 256 x 2 and 256 x 256 pixels at 1.9073484e-08 USD.
    assert "amount 0.002499999694848 USD" in words
    assert "amount 0.001249999847424 USD" in words
    assert "spent 0.003749999542272" in words
    assert "earned 0.0033749995880448" in words
    assert "platform's fee 0.0003749999542272" in words
    assert words.endswith("sum 0")
    pictures = sorted(output.glob("*.png"))
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (256, 256)
            assert len(image.getcolors(maxcolors=256 * 256) or ()) > 16
    assert not (folder / "data" / "connection.json").exists()
