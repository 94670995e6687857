"""Processes that are told to leave, one by one and all of them: work goes on, once and for one."""

from __future__ import annotations

import itertools
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from api import auth
from pixeltoll.embedded import free_port
from tests.faults import roles
from tests.faults.conftest import House
from tests.integration.pixeltoll.helpers import Operator
from tests.processes import Process
from tests.stage import SIDE, SMALL, TEXT, eventually

CLIENTS = 4
BODY = {"pipeline": TEXT, "model_id": SMALL, "prompt": "a cat", "num_images_per_prompt": 1}
# Short: the requests of this kind wait for their job, whichever process leaves meanwhile.
_SIZE = {"width": SIDE, "height": SIDE, "num_inference_steps": 4}
LIVEPEERS = {"model_id": SMALL, "prompt": "a dog", **_SIZE}
# A busy machine may stand still for longer than the leases of other tests last, and nothing here is
# to wait for the end of one.
PATIENT = {"PIXELTOLL_LEASE_S": "30"}
OPEN = {"queued", "running"}


def test_a_batch_that_takes_too_long_is_handed_back(house: House, operator: Operator) -> None:
    """At once, and without a loss to the job: it has as many attempts as before."""
    # For longer than it takes a worker to see, at a heartbeat, that it is drained.
    some = [house.stage.submit(str(number), num_inference_steps=150) for number in range(2)]
    drained = house.start_worker(step_s=0.2, **PATIENT, PIXELTOLL_DRAIN_S="0.1")
    house.wait_for_step()
    [row] = operator.rows("drain", "--all")
    assert (row["state"], house.states()) == ("drained", {"queued": 2})
    leaving = house.start_worker(step_s=0.2, **PATIENT, PIXELTOLL_DRAIN_S="0.1")
    house.wait_for_step()
    leaving.signal(signal.SIGTERM)
    eventually(lambda: house.states() == {"queued": 2})
    house.start_worker(PIXELTOLL_MAX_ATTEMPTS="1")
    house.wait_until_done()
    assert leaving.wait() == 0
    assert_ends(drained)
    assert house.stage.states(some) == ["succeeded"] * 2
    done = [house.stage.job(job.id) for job in some]
    assert [(job.attempt, job.handed_back, job.tries) for job in done] == [(3, 2, 1)] * 2
    for worker in (drained, leaving):
        assert not worker.said("claim_gone"), "it knows why"
    house.assert_sound()


def test_a_worker_is_drained_from_outside_and_stays(house: House, operator: Operator) -> None:
    job = house.stage.submit("a cat")
    worker = house.start_worker(step_s=0.5, **PATIENT)
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
    """Gateways' programs, and the load balancer that all of them reach the API through.

    They submit jobs and wait for them, one after the other, all the time; one of them is Livepeer's
    kind, which gets its picture in the answer, and has no way to ask again.
    """

    def __init__(self, url: str, key: str) -> None:
        login = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(headers=login, timeout=60)
        self._url = url
        self._asking: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS + 1)
        self.statuses: Counter[int] = Counter()
        self.done: list[str] = []
        self.drawn: list[str] = []

    def start(self) -> None:
        kinds = [self._draw, *[self._work] * CLIENTS]
        self._working = [self._pool.submit(self._go_on, kind) for kind in kinds]

    def end(self) -> None:
        self._over.set()
        for one in self._working:
            one.result()
        self._pool.shutdown()
        self._client.close()

    def wait_for_more(self) -> None:
        """Wait until some jobs are done that were submitted from now on."""
        enough, drawn = len(self.done) + 2 * CLIENTS, len(self.drawn) + 2
        eventually(lambda: len(self.done) >= enough and len(self.drawn) >= drawn)

    def move_to(self, url: str) -> None:
        """Send what comes from now on to another API; return when the first has answered all."""
        with self._lock:
            first, self._url = self._url, url
        eventually(lambda: not self._asking[first])

    def _go_on(self, once: Callable[[], None]) -> None:
        while not self._over.is_set():
            once()

    def _work(self) -> None:
        key = {"Idempotency-Key": f"job-{next(self._numbers)}"}
        job = self._ask("POST", "/v1/jobs", json=BODY, headers=key)
        while job["state"] in OPEN:
            job = self._ask("GET", f"/v1/jobs/{job['id']}?wait=30")
        assert job["state"] == "succeeded"
        self.done.append(job["id"])

    def _draw(self) -> None:
        [picture] = self._ask("POST", "/text-to-image", json=LIVEPEERS)["images"]
        self.drawn.append(picture["url"])

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        with self._lock:
            url = self._url
            self._asking[url] += 1
        answer = self._client.request(method, url + path, **body)
        with self._lock:
            self._asking[url] -= 1
            self.statuses[answer.status_code] += 1
        facts: dict[str, Any] = answer.json()
        return facts


def children(process: Process) -> set[str]:
    return set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())


def replaced(house: House, old: Process, start: Callable[[], Process]) -> Process:
    """Start a process, and end the one whose place it takes."""
    new = start()
    eventually(lambda: new.said("worker_listens") or new.said("scheduler_starts"))
    assert_ends(old)
    return new


def assert_ends(process: Process) -> None:
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def started_api(house: House) -> tuple[Process, str]:
    port = free_port()
    api, url = house.start(roles.api, port), f"http://127.0.0.1:{port}"
    eventually(lambda: answers(url))
    return api, url


def test_a_rolling_restart_of_everything_under_load(house: House) -> None:
    """Of all that a job passes through: not of Flower, which no job and no client waits for."""
    with house.stage.sessions.begin() as session:
        _, key = auth.create_key(session, house.stage.gateway_id, "clients")
    worker = house.start_worker(step_s=0.01, **PATIENT)
    scheduler = house.start(roles.sweeper)
    api, url = started_api(house)
    clients = Clients(url, key)
    clients.start()
    clients.wait_for_more()

    before = children(api)
    api.signal(signal.SIGHUP)
    eventually(lambda: children(api) and not children(api) & before)
    clients.wait_for_more()
    old, (api, url) = api, started_api(house)
    clients.move_to(url)
    assert_ends(old)
    clients.wait_for_more()
    worker = replaced(house, worker, lambda: house.start_worker(step_s=0.01, **PATIENT))
    clients.wait_for_more()
    scheduler = replaced(house, scheduler, lambda: house.start(roles.sweeper))
    clients.wait_for_more()
    clients.end()

    assert set(clients.statuses) == {200, 202}
    jobs = [*clients.done, *clients.drawn]
    assert len(clients.done) == clients.statuses[202]
    assert len(jobs) == len(set(jobs))
    assert house.states() == {"succeeded": len(jobs)}
    assert house.stage.scalar("SELECT count(*) FROM charges") == len(jobs)
    # A client that had to wait for a lease to end would have waited much longer than the others.
    assert house.count("attempt > 1") == house.count("handed_back > 0") == 0
    for process in (worker, scheduler):
        assert_ends(process)
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
