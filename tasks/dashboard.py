"""Flower, with our queues: what `pixeltoll flower` runs. It shows, and can change nothing.

A row of Flower is a bell, not a job: it shows the job's id and its model, never its prompt, because
nothing else is in the message. How jobs stand is the database's word. That it goes on hearing of
bells, and does not only answer, is what its health check says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.events import EventReceiver
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ledger import offers
from tasks import routing, telemetry
from tasks.app import make_celery
from tasks.probe import Pulse
from tasks.settings import TaskSettings

if TYPE_CHECKING:
    from tornado.web import RequestHandler

_log = telemetry.get_logger()
_COLUMNS = "name,args,kwargs,state,received,runtime,worker"
_MAX_TASKS = 10_000
_SAVE_MS = 10_000
# An event of our own, which says nothing: without workers, there would be none to hear.
_EVENT = "flower-pulse"
_EVENT_S = 5.0
# As long as a worker may miss its heartbeats.
_UNHEARD_S = 30.0


def run(
    settings: TaskSettings, sessions: sessionmaker[Session], *, host: str, port: int, state: Path
) -> None:
    """Serve Flower until told to stop. Who may look is in FLOWER_BASIC_AUTH, which it reads."""
    telemetry.configure()
    app = make_celery(settings)
    pulse = Pulse(_UNHEARD_S)
    _listen(pulse)
    threading.Thread(target=_send_for_good, args=(app,), name="pulse", daemon=True).start()
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


def _listen(pulse: Pulse) -> None:
    """Let Flower's health check say whether events still come, from the broker and through it."""
    from flower import events
    from flower.views.monitor import Healthcheck

    events.EventReceiver = hearing(pulse)

    async def get(handler: RequestHandler) -> None:
        say_health(handler, pulse)

    Healthcheck.get = get


def hearing(pulse: Pulse) -> type[EventReceiver]:
    """Return a receiver of events for which every one is a beat. Ours go no further."""

    class Receiver(EventReceiver):
        def process(self, type: str, event: dict[str, Any]) -> None:  # noqa: A002  Celery's
            pulse.beat()
            if type != _EVENT:
                super().process(type, event)

    return Receiver


def say_health(handler: RequestHandler, pulse: Pulse) -> None:
    """Answer `OK`, or 503 and for how long no event has come."""
    if pulse.is_healthy:
        handler.write("OK")
        return
    handler.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
    handler.write(f"No event has come through the broker for {pulse.still_s:.0f} s.")


def send_event(app: Celery) -> None:
    """Send every receiver of events one of our own.

    Raises:
        kombu.exceptions.OperationalError: The broker cannot be reached.
    """
    with app.events.default_dispatcher(buffer_while_offline=False) as dispatcher:
        dispatcher.send(_EVENT)


def _send_for_good(app: Celery) -> None:
    while True:
        try:
            send_event(app)
        except Exception as error:  # noqa: BLE001  whatever the broker does, there is a next time
            _log.warning("broker_unreachable", error=telemetry.brief(error))
        time.sleep(_EVENT_S)
