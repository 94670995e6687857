"""The watchdog ends a process whose loop is stuck, and only such a one."""

from __future__ import annotations

import subprocess
import sys

from tasks.exits import STALLED

_LOOP = """
import time
from tasks.watchdog import Watchdog
dog = Watchdog("loop", 0.5)
dog.start()
for _ in range({pats}):
    time.sleep(0.05)
    dog.pat()
{then}
"""


def outcome(pats: int, then: str) -> subprocess.CompletedProcess[str]:
    code = _LOOP.format(pats=pats, then=then)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_stuck_loop_ends_its_process() -> None:
    ended = outcome(pats=0, then="time.sleep(20)")
    assert ended.returncode == STALLED
    assert "loop_stuck" in ended.stdout + ended.stderr


def test_a_loop_that_comes_round_is_left_alone_and_once_it_has_ended_watched_no_more() -> None:
    assert outcome(pats=20, then="dog.stop(); time.sleep(1)").returncode == 0
