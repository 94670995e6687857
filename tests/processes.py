"""Real processes that a test may kill, stop and start again: a broker, and others of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import redis

from pixeltoll import embedded
from tests.stage import eventually


class Broker:
    """A broker of the test's own, always on the same port."""

    def __init__(self, folder: Path) -> None:
        server = embedded.redis_server(folder, "secret")
        self.url = server.url
        self._child = server.child
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis.from_url(server.url, socket_timeout=5)

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._child.argv,
            env=dict(self._child.env),
            cwd=self._child.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._child.stdin)
        self._process.stdin.close()
        eventually(self._child.ready)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.client.close()
        self.kill()


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Run a broker in a folder, with a short path of its own."""
    running = Broker(folder)
    running.start()
    try:
        yield running
    finally:
        running.close()


class Process:
    """A process of ours, in a group of its own, with its output in a file."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                argv, env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self, within_s: float = 30) -> int:
        """Wait for the end, and return the exit status."""
        return self._process.wait(within_s)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def said(self, text: str) -> bool:
        return text in self.log.read_text("utf-8", errors="replace")
