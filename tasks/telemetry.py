"""Structured logs for every process: facts as fields. Never a prompt, a key or a picture.

Owns how lines are written, ours and those of libraries, and what may not be in one. What is worth a
line is said where it happens; `of` has what every line about a job says, and `within` lets lines
say it that know of no job.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from structlog.typing import EventDict, Processor, WrappedLogger

if TYPE_CHECKING:
    # Only then: who logs need not load the tables.
    from sqlalchemy import Row

    from tasks.tables import Job

_P = ParamSpec("_P")
_R = TypeVar("_R")

_BRIEF = 300
# Fields that are somebody's own, whatever is in them.
_PRIVATE = frozenset(
    {
        "prompt",
        "negative_prompt",
        "params",
        "image",
        "images",
        "picture",
        "body",
        "authorization",
        "api_key",
        "admin_key",
        "orchestrator_key",
        "password",
        "secret",
    }
)
_HIDDEN = "(not logged)"
# A key of ours up to its public id, which says whose it is; a webhook's secret; a password in a
# URL; and what the database adds to an error: the values of the row, a prompt among them.
_SIGNS = ("px_", "po_", "whsec_", "://", "DETAIL")  # One of them is in all that look like that.
_SECRETS = (
    (re.compile(r"\b(p[xo]_[A-Za-z0-9]+_|whsec_)[A-Za-z0-9_+/=-]+"), r"\1***"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
    (re.compile(r"^(\s*DETAIL: ).*$", re.MULTILINE), rf"\1 {_HIDDEN}"),
)


def configure(level: int = logging.INFO) -> None:
    """Write log lines to standard error: coloured on a terminal, JSON otherwise.

    What libraries log is written alike, from warnings on.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _of_one,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render = _renderer()
    last: list[Processor] = [structlog.processors.format_exc_info, keep_private, render]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))


def adopt(name: str) -> None:
    """Let a library that writes its log by itself write it as all others do."""
    theirs = logging.getLogger(name)
    theirs.handlers = []
    theirs.propagate = True


def _renderer() -> Processor:
    if sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer(default=str)


def _of_one(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let a line about one job of a batch name that one only."""
    if "job_id" in event:
        event.pop("jobs", None)
    return event


def keep_private(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take out of a line what is somebody's own, should it ever have got there."""
    return {name: _HIDDEN if name in _PRIVATE else _kept(value) for name, value in event.items()}


def _kept(value: object) -> object:
    """Return a value without what looks like a secret, however deep in it that is."""
    if isinstance(value, str):
        if any(sign in value for sign in _SIGNS):
            for secret, shown in _SECRETS:
                value = secret.sub(shown, value)
        return value
    if isinstance(value, Mapping):
        return {name: _HIDDEN if name in _PRIVATE else _kept(one) for name, one in value.items()}
    return [_kept(one) for one in value] if isinstance(value, list | tuple) else value


def of(job: Job | Row[Any]) -> Mapping[str, object]:
    """Return what every line about a job says: which it is, whose, and which attempt at it.

    A row of a query that has these is as good as the job itself.
    """
    return {"job_id": str(job.id), "gateway_id": str(job.gateway_id), "attempt": job.attempt}


def within(jobs: Sequence[Job], do: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Return what a call returns; each line of this thread meanwhile says which jobs it is for.

    So do those of libraries. Threads that it starts are not this one.
    """
    about = [of(job) for job in jobs]
    facts = about[0] if len(about) == 1 else {"jobs": about}
    with structlog.contextvars.bound_contextvars(**facts):
        return do(*args, **kwargs)


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return a logger; may be called at import, before `configure`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def brief(error: BaseException) -> str:
    """Return an error's kind and first line.

    What SQLAlchemy adds to a database's error, and the database to its first line, are the values
    of the row; prompts are among them.
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0][:_BRIEF]}"
