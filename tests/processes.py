"""Real processes that a test may kill, stop and start again: a broker, and others of ours."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import redis

from pixeltoll import embedded
from tests.stage import eventually

Env: TypeAlias = Mapping[str, str]


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


# Processes are forked from one that has imported everything and done nothing: starting Python and
# Celery anew for each would take most of the tests' time.
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.faults.roles", "tasks.scheduler", "tasks.worker"])


class Process:
    """A process of ours, with an environment of its own and its output in a file."""

    def __init__(self, role: Callable[..., None], *args: object, env: Env, log: Path) -> None:
        self.log = log
        self._process = _FORKING.Process(target=_play, args=(role, args, env, log), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self, within_s: float = 30) -> int:
        """Wait for the end, and return the exit status."""
        self._process.join(within_s)
        assert self._process.exitcode is not None, f"still there after {within_s} s"
        return self._process.exitcode

    def is_running(self) -> bool:
        return self._process.is_alive()

    def said(self, text: str) -> bool:
        return text in self.log.read_text("utf-8", errors="replace")


def _play(role: Callable[..., None], args: tuple[object, ...], env: Env, log: Path) -> None:
    os.setsid()
    os.environ.update(env)
    with log.open("ab", buffering=0) as out:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(out.fileno(), stream.fileno())
    role(*args)
