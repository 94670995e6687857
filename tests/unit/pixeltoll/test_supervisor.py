"""What the supervisor promises about its children, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pixeltoll import supervisor as module
from pixeltoll.errors import StartFailed
from pixeltoll.settings import child_environment
from pixeltoll.supervisor import Child, Supervisor


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Supervisor]:
    """One that waits a tenth as long as it does elsewhere before it restarts a child."""
    waits = tuple(wait / 10 for wait in module._BACKOFF_S)
    monkeypatch.setattr(module, "_BACKOFF_S", waits)
    supervisor = Supervisor(tmp_path / "logs", said.append)
    yield supervisor
    supervisor.stop()


def shell(name: str, script: str, **options: Any) -> Child:
    options.setdefault("ready", lambda: True)
    return Child(name, ("/bin/sh", "-c", script), child_environment(), **options)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_start_returns_when_the_child_is_ready(supervisor: Supervisor, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    supervisor.start(shell("one", f"sleep 0.2; touch {mark}; sleep 60", ready=mark.exists))

    assert mark.exists()
    assert is_alive(supervisor.pids["one"])


def test_a_probe_that_cannot_connect_means_not_yet(supervisor: Supervisor) -> None:
    refusals = [ConnectionRefusedError(), TimeoutError()]

    def ready() -> bool:
        if refusals:
            raise refusals.pop()
        return True

    supervisor.start(shell("one", "sleep 60", ready=ready))

    assert refusals == []


def test_a_child_that_exits_while_starting_is_reported_with_its_last_words(
    supervisor: Supervisor,
) -> None:
    with pytest.raises(StartFailed, match="exit status 3") as caught:
        supervisor.start(shell("one", "echo no such folder >&2; exit 3", ready=lambda: False))

    assert "no such folder" in str(caught.value)
    assert str(caught.value.log) in str(caught.value)


def test_a_child_that_never_gets_ready_is_reported(supervisor: Supervisor) -> None:
    child = shell("one", "sleep 60", ready=lambda: False, start_timeout_s=0.3)

    with pytest.raises(StartFailed, match=r"not ready after 0\.3 s"):
        supervisor.start(child)


def test_stop_ends_the_children_in_reverse_order(supervisor: Supervisor, tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    for name in ("one", "two", "three"):
        mark = tmp_path / name
        script = (
            f"trap 'echo {name} >> {ends}; exit 0' TERM; touch {mark}; while :; do sleep 0.05; done"
        )
        supervisor.start(shell(name, script, ready=mark.exists))
    pids = list(supervisor.pids.values())

    supervisor.stop()

    assert ends.read_text().split() == ["three", "two", "one"]
    assert not any(map(is_alive, pids))
    assert supervisor.pids == {}


def test_a_child_that_ignores_the_request_is_killed_after_its_grace(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    script = f"trap '' TERM; touch {mark}; while :; do sleep 0.05; done"
    supervisor.start(shell("stubborn", script, ready=mark.exists, grace_s=0.2))
    pid = supervisor.pids["stubborn"]

    supervisor.stop()

    assert not is_alive(pid)
    assert said == ["stubborn did not stop within 0.2 s: killed."]


def test_what_a_child_started_is_gone_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    grandchild = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {grandchild}.new; mv {grandchild}.new {grandchild}; wait"
    supervisor.start(shell("one", script, ready=grandchild.exists))
    pid = int(grandchild.read_text())
    assert is_alive(pid)

    supervisor.stop()

    wait_until(lambda: not is_alive(pid))


def test_a_crashed_child_is_restarted_with_one_line_about_it(
    supervisor: Supervisor, said: list[str]
) -> None:
    supervisor.start(shell("one", "sleep 60"))
    first = supervisor.pids["one"]
    assert supervisor.tend() is False

    os.kill(first, signal.SIGKILL)
    wait_until(supervisor.tend)

    assert supervisor.pids["one"] != first
    assert is_alive(supervisor.pids["one"])
    (line,) = said
    assert "one" in line
    assert str(first) in line
    assert "SIGKILL" in line
    assert "Restarting it in 0.1 s" in line


def test_each_crash_in_a_row_waits_longer(supervisor: Supervisor, said: list[str]) -> None:
    supervisor.start(shell("one", "sleep 60"))

    for _ in range(2):
        os.kill(supervisor.pids["one"], signal.SIGKILL)
        wait_until(supervisor.tend)

    assert "Restarting it in 0.1 s" in said[0]
    assert "Restarting it in 0.2 s" in said[1]


def test_secrets_reach_a_child_by_its_stdin_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    script = f"cat > {copy}.new; mv {copy}.new {copy}; sleep 60"

    supervisor.start(shell("one", script, stdin=b"password\n", ready=copy.exists))

    assert copy.read_bytes() == b"password\n"
    command = Path(f"/proc/{supervisor.pids['one']}/cmdline").read_bytes()
    assert b"password" not in command


def test_output_goes_to_a_private_log(supervisor: Supervisor) -> None:
    log = supervisor.log_path("one")

    supervisor.start(shell("one", "echo hello; sleep 60", ready=lambda: log.stat().st_size > 0))

    assert log.read_text() == "hello\n"
    assert log.parent.stat().st_mode & 0o077 == 0


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from pixeltoll.settings import child_environment
from pixeltoll.supervisor import Child, Supervisor
supervisor = Supervisor(Path({str(tmp_path)!r}), print)
supervisor.start(Child("one", ("/bin/sleep", "60"), child_environment(), ready=lambda: True))
print(supervisor.pids["one"], flush=True)
time.sleep(60)
"""
    with subprocess.Popen((sys.executable, "-c", program), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_alive(child)

        process.kill()
        process.wait()

        wait_until(lambda: not is_alive(child))
