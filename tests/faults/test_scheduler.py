"""The scheduler killed and started again, and several of them: nothing is lost, nothing doubled."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from pixeltoll.embedded import free_port
from pixeltoll.health import answer
from tasks import webhooks
from tasks.places import Rules
from tests.faults import roles
from tests.faults.conftest import House
from tests.stage import eventually
from tests.web import Web, serving

# All but the audit, which takes as long as there are books, and has an alert.
WATCHED = {"sweep", "tidy", "refresh_rates", "take_snapshots", "forget"} | {
    f"deliver-{number}" for number in range(1, 9)
}


@pytest.fixture
def web() -> Iterator[Web]:
    """A gateway's own server, which takes every message."""
    with serving(lambda handler, _: handler.give(204)) as found:
        yield found


def test_a_scheduler_that_was_killed_goes_on_where_it_was(house: House, web: Web) -> None:
    house.env["PIXELTOLL_LINK_HOSTS"] = f"127.0.0.1:{web.port}"
    with house.stage.sessions.begin() as session:
        trusted = Rules(trusted=frozenset({f"127.0.0.1:{web.port}"}))
        webhooks.create(session, house.stage.gateway_id, web.url(), (), trusted)
    scheduler = house.start(roles.sweeper)
    worker = house.start_worker(step_s=0.3)
    house.wait_until_idle(worker)
    some = [house.stage.submit(f"cat {number}") for number in range(3)]
    house.wait_for_step()
    scheduler.kill()
    worker.kill()
    overdue = house.stage.submit("overdue", deadline_s=0.0)
    assert house.states() == {"running": 3, "queued": 1}
    # Two at once, from now on.
    schedulers = [
        house.start(roles.sweeper, PIXELTOLL_AUDIT_INTERVAL_S="0.1"),
        house.start(roles.sweeper, PIXELTOLL_METRICS_PORT=str(port := free_port())),
    ]
    eventually(lambda: house.count("state = 'queued'") == 3)
    house.start_worker()
    house.wait_until_done()
    assert house.stage.states([*some, overdue]) == [*["succeeded"] * 3, "expired"]
    # Of every end, one of them tells.
    eventually(lambda: len(web.visits) == 4)
    ends = [(visit.headers["webhook-id"], json.loads(visit.body)["type"]) for visit in web.visits]
    told = [(f"msg_{job.id.hex}", "job.succeeded") for job in some]
    assert sorted(ends) == sorted([*told, (f"msg_{overdue.id.hex}", "job.expired")])
    # While they sweep, the books are audited as well.
    eventually(lambda: schedulers[0].said("books_audited"))
    is_well, said = answer(f"http://127.0.0.1:{port}/healthz")
    assert is_well
    assert json.loads(said)["still_s"].keys() == WATCHED
    for running in schedulers:
        running.signal(signal.SIGTERM)
    assert [running.wait() for running in schedulers] == [0, 0]
    house.assert_sound()
