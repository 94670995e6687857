"""Webhooks over HTTP: a gateway makes, lists, rotates, enables and deletes its own, and replays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.api.conformance import CheckedClient
from tests.integration.api.world import GOOD, World, problem

URL = "https://hooks.example.com/pixeltoll"
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def client(shared_world: World) -> Iterator[CheckedClient]:
    client = shared_world.client()
    yield client
    for one in client.get("/v1/webhooks").json["data"]:
        client.delete(f"/v1/webhooks/{one['id']}")


def made(client: CheckedClient, **more: Any) -> Any:
    response = client.post("/v1/webhooks", json={"url": URL, **more})
    assert response.status_code == 201, response.text
    return response.json


def test_a_webhook_is_made_listed_and_deleted(client: CheckedClient) -> None:
    first = made(client)
    assert first["secret"].startswith("whsec_")
    assert first["events"] == ["job.succeeded", "job.failed", "job.canceled", "job.expired"]
    second = made(client, events=["job.failed"])
    shown = client.get("/v1/webhooks").json
    assert [one["id"] for one in shown["data"]] == [second["id"], first["id"]]
    assert "secret" not in shown["data"][0]
    assert shown["data"][0]["events"] == ["job.failed"]
    left = client.delete(f"/v1/webhooks/{second['id']}")
    assert [one["id"] for one in left.json["data"]] == [first["id"]]
    problem(client.delete(f"/v1/webhooks/{second['id']}"), 404, "unknown_webhook")


def test_a_secret_is_rotated(client: CheckedClient) -> None:
    webhook = made(client)
    rotated = client.post(f"/v1/webhooks/{webhook['id']}/rotate").json
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != webhook["secret"]


def test_what_was_told_is_logged_and_told_once_more(
    client: CheckedClient, shared_world: World
) -> None:
    webhook = made(client)
    jobs = [shared_world.submit(context={"n": n})["id"] for n in range(3)]
    for job in jobs:
        client.post(f"/v1/jobs/{job}/cancel")
    log = f"/v1/webhooks/{webhook['id']}/deliveries"
    page = client.get(f"{log}?limit=2").json
    rest = client.get(f"{log}?limit=2&cursor={page['next_cursor']}").json
    found = [*page["data"], *rest["data"]]
    assert [one["job_id"] for one in found] == jobs[::-1]
    assert {(one["event"], one["state"], one["attempts"]) for one in found} == {
        ("job.canceled", "pending", 0)
    }
    assert rest["next_cursor"] is None
    shared_world.change(
        lambda session: session.execute(
            text("UPDATE webhook_deliveries SET state = 'failed', attempts = 9, error = 'away'")
        )
    )
    again = client.post(f"{log}/{found[0]['id']}/replay").json
    assert (again["state"], again["attempts"], again["error"]) == ("pending", 0, "away")
    for wrong in ("4711", "x", "9" * 30, "-1"):
        problem(client.post(f"{log}/{wrong}/replay"), 404, "unknown_delivery")


def test_a_disabled_webhook_is_enabled(client: CheckedClient, shared_world: World) -> None:
    webhook = made(client)
    shared_world.change(
        lambda session: session.execute(
            text("UPDATE webhooks SET disabled_at = now(), disabled_why = 'It fails.'")
        )
    )
    [shown] = client.get("/v1/webhooks").json["data"]
    assert shown["disabled_why"] == "It fails."
    enabled = client.post(f"/v1/webhooks/{webhook['id']}/enable").json
    assert (enabled["disabled_at"], enabled["disabled_why"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "http://[::1/"}, "url"),
        ({"url": "https://example.com:9999/"}, "url"),
        ({"url": "https://0x7f.1/"}, "url"),
        ({"url": URL, "events": ["job.exploded"]}, "events.0"),
        ({"url": URL, "secret": "mine"}, "secret"),
    ],
)
def test_a_bad_webhook_names_its_field(client: CheckedClient, body: Any, field: str) -> None:
    found = problem(client.post("/v1/webhooks", json=body), 422, "invalid_params")
    assert [one["field"] for one in found["errors"]] == [field]
    assert client.get("/v1/webhooks").json["data"] == []


def test_a_gateway_sees_no_other_ones_webhooks(client: CheckedClient, shared_world: World) -> None:
    webhook = made(client)
    other = shared_world.client(shared_world.other_key)
    assert other.get("/v1/webhooks").json["data"] == []
    for path in (webhook["id"], NOBODY, "nonsense"):
        problem(other.delete(f"/v1/webhooks/{path}"), 404, "unknown_webhook")
        problem(other.post(f"/v1/webhooks/{path}/rotate"), 404, "unknown_webhook")
        problem(other.post(f"/v1/webhooks/{path}/enable"), 404, "unknown_webhook")
        problem(other.get(f"/v1/webhooks/{path}/deliveries"), 404, "unknown_webhook")
        problem(other.post(f"/v1/webhooks/{path}/deliveries/1/replay"), 404, "unknown_webhook")


# --- a job's context --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "context",
    [
        {"order": 17, "deep": [1.5, None, {"ü": "✓"}]},
        *("text", 0, False, [], "x" * 4094),
        # Backslashes and a u that are no escape; and control characters, which can be kept.
        *({r"C:\u0000": r"\\u0000"}, "\x01\x1f\x7f"),
    ],
)
def test_a_context_comes_back_as_it_was(shared_world: World, context: Any) -> None:
    job = shared_world.submit(context=context)
    assert job["context"] == context
    assert shared_world.client().get(f"/v1/jobs/{job['id']}").json["context"] == context


def test_a_form_has_its_context_as_json(shared_world: World) -> None:
    def post(context: str) -> Any:
        form = {**GOOD, "context": context}
        return shared_world.client().post("/v1/jobs", data=form, content_type="multipart/form-data")

    assert post('{"order": 17}').json["context"] == {"order": 17}
    problem(post("{order"), 400, "malformed_body")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (f'"{"x" * 4095}"', "4096 characters"),
        (r'"a\u0000b"', "a NUL character"),
        (r'{"deep": [{"\\\u0000": 1}]}', "a NUL character"),
        ('{"deep": [1e999]}', "too large"),
    ],
)
def test_a_context_that_cannot_be_kept_is_refused(
    shared_world: World, written: str, said: str
) -> None:
    body = json.dumps(GOOD).replace("{", f'{{"context": {written}, ', 1)
    response = shared_world.client().post("/v1/jobs", data=body, content_type="application/json")
    [error] = problem(response, 422, "invalid_params")["errors"]
    assert error["field"] == "context"
    assert said in error["message"]


def test_another_context_is_another_request(shared_world: World) -> None:
    client = shared_world.client()
    key = {"Idempotency-Key": "with-context"}
    first, again, other = (
        client.post("/v1/jobs", json={**GOOD, "context": context}, headers=key)
        for context in (1, 1, 2)
    )
    assert first.json["id"] == again.json["id"]
    problem(other, 409, "idempotency_key_reused")
