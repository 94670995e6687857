"""Our own processes as children: the API, the scheduler, a worker, Flower; when each is ready."""

from __future__ import annotations

import contextlib
import http.client
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from pixeltoll.supervisor import Child
from tasks.settings import TaskSettings
from tasks.tables import Worker

# What a process is given beyond PIXELTOLL_DRAIN_S before it is killed.
_MARGIN_S = 5.0
# A few more than PIXELTOLL_MAX_WAITING: waiting requests leave room for those that work.
THREADS = 544
LOOPBACK = "127.0.0.1"


def gunicorn(bind: str, *, workers: int, threads: int) -> tuple[str, ...]:
    """Return the command that serves the API. SIGHUP starts its processes anew, one by one.

    Threads, because a request that waits for its job to end holds one and does nothing with it:
    some tens of kilobytes, and no CPU.
    """
    drain_s = math.ceil(TaskSettings().drain_s)
    return (
        *(sys.executable, "-m", "gunicorn", "api.wsgi:app", "--bind", bind),
        *("--worker-class", "gthread", "--workers", str(workers), "--threads", str(threads)),
        *("--keep-alive", "75", "--graceful-timeout", str(drain_s), "--no-control-socket"),
        *("--config", "python:api.hooks"),
    )


def api(env: Mapping[str, str], cwd: Path, socket_fd: int, port: int) -> Child:
    """The API on a socket that is already bound.

    The supervisor keeps the socket, so that while the API is restarted its clients wait instead of
    being refused.
    """
    return Child(
        name="api",
        argv=gunicorn(f"fd://{socket_fd}", workers=2, threads=THREADS),
        env=env,
        ready=lambda: _is_healthy(port),
        cwd=cwd,
        pass_fds=(socket_fd,),
        grace_s=_grace_s(),
    )


def scheduler(env: Mapping[str, str], cwd: Path) -> Child:
    """The sweeper, which is ready as soon as it runs."""
    return Child(
        "scheduler",
        command("scheduler"),
        env,
        ready=lambda: True,
        cwd=cwd,
        grace_s=_grace_s(),
    )


def worker(env: Mapping[str, str], cwd: Path, sessions: sessionmaker[Session]) -> Child:
    """A worker, for the orchestrator whose key it has; ready when its first heartbeat is heard."""
    with sessions.begin() as session:
        asked_at = session.scalars(select(func.now())).one()

    def has_a_heartbeat() -> bool:
        try:
            with sessions.begin() as session:
                found = session.scalar(select(Worker.id).where(Worker.heartbeat_at > asked_at))
        except SQLAlchemyError:
            return False
        return found is not None

    return Child(
        name="worker",
        argv=command("worker"),
        env=env,
        ready=has_a_heartbeat,
        cwd=cwd,
        # Importing torch takes long on a busy machine.
        start_timeout_s=180.0,
        grace_s=_grace_s(),
    )


def flower(env: Mapping[str, str], cwd: Path, port: int) -> Child:
    """Flower on the loopback; its password is in the environment and it can change nothing."""
    return Child(
        name="flower",
        argv=command("flower", "--port", str(port)),
        env=env,
        ready=lambda: _answers(port, "/healthcheck"),
        cwd=cwd,
    )


def command(*arguments: str) -> tuple[str, ...]:
    """Return the arguments that run a command of ours with this Python."""
    return (sys.executable, "-m", "pixeltoll", *arguments)


def _grace_s() -> float:
    return TaskSettings().drain_s + _MARGIN_S


def _is_healthy(port: int) -> bool:
    return _answers(port, "/healthz")


def _answers(port: int, path: str) -> bool:
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=2)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except http.client.HTTPException:
            return False
