"""What is logged of an error: enough to find it, and nothing of the rows it was about."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import structlog
from sqlalchemy.exc import IntegrityError

from tasks import telemetry
from tasks.errors import InferenceError
from tasks.tables import Job
from tasks.telemetry import brief

PROMPT = "a prompt that nobody may read"


def test_the_values_of_a_failed_statement_are_not_told() -> None:
    cause = ValueError(f"duplicate key value\nDETAIL:  Failing row contains ({PROMPT}).")
    error = IntegrityError("INSERT INTO jobs ...", {"prompt": PROMPT}, cause)
    assert PROMPT in str(error)
    assert brief(error) == "ValueError: duplicate key value"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InferenceError("not finite"), "InferenceError: not finite"),
        (TimeoutError(), "TimeoutError: "),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}"),
    ],
)
def test_an_error_is_its_kind_and_first_line(error: Exception, told: str) -> None:
    assert brief(error) == told


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the process writes from now on; how it logged before comes back afterwards."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    telemetry.configure()
    structlog.contextvars.clear_contextvars()  # An API that was tested before has left its own.
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level
    structlog.configure(**config)


Log = Callable[[], list[dict[str, Any]]]


def test_lines_are_json_where_nobody_reads_along(log: Log) -> None:
    structlog.get_logger().info("job_succeeded", job_id="1")

    [line] = log()
    assert (line["event"], line["level"], line["job_id"]) == ("job_succeeded", "info", "1")
    assert line["timestamp"].endswith("Z")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("log")
def test_a_line_on_a_terminal_is_for_people_and_has_no_values_of_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    telemetry.configure()

    def draw(prompt: str) -> None:
        structlog.get_logger().error("job_failed", job_id="1", exc_info=ValueError(len(prompt)))

    draw(PROMPT)

    said = terminal.getvalue()
    assert re.search(r"error.*job_failed.*job_id.*1", said)
    assert said.endswith(f"ValueError: {len(PROMPT)}\n")
    assert PROMPT not in said


def test_what_is_somebodys_own_is_taken_out(log: Log) -> None:
    structlog.get_logger().warning(
        "careless",
        prompt=PROMPT,
        images=[PROMPT],
        error=f"px_abc123_{'s' * 40} and postgresql://somebody:hunter2@db/x",
    )

    [line] = log()
    assert line["prompt"] == line["images"] == "(not logged)"
    assert line["error"] == "px_abc123_*** and postgresql://somebody:***@db/x"


def test_a_secret_is_found_however_deep_it_is(log: Log) -> None:
    rows = [{"who": "po_abc123_secret", "prompt": PROMPT}, ("whsec_c2VjcmV0cw==", 7)]
    structlog.get_logger().error("books_unsound", rows=rows)

    [line] = log()
    assert line["rows"] == [{"who": "po_abc123_***", "prompt": "(not logged)"}, ["whsec_***", 7]]


def test_the_values_of_a_row_are_not_in_a_traceback(log: Log) -> None:
    cause = ValueError(f"violates a rule\nDETAIL:  Failing row contains ({PROMPT}).\nCONTEXT: x")
    error = IntegrityError("INSERT INTO jobs ...", None, cause)
    structlog.get_logger().error("broken", error=str(error), exc_info=error)

    [line] = log()
    assert PROMPT not in str(line)
    assert "violates a rule\nDETAIL:  (not logged)\nCONTEXT: x" in line["exception"]


def test_libraries_log_alike_and_only_what_matters(log: Log) -> None:
    theirs = logging.getLogger("a.library")
    theirs.info("started")
    theirs.warning("redis://:hunter2@redis:6379 went away")

    [line] = log()
    assert line["event"] == "redis://:***@redis:6379 went away"
    assert (line["level"], line["logger"]) == ("warning", "a.library")


def test_a_warning_is_a_line(log: Log) -> None:
    warnings.showwarning("two\nlines", UserWarning, "module.py", 1)

    [line] = log()
    assert "UserWarning: two\nlines" in line["event"]


def test_a_traceback_is_in_its_line_without_keys(log: Log) -> None:
    error = ValueError("po_abc_secretsecret")
    structlog.get_logger().error("broken", exc_info=error)

    [line] = log()
    assert "ValueError: po_abc_***" in line["exception"]


def test_what_is_bound_is_in_every_line(log: Log) -> None:
    with structlog.contextvars.bound_contextvars(gateway_id="7"):
        structlog.get_logger().info("one")
        logging.getLogger("a.library").error("two")

    assert [line["gateway_id"] for line in log()] == ["7", "7"]


def test_whoever_logs_within_a_batch_says_which_jobs_it_is_for(log: Log) -> None:
    first, second = (
        Job(id=UUID(int=number), gateway_id=UUID(int=7), attempt=1, params={"prompt": PROMPT})
        for number in (1, 2)
    )
    warn = logging.getLogger("a.library").warning
    settled = structlog.get_logger().info

    telemetry.within([first], warn, "one")
    telemetry.within([first, second], warn, "both")
    telemetry.within([first, second], settled, "settled", **telemetry.of(second))
    warn("none")

    ids = {"gateway_id": str(UUID(int=7)), "attempt": 1}
    about = [{"job_id": str(job.id), **ids} for job in (first, second)]
    assert [facts(line) for line in log()] == [about[0], {"jobs": about}, about[1], {}]


def facts(line: dict[str, Any]) -> dict[str, Any]:
    """What a line says of jobs."""
    return {
        name: line[name] for name in ("job_id", "gateway_id", "attempt", "jobs") if name in line
    }
