"""Runs a page's console commands as somebody does who types them, in one shell.

The commands of `pixeltoll` run in this process, which has imported what they need: the shell hands
them over and gets back what they say. Everything else is what it is.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

from pixeltoll.settings import child_environment
from tests.integration.pixeltoll.helpers import Operator

VENV = ".venv"
# What a page exports for commands of ours.
_TOLD = ("DATABASE_URL", "PIXELTOLL_SERVICE_DATABASE_URL")
_HAND_OVER = """\
set -euo pipefail
pixeltoll() {
    printf '%s\\0' "$@" | curl -sS --fail-with-body --data-binary @- \\
        -H "DATABASE_URL: ${DATABASE_URL:-}" \\
        -H "PIXELTOLL_SERVICE_DATABASE_URL: ${PIXELTOLL_SERVICE_DATABASE_URL:-}" OPERATOR
}
"""


def commands(page: str) -> list[str]:
    """Return the lines that a page tells its reader to type."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    lines = (line.strip() for block in blocks for line in block.splitlines())
    return [line[2:] for line in lines if line.startswith("$ ")]


def recipe(line: str) -> list[str]:
    """Return the command of ours that a page's `make` line runs once everything is installed.

    It is run by this Python, in place of the one that the installation makes.
    """
    program, target = shlex.split(line)
    assert program == "make"
    said = subprocess.run(
        (
            *("/usr/bin/env", "make", "--no-print-directory", "--dry-run"),
            *("--assume-old", f"{VENV}/.ready", target),
        ),
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    [command] = said.stdout.splitlines()
    installed, *arguments = shlex.split(command)
    assert installed == f"{VENV}/bin/pixeltoll"
    return [sys.executable, "-m", "pixeltoll", *arguments]


def run(typed: list[str], folder: Path, **environment: str) -> list[str]:
    """Run commands in a folder, one after the other; return what each said.

    A command that fails ends the shell, and this.
    """
    mark = "---- next ----"
    with _operator() as address:
        lines = [line for command in typed for line in (command, f"echo {shlex.quote(mark)}")]
        script = _HAND_OVER.replace("OPERATOR", address) + "\n".join(lines)
        done = subprocess.run(
            ("/bin/bash", "-c", script),
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=child_environment(**environment),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(f"{mark}\n")[:-1]


@contextmanager
def _operator() -> Iterator[str]:
    """Answer the shell: each request is a command."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            told = {name: self.headers[name] or "" for name in _TOLD}
            try:
                with mock.patch.dict("os.environ", told):
                    status, said = 200, Operator().run(*body.removesuffix("\0").split("\0"))
            except BaseException as error:  # noqa: BLE001  whatever it is, the shell shows it
                status, said = 500, f"{error}\n"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
