"""Models from a hub id, with huggingface_hub's own client against a small stand-in for the hub.

In a process of its own, because the client reads the hub's address when it is imported; in one for
all tests, because importing it takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import json
import sys
from pathlib import Path
from tasks.catalog import ModelSpec
from tasks.engine.diffusion import DiffusionEngine
from tasks.errors import ModelLoadError

for line in sys.stdin:
    source, revision = json.loads(line)
    spec = ModelSpec(source, source, "stable-diffusion", ("text-to-image",), revision=revision)
    engine = DiffusionEngine(Path("cache"), device="cpu")
    try:
        engine.load(spec, "text-to-image")
    except ModelLoadError as error:
        print("refused:", error, flush=True)
    else:
        print("loaded:", *engine.loaded, flush=True)
"""


class Hub:
    """Serves every folder below `root`/maker as a repository with one commit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = hub.answer(self.path.partition("?")[0])
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

            do_HEAD = do_GET  # noqa: N815  # the base class looks for this name

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> bytes | None:
        """The body for a path, or None where there is nothing."""
        self.asked.append(path)
        _, *parts = path.split("/")
        match parts:
            case ["api", "models", "maker", name, "revision", revision] if revision == COMMIT:
                siblings = [{"rfilename": file} for file in self._files(name)]
                answer = {"id": f"maker/{name}", "sha": COMMIT, "siblings": siblings}
                return json.dumps(answer).encode() if siblings else None
            case ["api", "models", "maker", name, "tree", revision] if revision == COMMIT:
                rows = [
                    {"type": "file", "path": file, "size": len(content), "oid": COMMIT}
                    for file, content in self._files(name).items()
                ]
                return json.dumps(rows).encode()
            case ["maker", name, "resolve", revision, *file] if revision == COMMIT:
                return self._files(name).get("/".join(file))
        return None

    def _files(self, name: str) -> dict[str, bytes]:
        folder = self.root / "maker" / name
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def loader(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def load(loader: subprocess.Popen[str], source: str, revision: str = COMMIT) -> str:
    """What the engine says when it loads a hub id."""
    assert loader.stdin is not None
    assert loader.stdout is not None
    print(json.dumps([source, revision]), file=loader.stdin, flush=True)
    return loader.stdout.readline()


@pytest.fixture
def repository(hub: Hub, demo_dir: Path, request: pytest.FixtureRequest) -> Path:
    """The plain demo model under a name of this test's own."""
    folder = hub.root / "maker" / re.sub(r"\W", "-", request.node.name).strip("-")
    shutil.copytree(demo_dir / "demo-sd", folder)
    hub.asked.clear()
    return folder


def test_pinned_model_is_loaded_and_then_needs_no_hub(
    hub: Hub, repository: Path, loader: subprocess.Popen[str]
) -> None:
    source = f"maker/{repository.name}"
    assert load(loader, source) == f"loaded: {source}\n"
    ours = [path for path in hub.asked if source in path]
    assert ours
    assert all(COMMIT in path for path in ours)
    hub.stop()
    try:
        assert load(loader, source) == f"loaded: {source}\n"
    finally:
        hub.start()


def test_pickled_weights_are_refused_and_not_fetched(
    hub: Hub, repository: Path, loader: subprocess.Popen[str]
) -> None:
    weights = repository / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    said = load(loader, f"maker/{repository.name}")
    assert said.startswith(f"refused: maker/{repository.name}: ")
    assert "safetensors" in said
    assert not any(path.endswith(".bin") for path in hub.asked)


@pytest.mark.parametrize("change", [{"_class_name": ["evil", "Evil"]}, {"unet": ["evil", "Evil"]}])
def test_code_in_a_repository_is_not_run(
    change: dict[str, list[str]],
    repository: Path,
    loader: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    for folder in (repository, repository / "unet"):
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    index = repository / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    said = load(loader, f"maker/{repository.name}")
    assert said.startswith(f"refused: maker/{repository.name}: ")
    assert not (tmp_path / "sprung").exists()


def test_what_the_hub_does_not_have_is_a_load_error(
    repository: Path, loader: subprocess.Popen[str]
) -> None:
    source = f"maker/{repository.name}"
    assert load(loader, "maker/other").startswith("refused: maker/other: ")
    assert load(loader, source, "f" * 40).startswith(f"refused: {source}: ")
