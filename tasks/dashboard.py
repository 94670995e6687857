"""Flower, with our queues: what `pixeltoll flower` runs. It shows, and can change nothing.

A row of Flower is a bell, not a job: it shows the job's id and its model, never its prompt, because
nothing else is in the message. How jobs stand is the database's word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ledger import offers
from tasks import routing, telemetry
from tasks.app import make_celery
from tasks.settings import TaskSettings

_log = telemetry.get_logger()
_COLUMNS = "name,args,kwargs,state,received,runtime,worker"
_MAX_TASKS = 10_000
_SAVE_MS = 10_000


def run(
    settings: TaskSettings, sessions: sessionmaker[Session], *, host: str, port: int, state: Path
) -> None:
    """Serve Flower until told to stop. Who may look is in FLOWER_BASIC_AUTH, which it reads."""
    telemetry.configure()
    app = make_celery(settings)
    _name_queues(lambda: offered(sessions), app.conf.task_default_queue)
    arguments = (
        *(f"--address={host}", f"--port={port}", "--read_only=True"),
        *("--persistent=True", f"--db={state}", f"--state_save_interval={_SAVE_MS}"),
        *(f"--max_tasks={_MAX_TASKS}", f"--tasks_columns={_COLUMNS}"),
    )
    app.start(["flower", *arguments])


def offered(sessions: sessionmaker[Session]) -> set[str]:
    """Return the queues of all live offers, whether a worker serves them or not."""
    with sessions.begin() as session:
        return {
            routing.queue_name(offer.capability, offer.orchestrator)
            for offer in offers.live(session)
        }


def _name_queues(known: Callable[[], Iterable[str]], default: str) -> None:
    """Let Flower show the length of every queue that there is.

    By itself it shows those that workers answer with when they are asked, and ours, which run their
    batches in the thread that would answer, do not answer while they work.
    """
    from flower.views import BaseHandler

    heard_of = BaseHandler.get_active_queue_names

    def names(handler: BaseHandler) -> list[str]:
        # With no worker heard of, Flower names Celery's default queue, which we do not use.
        found = set(heard_of(handler)) - {default}
        try:
            found.update(known())
        except SQLAlchemyError as error:
            _log.warning("queues_unknown", error=telemetry.brief(error))
        return sorted(found)

    BaseHandler.get_active_queue_names = names
