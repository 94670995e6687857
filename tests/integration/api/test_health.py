"""/healthz and /readyz, with each part away in turn; /openapi.json and /docs."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from api.app import create_app
from api.runtime import Runtime
from tasks.errors import StorageError
from tasks.storage import ObjectStore
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import World


class Away(ObjectStore):
    """A store that does not answer."""

    def ping(self) -> None:
        raise StorageError("away")


class Hung(ObjectStore):
    """A store that takes its time."""

    def ping(self) -> None:
        time.sleep(10)


def test_a_process_that_answers_is_alive(world: World) -> None:
    assert world.client("").get("/healthz").json == {"status": "ok"}


def test_all_parts_answer(world: World) -> None:
    response = world.client("").get("/readyz")
    assert response.status_code == 200
    assert response.json == {
        "status": "ready",
        "database": "ok",
        "broker": "ok",
        "storage": "ok",
    }


def test_the_part_that_is_away_is_named(
    world: World, store: ObjectStore, subtests: pytest.Subtests
) -> None:
    nowhere = sessionmaker(create_engine("postgresql+psycopg:///x?host=/nowhere"))

    def refuse() -> None:
        raise ConnectionError

    away: dict[str, Runtime] = {
        "database": replace(world.runtime, reads=nowhere),
        "broker": replace(world.runtime, ping_broker=refuse),
        "storage": replace(world.runtime, open_store=lambda: Away(store._client, store._bucket)),
    }
    for part, runtime in away.items():
        with subtests.test(part):
            response = create_app(runtime).test_client().get("/readyz")
            found = response.get_json()
            assert response.status_code == 503
            assert found["status"] == "unavailable"
            assert [name for name in away if found[name] != "ok"] == [part]


def test_a_part_that_hangs_is_given_up_on(world: World, store: ObjectStore) -> None:
    hung = replace(world.runtime, open_store=lambda: Hung(store._client, store._bucket))
    began = time.monotonic()
    response = create_app(hung).test_client().get("/readyz")

    assert time.monotonic() - began < 5
    assert response.status_code == 503
    assert "3 s" in response.get_json()["storage"]


def test_the_real_broker_is_asked(make_world: MakeWorld) -> None:
    world = make_world(redis_url="redis://127.0.0.1:1/0")
    assert world.client("").get("/readyz").json["broker"] == "ConnectionError"


# --- the description --------------------------------------------------------------------------


def test_the_document_is_valid_openapi_31(world: World) -> None:
    document = world.client("").get("/openapi.json").json

    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations) >= 25
    assert all(one["summary"].endswith(".") for one in operations)
    submit = document["paths"]["/v1/jobs"]["post"]
    assert set(submit["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert submit["security"] == [{"gateway": []}]
    assert "over_price_limit" in submit["responses"]["402"]["description"]


def test_the_page_loads_nothing_from_elsewhere(world: World) -> None:
    client = world.client("")
    page = client.get("/docs")

    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        if link != "data:,":
            assert link.startswith("/docs/")
            with client.get(link) as part:
                assert part.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "/openapi.json" in client.get("/docs/start.js").text
