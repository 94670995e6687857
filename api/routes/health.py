"""/healthz and /readyz: is this process alive, and does what it stands on answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from flask import Blueprint, Response
from sqlalchemy import text

from api import render
from api.openapi import Answer, Operation, operation
from api.runtime import Runtime, current
from api.schemas import HealthView, ReadyView

bp = Blueprint("health", __name__)

_TIMEOUT_S = 3.0
_OK = "ok"


@bp.get("/healthz")
@operation(
    Operation(
        tag="health",
        security="none",
        answers=[Answer(200, "This process answers", HealthView)],
    )
)
def health() -> Response:
    """Say that this process is alive. It asks nobody else."""
    return render.answer(HealthView(status="ok"))


@bp.get("/readyz")
@operation(
    Operation(
        tag="health",
        security="none",
        answers=[
            Answer(200, "All three answer", ReadyView),
            Answer(503, "One of them does not", ReadyView),
        ],
    )
)
def ready() -> Response:
    """Say whether the database, the broker and the object store answer."""
    runtime = current()
    found = _all(
        {
            "database": lambda: _ping_database(runtime),
            "broker": runtime.ping_broker,
            "storage": runtime.store.ping,
        }
    )
    fine = all(said == _OK for said in found.values())
    view = ReadyView.model_validate({"status": "ready" if fine else "unavailable", **found})
    return render.answer(view, 200 if fine else 503)


def _ping_database(runtime: Runtime) -> None:
    with runtime.reads() as session:
        session.execute(text("SELECT 1"))


def _all(checks: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """Run the checks at the same time; one that hangs is left behind and counts as failed."""
    found = dict.fromkeys(checks, f"no answer within {_TIMEOUT_S:g} s")

    def run(name: str, check: Callable[[], object]) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001  whatever it is, the part is not ready
            # Its kind only: messages carry addresses and names of users.
            found[name] = type(error).__name__
        else:
            found[name] = _OK

    threads = [
        threading.Thread(target=run, args=item, name=f"check-{item[0]}", daemon=True)
        for item in checks.items()
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + _TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(found)
