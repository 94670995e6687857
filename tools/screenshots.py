"""Pictures of what people look at, for the documentation: Flower's pages after some jobs.

`python -m tools.screenshots` starts a whole stack of its own, runs a few demo jobs, and has a
headless Chromium draw the pages into docs/images. It needs `chromium` on the PATH.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image

from pixeltoll import stack
from pixeltoll.state import Connection

PAGES = {"flower-tasks.png": "/tasks", "flower-queues.png": "/broker"}
_JOBS = 5
_SIZE = (1500, 560)
_COLOURS = 64
_END_STATES = ("succeeded", "failed", "canceled", "expired")


def main() -> None:
    """Start, run jobs, draw, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    with _running() as connection:
        _run_jobs(connection)
        for name, page in PAGES.items():
            picture = _draw(f"{connection.flower_url}{page}")
            (output / name).write_bytes(picture)
            print(f"{output / name}: {len(picture)} bytes")


@contextmanager
def _running() -> Iterator[Connection]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-screenshots-"))
    try:
        with stack.running(stack.Options(folder, port=0, flower=True), print) as running:
            yield running.connection
    finally:
        shutil.rmtree(folder)


def _run_jobs(connection: Connection) -> None:
    order = {"pipeline": "text-to-image", "model_id": "pixeltoll/shapes", "prompt": "a red star"}
    login = {"Authorization": f"Bearer {connection.api_key}"}
    with httpx.Client(base_url=connection.url, headers=login, timeout=30) as client:
        waiting = [
            client.post("/v1/jobs", json=order).raise_for_status().json()["id"]
            for _ in range(_JOBS)
        ]
        while waiting:
            state = client.get(f"/v1/jobs/{waiting[0]}").raise_for_status().json()["state"]
            if state in _END_STATES:
                del waiting[0]
            time.sleep(0.2)


def _draw(url: str) -> bytes:
    """Return a page as a PNG of few colours, which is what keeps it small."""
    chromium = shutil.which("chromium") or sys.exit("There is no chromium on the PATH.")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "page.png"
        subprocess.run(
            (
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={folder}/profile", f"--window-size={_SIZE[0]},{_SIZE[1]}"),
                *("--virtual-time-budget=8000", f"--screenshot={target}", url),
            ),
            check=True,
            capture_output=True,
            timeout=120,
        )
        shown = io.BytesIO()
        with Image.open(target) as page:
            page.convert("RGB").quantize(_COLOURS).save(shown, "PNG", optimize=True)
        return shown.getvalue()


if __name__ == "__main__":
    main()
