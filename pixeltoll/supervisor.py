"""Child processes: started in order, watched, restarted after a crash, stopped in reverse order.

What the children are is none of its business: `pixeltoll.embedded` and `pixeltoll.stack` say that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pixeltoll.errors import StartFailed

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
# A child that ran this long was healthy: its next crash is a first one again.
_HEALTHY_AFTER_S = 60.0
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Account:
    """The system user that a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Child:
    """How to run one process, and how to tell that it is ready.

    `env` is its whole environment. `ready` is asked again and again until it says True; what it
    raises as OSError means "not yet". `stdin` is written once and closed, for secrets that must not
    be seen in the process list.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    stdin: bytes = b""
    account: Account | None = None
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()
    start_timeout_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    # Sent by the kernel if the supervisor itself is killed and can stop nothing any more.
    orphan_signal: signal.Signals = signal.SIGKILL
    grace_s: float = 10.0


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    started: float
    crashes: int = 0
    restart_at: float | None = None


class Supervisor:
    """Owns the children. Every method belongs to one thread, which must live as long as they do.

    (The kernel ties a child's orphan signal to the thread that started it.)
    """

    def __init__(self, log_dir: Path, say: Callable[[str], None]) -> None:
        self._log_dir = log_dir
        self._say = say
        self._running: list[_Running] = []
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the children, by name."""
        return {running.child.name: running.process.pid for running in self._running}

    def log_path(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def start(self, *children: Child) -> None:
        """Start children together and wait until all of them are ready.

        Raises:
            StartFailed: One exited, or was not ready in its time.
        """
        for child in children:
            self._running.append(_Running(child, self._spawn(child), time.monotonic()))
        for running in self._running[-len(children) :]:
            self._await_ready(running)

    def _await_ready(self, running: _Running) -> None:
        child = running.child
        while not _is_ready(child):
            if running.process.poll() is not None:
                reason = _how_it_ended(running.process.returncode)
            elif time.monotonic() - running.started > child.start_timeout_s:
                reason = f"not ready after {child.start_timeout_s:g} s"
            else:
                time.sleep(_POLL_S)
                continue
            raise StartFailed(child.name, reason, self.log_path(child.name))

    def tend(self) -> bool:
        """Look once at every child; restart what crashed and has waited long enough.

        Returns:
            Whether a child was restarted, so that its process id is another one now.
        """
        restarted = False
        now = time.monotonic()
        for running in self._running:
            if running.process.poll() is None:
                continue
            if running.restart_at is None:
                self._note_crash(running, now)
            elif now >= running.restart_at:
                running.process = self._spawn(running.child)
                running.started = now
                running.restart_at = None
                restarted = True
        return restarted

    def stop(self) -> None:
        """Stop all children, the last one started first; kill those that outstay their grace."""
        while self._running:
            running = self._running.pop()
            process, child = running.process, running.child
            if process.poll() is None:
                process.send_signal(child.stop_signal)
                try:
                    process.wait(child.grace_s)
                except subprocess.TimeoutExpired:
                    self._say(f"{child.name} did not stop within {child.grace_s:g} s: killed.")
            _kill_group(process)
            process.wait()

    def _note_crash(self, running: _Running, now: float) -> None:
        if now - running.started > _HEALTHY_AFTER_S:
            running.crashes = 0
        delay = _BACKOFF_S[min(running.crashes, len(_BACKOFF_S) - 1)]
        running.crashes += 1
        running.restart_at = now + delay
        # What the crashed process left behind would hold on to its port and its files.
        _kill_group(running.process)
        name = running.child.name
        self._say(
            f"{name} (process {running.process.pid}) ended unexpectedly: "
            f"{_how_it_ended(running.process.returncode)}. "
            f"Restarting it in {delay:g} s. Log: {self.log_path(name)}"
        )

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        account = child.account
        with self.log_path(child.name).open("ab") as log:
            process = subprocess.Popen(
                child.argv,
                env=dict(child.env),
                cwd=child.cwd,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which
                # then stops the children in their order.
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=() if account else None,
                pass_fds=child.pass_fds,
                preexec_fn=_tied_to(os.getpid(), child.orphan_signal),  # noqa: PLW1509  no threads
            )
        if process.stdin is not None:
            # A child that died already is noticed by whoever waits for it.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(child.stdin)
                process.stdin.close()
        return process


def _tied_to(parent: int, orphan_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what a new child does so that it does not outlive its supervisor (Linux only)."""
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        # The supervisor may have been killed before the line above; then nobody will send a signal.
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _is_ready(child: Child) -> bool:
    try:
        return child.ready()
    except OSError:
        return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"
