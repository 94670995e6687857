"""Progress bars: on a terminal, on standard error, and never for a program that asks for JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from pixeltoll import console, demo

JOB = {"pipeline": "text-to-image", "state": "queued", "progress": 0.0}
DONE = {**JOB, "state": "succeeded", "progress": 1.0}


def errors(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    """Standard error as a terminal, or as a file, is."""
    written = io.StringIO()
    there = Console(file=written, force_terminal=terminal, width=120)
    monkeypatch.setattr(console, "_err", there)
    return written


@pytest.mark.parametrize(
    ("terminal", "as_json", "is_shown"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_a_bar_is_for_people_at_a_terminal(
    terminal: bool, as_json: bool, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = errors(monkeypatch, terminal=terminal)

    with console.counted("checking", as_json=as_json) as move:
        move(1, 2)

    assert ("checking" in written.getvalue() and "50%" in written.getvalue()) is is_shown
    assert bool(written.getvalue()) is is_shown


class Follower:
    """A client and a stack of which the demo sees one job come to its end."""

    def watch(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from (job, DONE)

    def tend(self) -> None:
        """Nothing has crashed."""


@pytest.mark.parametrize("terminal", [True, False])
def test_the_demo_shows_how_far_a_job_is_beside_what_it_prints(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = errors(monkeypatch, terminal=terminal)
    around: Any = Follower()

    assert demo._finish(around, around, JOB) == DONE

    shown = written.getvalue()
    assert ("text-to-image   succeeded" in shown and "100%" in shown) is terminal
    assert capsys.readouterr().out == ""
