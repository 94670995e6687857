"""Submitting, polling, listing and canceling: the way of a job that is accepted."""

from __future__ import annotations

import base64
import io
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from sqlalchemy import select

from tasks import claims
from tasks.tables import Job
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import FROM_IMAGE, GOOD, MODEL, ORCHESTRATOR, PRICE, World, png

SUM_CHECKED_BY_HAND = "0.002499999694848"


def test_a_submitted_job_says_what_it_costs_and_where_to_poll(world: World) -> None:
    response = world.client().post("/v1/jobs", json={**GOOD, "num_images_per_prompt": 2, "seed": 7})

    assert response.status_code == 202
    job = response.json
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["progress"], job["queue_position"]) == ("queued", 0.0, 0)
    assert (job["units"], job["price_per_unit"]) == (256 * 256 * 2, PRICE)
    assert (job["amount"], job["currency"]) == (SUM_CHECKED_BY_HAND, "USD")
    assert job["orchestrator"] == ORCHESTRATOR
    assert job["hold"]["state"] == "open"
    assert (job["outputs"], job["error"], job["attempt"]) == ([], None, 0)
    assert job["parameters"]["seed"] == 7
    assert job["parameters"]["num_inference_steps"] == 8
    balance = world.client().get("/v1/balance").json
    assert balance == {
        "available": "9.997500000305152",
        "held": SUM_CHECKED_BY_HAND,
        "currency": "USD",
    }


def test_the_bell_rings_on_the_queue_of_the_model_and_carries_the_id_alone(world: World) -> None:
    job = world.submit(prompt="a secret prompt")

    with redis.Redis.from_url(world.redis_url) as broker:
        found = broker.blpop([world.queue], timeout=5)
    assert found is not None
    message = bytes(found[1])
    assert b"secret" not in message
    assert job["id"] in message.decode()


@pytest.mark.parametrize("way", ["json", "form", "data-url"])
def test_a_picture_comes_in_as_json_or_as_a_file(world: World, way: str) -> None:
    picture = png(70, 64)
    encoded = base64.b64encode(picture).decode()
    body: dict[str, Any]
    if way == "form":
        body = {"data": {**FROM_IMAGE, "strength": "0.5", "image": (io.BytesIO(picture), "a.png")}}
    else:
        image = encoded if way == "json" else f"data:image/png;base64,{encoded}"
        body = {"json": {**FROM_IMAGE, "strength": 0.5, "image": image}}

    response = world.client().post("/v1/jobs", **body)

    assert response.status_code == 202, response.text
    job = response.json
    assert (job["parameters"]["width"], job["parameters"]["height"]) == (72, 64)
    assert job["units"] == 72 * 64
    assert job["parameters"]["strength"] == 0.5
    with world.sessions() as session:
        key = session.scalar(select(Job.input_key).where(Job.id == job["id"]))
    assert key is not None
    assert key.startswith(f"inputs/{world.gateway_id}/")
    assert world.store.get(key).startswith(b"\x89PNG")


def test_two_jobs_from_one_picture_do_not_share_what_is_stored(world: World) -> None:
    body = {**FROM_IMAGE, "image": base64.b64encode(png()).decode()}
    for _ in range(2):
        assert world.client().post("/v1/jobs", json=body).status_code == 202

    with world.sessions() as session:
        keys = session.scalars(select(Job.input_key)).all()
    assert len(set(keys)) == 2
    assert all(world.store.exists(key) for key in keys if key)


def test_the_job_says_when_no_worker_is_up(world: World) -> None:
    assert ORCHESTRATOR in world.submit()["notice"]
    world.wake()
    assert world.submit()["notice"] is None


def test_queue_position_counts_priority_first(world: World) -> None:
    low = world.submit()
    world.submit(priority=9)

    assert world.client().get(f"/v1/jobs/{low['id']}").json["queue_position"] == 1


def test_a_deadline_is_kept_and_bounds_the_hold(world: World) -> None:
    wanted = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    job = world.submit(deadline=wanted.astimezone().isoformat())

    kept = datetime.fromisoformat(job["deadline"])
    assert abs(kept - wanted) < timedelta(seconds=2)
    assert job["hold"]["expires_at"] == job["deadline"]
    assert job["deadline"].endswith("Z")


def test_a_finished_job_shows_its_pictures_and_is_charged(world: World) -> None:
    job = world.submit(seed=3)
    world.succeed(b"picture")

    found = world.client().get(f"/v1/jobs/{job['id']}").json

    assert (found["state"], found["progress"], found["queue_position"]) == ("succeeded", 1.0, None)
    assert found["hold"]["state"] == "captured"
    assert (job["charged"], found["charged"]) == (None, found["amount"])
    [output] = found["outputs"]
    assert (output["seed"], output["nsfw"], output["content_type"]) == (3, None, "image/png")
    assert output["url"].startswith(f"http://localhost/stream/{job['id']}/")
    assert found["started_at"] <= found["finished_at"]
    assert world.client().get("/v1/balance").json["held"] == "0"


def test_a_job_with_some_of_its_pictures_says_so_and_is_charged_for_those(world: World) -> None:
    before = Decimal(world.client().get("/v1/balance").json["available"])
    job = world.submit(num_images_per_prompt=4)
    world.succeed(b"picture")

    found = world.client().get(f"/v1/jobs/{job['id']}").json

    assert found["state"] == "succeeded"
    assert found["error"] == {
        "code": "partial_result",
        "message": "1 of 4 pictures were made and charged.",
    }
    assert len(found["outputs"]) == 1
    assert (found["units"], found["amount"]) == (job["units"], job["amount"])
    assert Decimal(found["charged"]) * 4 == Decimal(found["amount"])
    balance = world.client().get("/v1/balance").json
    assert before - Decimal(balance["available"]) == Decimal(found["charged"])
    assert balance["held"] == "0"


def test_progress_follows_the_steps(world: World) -> None:
    job = world.submit()
    claimed = world.claim()
    progress = {claimed.id: claims.Progress(claimed.attempt, 2, 8)}
    world.change(lambda session: claims.renew(session, progress, 30))

    found = world.client().get(f"/v1/jobs/{job['id']}").json

    assert (found["state"], found["progress"], found["attempt"]) == ("running", 0.25, 1)


def test_a_failed_job_says_why_and_costs_nothing(world: World) -> None:
    job = world.submit()
    claimed = world.claim()
    world.change(lambda session: claims.fail(session, claimed.id, 1, "out_of_memory", "too large"))

    found = world.client().get(f"/v1/jobs/{job['id']}").json

    assert found["state"] == "failed"
    assert found["error"] == {"code": "out_of_memory", "message": "too large"}
    assert found["hold"]["state"] == "voided"
    assert world.client().get("/v1/balance").json["available"] == "10"


# --- waiting ----------------------------------------------------------------------------------


def test_a_poll_that_waits_returns_as_soon_as_the_job_has_ended(world: World) -> None:
    job = world.submit()
    end = threading.Timer(0.5, world.succeed)
    end.start()
    began = time.monotonic()

    found = world.client().get(f"/v1/jobs/{job['id']}?wait=30").json

    end.join()
    assert found["state"] == "succeeded"
    assert 0.3 < time.monotonic() - began < 5


def test_a_poll_waits_no_longer_than_it_was_asked_to(world: World) -> None:
    job = world.submit()
    began = time.monotonic()

    assert world.client().get(f"/v1/jobs/{job['id']}?wait=0.4").json["state"] == "queued"
    assert 0.4 <= time.monotonic() - began < 3


# --- canceling --------------------------------------------------------------------------------


def test_canceling_gives_the_funds_back_and_twice_is_no_error(world: World) -> None:
    job = world.submit()

    for _ in range(2):
        response = world.client().post(f"/v1/jobs/{job['id']}/cancel")
        assert response.status_code == 200
        assert (response.json["state"], response.json["hold"]["state"]) == ("canceled", "voided")
    assert world.client().get("/v1/balance").json["available"] == "10"


def test_a_running_job_is_canceled_under_its_worker(world: World) -> None:
    job = world.submit()
    claimed = world.claim()

    assert world.client().post(f"/v1/jobs/{job['id']}/cancel").json["state"] == "canceled"
    with world.sessions.begin() as session:
        assert claims.renew(session, {claimed.id: claims.Progress(1, 1, 8)}, 30) == set()


def test_a_job_that_has_ended_cannot_be_canceled(world: World) -> None:
    job = world.submit()
    world.succeed()

    response = world.client().post(f"/v1/jobs/{job['id']}/cancel")

    assert (response.status_code, response.json["code"]) == (409, "job_not_cancelable")
    assert response.json["state"] == "succeeded"


# --- listing ----------------------------------------------------------------------------------


def test_pages_follow_each_other_newest_first_and_miss_nothing(world: World) -> None:
    made = [world.submit()["id"] for _ in range(7)]
    client, seen, cursor = world.client(), [], None
    for size in (3, 3, 1):
        query = {"limit": "3"} if cursor is None else {"limit": "3", "cursor": cursor}
        page = client.get("/v1/jobs", query_string=query).json
        assert len(page["data"]) == size
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        world.submit()  # a newer job must not shift the pages

    assert cursor is None
    assert seen == made[::-1]


def test_a_page_that_ends_exactly_has_no_next(world: World) -> None:
    for _ in range(2):
        world.submit()
    assert world.client().get("/v1/jobs?limit=2").json["next_cursor"] is None


def test_filters_by_state_model_and_time(world: World) -> None:
    done, canceled = world.submit(), world.submit()
    world.succeed()
    world.client().post(f"/v1/jobs/{canceled['id']}/cancel")

    def ids(**query: str) -> list[str]:
        page = world.client().get("/v1/jobs", query_string=query).json
        return [job["id"] for job in page["data"]]

    assert ids(state="succeeded") == [done["id"]]
    assert ids(model_id=MODEL) == [canceled["id"], done["id"]]
    assert ids(model_id="another") == []
    assert ids(created_after=done["created_at"]) == [canceled["id"]]
    assert ids(created_before=canceled["created_at"]) == [done["id"]]


def test_a_list_shows_the_gateways_own_jobs_only(world: World) -> None:
    world.submit()
    assert world.client(world.other_key).get("/v1/jobs").json == {"data": [], "next_cursor": None}


# --- repeating --------------------------------------------------------------------------------


def test_the_same_key_and_request_answer_the_same_job(world: World) -> None:
    client, headers = world.client(), {"Idempotency-Key": "order-1"}
    first = client.post("/v1/jobs", json=GOOD, headers=headers)
    before = world.traces()
    again = client.post("/v1/jobs", json=GOOD, headers=headers)
    as_form = client.post(
        "/v1/jobs", data=GOOD, headers=headers, content_type="multipart/form-data"
    )

    assert "Idempotency-Replayed" not in first.headers
    for replay in (again, as_form):
        assert replay.status_code == 202
        assert replay.headers["Idempotency-Replayed"] == "true"
        assert replay.headers["Location"] == first.headers["Location"]
    assert {**world.traces(), "bells": 0} == {**before, "bells": 0}


def test_a_repeated_request_finds_its_job_though_it_would_be_refused_now(world: World) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    picture = base64.b64encode(png()).decode()
    body = {**FROM_IMAGE, "image": picture, "deadline": soon}
    headers = {"Idempotency-Key": "order-1"}
    first = world.client().post("/v1/jobs", json=body, headers=headers)
    world.set_limit("0.000000000000000001")
    time.sleep(1.1)

    again = world.client().post("/v1/jobs", json=body, headers=headers)

    assert again.status_code == 202, again.text
    assert again.json["id"] == first.json["id"]


def test_a_key_belongs_to_its_gateway(world: World) -> None:
    headers = {"Idempotency-Key": "order-1"}
    world.client().post("/v1/jobs", json=GOOD, headers=headers)

    other = world.client(world.other_key).post("/v1/jobs", json=GOOD, headers=headers)

    assert other.json["code"] == "no_price_limit"


@pytest.mark.parametrize("with_picture", [False, True])
def test_twenty_posts_at_once_with_one_key_make_one_job(world: World, with_picture: bool) -> None:
    body = dict(GOOD)
    if with_picture:
        body = {**FROM_IMAGE, "image": base64.b64encode(png()).decode()}
    assert world.traces()["objects"] == []
    start = threading.Barrier(20)
    answers: list[tuple[int, str, bool]] = []

    def post() -> None:
        client = world.client()
        start.wait()
        response = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
        replayed = "Idempotency-Replayed" in response.headers
        answers.append((response.status_code, response.json["id"], replayed))

    threads = [threading.Thread(target=post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {status for status, _, _ in answers} == {202}
    assert len({job_id for _, job_id, _ in answers}) == 1
    assert [replayed for _, _, replayed in answers].count(False) == 1
    traces = world.traces()
    assert (traces["jobs"], traces["holds"]) == (1, 1)
    # Of twenty uploads, only the one that its job names is still there.
    assert len(traces["objects"]) == int(with_picture)  # type: ignore[arg-type]


def test_when_the_broker_is_away_jobs_are_accepted_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = make_world(redis_url="redis://127.0.0.1:1/0")
    began = time.monotonic()

    assert world.submit()["state"] == "queued"
    assert time.monotonic() - began < 1
