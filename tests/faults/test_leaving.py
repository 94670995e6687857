"""Processes that are told to leave, one by one and all of them: work goes on, once and for one."""

from __future__ import annotations

import itertools
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from api import auth
from pixeltoll.embedded import free_port
from tests.faults import roles
from tests.faults.conftest import House
from tests.integration.pixeltoll.helpers import Operator
from tests.processes import Process
from tests.stage import SMALL, TEXT, eventually

CLIENTS = 4
BODY = {"pipeline": TEXT, "model_id": SMALL, "prompt": "a cat", "num_images_per_prompt": 1}
OPEN = {"queued", "running"}


def test_a_batch_that_takes_too_long_is_handed_back(house: House) -> None:
    """At once, and without a loss to the job: it has as many attempts as before."""
    some = [house.stage.submit(str(number)) for number in range(2)]
    leaving = house.start_worker(step_s=1, PIXELTOLL_DRAIN_S="0.1")
    house.wait_for_step()
    leaving.signal(signal.SIGTERM)
    eventually(lambda: house.states() == {"queued": 2})
    house.start_worker(PIXELTOLL_MAX_ATTEMPTS="1")
    house.wait_until_done()
    assert leaving.wait() == 0
    assert house.stage.states(some) == ["succeeded"] * 2
    done = [house.stage.job(job.id) for job in some]
    assert [(job.attempt, job.handed_back, job.tries) for job in done] == [(2, 1, 1)] * 2
    assert not leaving.said("claim_gone"), "it knows why"
    house.assert_sound()


def test_a_worker_is_drained_from_outside_and_stays(house: House, operator: Operator) -> None:
    worker = house.start_worker(step_s=0.5)
    house.wait_until_idle(worker)
    job = house.stage.submit("a cat")
    with house.sweeping():
        house.wait_for_step()
        [row] = operator.rows("drain", "--all")
        assert (row["state"], row["running"]) == ("drained", 0)
        assert house.stage.states([job]) == ["succeeded"]
        after = house.stage.submit("later")
        eventually(lambda: worker.said("worker_drained"))
        assert worker.is_running()
        [row] = operator.rows("workers")
        assert row["state"] == "drained"
        assert house.stage.states([after]) == ["queued"]
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert operator.rows("drain", "--all") == []
        assert "no worker of that id" in operator.complaint("drain", row["id"])
    house.assert_sound()


class Clients:
    """Gateways' programs that submit jobs and wait for them, one after the other, all the time."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self.statuses: Counter[int] = Counter()
        self.done: list[str] = []

    def start(self) -> None:
        self._working = [self._pool.submit(self._work) for _ in range(CLIENTS)]

    def end(self) -> None:
        self._over.set()
        for one in self._working:
            one.result()
        self._pool.shutdown()
        self._client.close()

    def wait_for_more(self) -> None:
        """Wait until some jobs are done that were submitted from now on."""
        enough = len(self.done) + 2 * CLIENTS
        eventually(lambda: len(self.done) >= enough)

    def _work(self) -> None:
        while not self._over.is_set():
            key = {"Idempotency-Key": f"job-{next(self._numbers)}"}
            job = self._noted(self._client.post("/v1/jobs", json=BODY, headers=key))
            while job["state"] in OPEN:
                job = self._noted(self._client.get(f"/v1/jobs/{job['id']}?wait=30"))
            assert job["state"] == "succeeded"
            self.done.append(job["id"])

    def _noted(self, answer: httpx.Response) -> dict[str, str]:
        self.statuses[answer.status_code] += 1
        facts: dict[str, str] = answer.json()
        return facts


def children(process: Process) -> set[str]:
    return set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())


def replaced(house: House, old: Process, start: Callable[[], Process]) -> Process:
    """Start a process, and end the one whose place it takes."""
    new = start()
    eventually(lambda: new.said("worker_listens") or new.said("scheduler_starts"))
    old.signal(signal.SIGTERM)
    assert old.wait() == 0
    return new


def test_a_rolling_restart_of_everything_under_load(house: House) -> None:
    port = free_port()
    with house.stage.sessions.begin() as session:
        _, key = auth.create_key(session, house.stage.gateway_id, "clients")
    api = house.start(roles.api, port)
    worker = house.start_worker(step_s=0.01)
    scheduler = house.start(roles.sweeper)
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: answers(url))
    clients = Clients(url, key)
    clients.start()
    clients.wait_for_more()

    before = children(api)
    api.signal(signal.SIGHUP)
    eventually(lambda: children(api) and not children(api) & before)
    clients.wait_for_more()
    worker = replaced(house, worker, lambda: house.start_worker(step_s=0.01))
    clients.wait_for_more()
    scheduler = replaced(house, scheduler, lambda: house.start(roles.sweeper))
    clients.wait_for_more()
    clients.end()

    assert set(clients.statuses) == {200, 202}
    jobs = len(clients.done)
    assert jobs == len(set(clients.done)) == clients.statuses[202]
    assert house.states() == {"succeeded": jobs}
    assert house.stage.scalar("SELECT count(*) FROM charges") == jobs
    # A client that had to wait for a lease to end would have waited much longer than the others.
    assert house.count("attempt > 1") == house.count("handed_back > 0") == 0
    for process in (worker, scheduler):
        process.signal(signal.SIGTERM)
    assert [process.wait() for process in (worker, scheduler)] == [0, 0]
    house.assert_sound()
    assert_answered_when_it_leaves(house, api, url, key)


def assert_answered_when_it_leaves(house: House, api: Process, url: str, key: str) -> None:
    """Who waits for a job that will not end in time is told how it is, and not cut off."""
    looked = "SELECT max(query_start) FROM pg_stat_activity WHERE query LIKE 'SELECT jobs.state%'"
    job = house.stage.submit("nobody is there to draw it")
    before = house.stage.scalar(looked)
    headers = {"Authorization": f"Bearer {key}"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx.get, f"{url}/v1/jobs/{job.id}?wait=60", headers=headers, timeout=60
        )
        eventually(lambda: house.stage.scalar(looked) != before)
        api.signal(signal.SIGTERM)
        assert waiting.result().json()["state"] == "queued"
    assert api.wait() == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False
