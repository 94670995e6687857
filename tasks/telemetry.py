"""Structured logs for every process: facts as fields. Never a prompt, a key or a picture."""

from __future__ import annotations

import logging
import sys

import structlog
from sqlalchemy.exc import DBAPIError

_BRIEF = 300


def configure(level: int = logging.INFO) -> None:
    """Write log lines to standard error: coloured on a terminal, JSON otherwise."""
    render = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


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
