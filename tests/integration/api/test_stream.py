"""The pictures: whole, in part, unchanged, or by redirect."""

from __future__ import annotations

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from api.settings import ApiSettings
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import World, problem

DATA = bytes(range(256)) * 2000  # more than one chunk


@pytest.fixture(scope="module")
def address(shared_world: World) -> str:
    """Where the picture is; it stays there for all tests."""
    return published(shared_world)


def published(world: World) -> str:
    job = world.submit()
    world.succeed(DATA)
    url: str = world.client().get(f"/v1/jobs/{job['id']}").json["outputs"][0]["url"]
    return url.removeprefix("http://localhost")


def test_a_picture_needs_no_key_and_is_what_was_stored(shared_world: World, address: str) -> None:
    response = shared_world.client("").get(address)

    assert response.status_code == 200
    assert response.data == DATA
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Length"] == str(len(DATA))
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in response.headers["Cache-Control"]


def test_a_head_says_the_same_without_the_bytes(shared_world: World, address: str) -> None:
    response = shared_world.client("").head(address)
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["Content-Length"] == str(len(DATA))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=511990-", 511990, 511999),
        ("bytes=511990-9999999", 511990, 511999),
        ("bytes=-10", 511990, 511999),
        ("bytes=-9999999", 0, 511999),
    ],
)
def test_a_range_gives_that_part(
    shared_world: World, address: str, asked: str, first: int, last: int
) -> None:
    response = shared_world.client("").get(address, headers={"Range": asked})

    assert response.status_code == 206
    assert response.data == DATA[first : last + 1]
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"
    assert response.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=512000-", "bytes=99999999-99999999", "bytes=-0"])
def test_a_range_past_the_end_is_refused_with_the_size(
    shared_world: World, address: str, asked: str
) -> None:
    response = shared_world.client("").get(address, headers={"Range": asked})
    problem(response, 416, "range_not_satisfiable")
    assert response.headers["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "asked", ["bytes=5-1", "bytes=0-1,4-5", "lines=0-1", "bytes=-", "bytes=x-"]
)
def test_a_range_that_is_not_understood_is_ignored(
    shared_world: World, address: str, asked: str
) -> None:
    response = shared_world.client("").get(address, headers={"Range": asked})
    assert (response.status_code, len(response.data)) == (200, len(DATA))


def test_an_unchanged_picture_is_not_sent_again(shared_world: World, address: str) -> None:
    client = shared_world.client("")
    etag = client.get(address).headers["ETag"]

    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = client.get(address, headers={"If-None-Match": known})
        assert (response.status_code, response.data) == (304, b"")
        assert response.headers["ETag"] == etag
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_range_of_another_picture_gets_the_whole_one(shared_world: World, address: str) -> None:
    client = shared_world.client("")
    etag = client.get(address).headers["ETag"]
    part = {"Range": "bytes=0-9"}

    assert client.get(address, headers={**part, "If-Range": etag}).status_code == 206
    for stale in ('"other"', f"W/{etag}", "Sat, 01 Jan 2000 00:00:00 GMT"):
        assert client.get(address, headers={**part, "If-Range": stale}).status_code == 200


def test_what_is_not_there_is_not_found(shared_world: World, address: str) -> None:
    client = shared_world.client("")
    folder = address.rpartition("/")[0]
    for path in (f"{folder}/other.png", f"{folder}/%00", "/stream/x/y", "/stream/x"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.mimetype == "application/problem+json"


def test_a_picture_that_the_store_lost_is_not_found(shared_world: World) -> None:
    lost = published(shared_world)
    prefix = f"outputs/{lost.split('/')[2]}/"
    shared_world.store.delete([stored.key for stored in shared_world.store.list(prefix)])
    body = problem(shared_world.client("").get(lost), 404, "object_not_found")
    assert "outputs/" not in body["detail"]


def test_by_setting_clients_are_sent_to_the_store(make_world: MakeWorld) -> None:
    world = make_world(results="redirect", public_url="https://pixels.example/")
    job = world.submit()
    world.succeed(DATA)
    url = world.client().get(f"/v1/jobs/{job['id']}").json["outputs"][0]["url"]
    assert url.startswith("https://pixels.example/stream/")

    response = world.client("").get(url.removeprefix("https://pixels.example"))

    assert response.status_code == 302
    assert response.headers["Cache-Control"] == "no-store"
    assert httpx.get(response.headers["Location"]).content == DATA


@pytest.mark.parametrize("results", ["presigned", "public"])
def test_by_setting_links_lead_to_the_store_itself(make_world: MakeWorld, results: str) -> None:
    world = make_world(results=results, results_url="https://cdn.example/")
    job = world.submit()
    world.succeed(DATA)
    url = world.client().get(f"/v1/jobs/{job['id']}").json["outputs"][0]["url"]

    if results == "presigned":
        assert httpx.get(url).content == DATA
    else:
        assert url.startswith(f"https://cdn.example/outputs/{job['id']}/")
    name = url.partition("?")[0].rpartition("/")[2]
    response = world.client("").get(f"/stream/{job['id']}/{name}")
    assert response.status_code == 302


def test_public_links_need_to_know_where() -> None:
    with pytest.raises(ValidationError, match="PIXELTOLL_RESULTS_URL"):
        ApiSettings.model_validate({"PIXELTOLL_RESULTS": "public"})


def test_a_picture_has_its_time(world: World) -> None:
    settings = world.runtime.task_settings.model_copy(update={"keep_results_s": 600})
    vars(world.runtime)["task_settings"] = settings
    where, client = published(world), world.client("")
    control = client.get(where).headers["Cache-Control"]
    assert 500 < int(control.partition("max-age=")[2].partition(",")[0]) <= 600

    age = text("UPDATE jobs SET finished_at = now() - interval '601 s'")
    world.change(lambda session: session.execute(age))
    problem(client.get(where), 410, "picture_expired")

    vars(world.runtime)["task_settings"] = settings.model_copy(update={"keep_results_s": 0})
    assert client.get(where).status_code == 200
    world.change(lambda session: session.execute(text("UPDATE jobs SET kept = false")))
    problem(client.get(where), 410, "picture_expired")
