"""`pixeltoll submit` and `pixeltoll jobs`, over HTTP, with a worker behind the API."""

from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import structlog.testing
from PIL import Image

from pixeltoll.client import Client, price_bound
from pixeltoll.embedded import free_port
from tests.fakes import SPOILS, FakeEngine
from tests.integration.api.working import served, working
from tests.integration.api.world import MODEL, PRICE, World, png
from tests.integration.pixeltoll.helpers import Operator
from tests.web import serving


@pytest.fixture(scope="module")
def address(shared_world: World) -> Iterator[str]:
    """An API that is served, with a worker."""
    shared_world.wake(warm=True)
    with (
        # What the API logs is not the command's output.
        structlog.testing.capture_logs(),
        served(shared_world) as url,
        working(shared_world, FakeEngine()),
    ):
        yield url


@pytest.fixture
def operator(
    address: str, shared_world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Operator:
    """Somebody with a gateway's key and a folder to work in."""
    monkeypatch.setenv("PIXELTOLL_URL", address)
    monkeypatch.setenv("PIXELTOLL_API_KEY", shared_world.key)
    monkeypatch.chdir(tmp_path)
    return Operator()


def jobs_of(world: World) -> int:
    return len(world.client().get("/v1/jobs?limit=100").json["data"])


def test_a_prompt_becomes_a_picture_at_the_price_that_was_shown(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    amount = Decimal(64 * 64 * 2) * Decimal(PRICE)
    ended = operator.ended("submit", "a fox", "--width", "64", "--height", "64", "--images", "2")
    shown, *saved, charged = ended.stdout.splitlines()
    assert f"2 pictures of 64 x 64 by {MODEL}" in shown
    assert f"{amount} USD for 8192 pixels" in shown
    assert charged == f"charged {amount} USD"
    assert ended.stderr.strip() == "Submit it? [y/N]:", "a bar is for a terminal"
    assert len(saved) == 2
    for line in saved:
        with Image.open(line.strip().removeprefix("saved ")) as picture:
            assert picture.size == (64, 64)


def test_who_says_no_pays_nothing(
    operator: Operator, shared_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jobs_of(shared_world)
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert "Aborted" in operator.ended("submit", "a fox", status=1).stderr
    assert "--json needs --yes" in operator.complaint("submit", "a fox", "--json")
    assert jobs_of(shared_world) == before


def test_a_picture_and_a_link_begin_an_image_to_image_job(operator: Operator) -> None:
    Path("mine.png").write_bytes(png())
    made = operator.json("submit", "at night", "--image", "mine.png", "--yes", "--output", "out")
    assert (made["pipeline"], made["state"], made["progress"]) == ("image-to-image", "succeeded", 1)
    [file] = made["files"]
    assert Path(file).parent == Path("out")
    said = operator.complaint("submit", "x", "--image", "http://127.0.0.1:9/x.png", "--yes")
    assert "image" in said
    assert "none.png cannot be read" in operator.complaint("submit", "x", "--image", "none.png")


def test_a_job_without_pictures_is_told_by_the_status(operator: Operator) -> None:
    ended = operator.ended("submit", SPOILS, "--yes", status=4)
    assert ended.stdout.splitlines()[-1] == "charged 0 USD"
    assert "failed: " in ended.stderr
    [job] = operator.rows("jobs", "list", "--state", "failed", "--limit", "1")
    shown = operator.run("jobs", "show", job["id"])
    assert "inference_failed: " in shown


def test_what_is_too_dear_is_refused_in_the_apis_own_words(operator: Operator) -> None:
    said = operator.complaint("submit", "a fox", "--max-price", "1e-12", "--yes")
    assert "price" in said
    said = operator.complaint("submit", "a fox", "--width", "7", "--images", "99", "--yes")
    assert "width: " in said
    assert "num_images_per_prompt: " in said


def test_jobs_are_listed_shown_canceled_and_come_back_to(
    operator: Operator, shared_world: World
) -> None:
    job = operator.json("submit", "later", "--no-wait", "--yes")
    for _ in range(2):
        done = operator.json("jobs", "wait", job["id"])
        assert (done["id"], done["state"], len(done["files"])) == (job["id"], "succeeded", 1)
    assert "already" in operator.complaint("jobs", "cancel", job["id"])
    rows = operator.rows("jobs", "list", "--limit", "150", "--model", MODEL)
    assert job["id"] in [row["id"] for row in rows]
    assert len(rows) == len({row["id"] for row in rows})
    assert json.loads(operator.run("jobs", "show", job["id"], "--json"))["state"] == "succeeded"
    assert done["outputs"][0]["url"] in operator.run("jobs", "show", job["id"])
    assert job["id"] in operator.run("jobs", "list")


def test_who_stops_waiting_is_told_how_to_come_back(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    job = operator.json("submit", "later", "--no-wait", "--yes")
    with monkeypatch.context() as patched:
        patched.setattr(Client, "watch", pressed)
        said = operator.ended("jobs", "wait", job["id"], status=130).stderr
    assert f"`pixeltoll jobs wait {job['id']}`" in said
    assert operator.json("jobs", "wait", job["id"])["state"] == "succeeded"


def test_where_there_is_no_api_that_is_said(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixeltoll.client._PAUSE_S", 0)
    monkeypatch.setenv("PIXELTOLL_URL", f"http://127.0.0.1:{free_port()}")
    assert "Is it up" in operator.complaint("jobs", "list")
    monkeypatch.setenv("PIXELTOLL_URL", "http://[")
    assert "PIXELTOLL_URL" in operator.complaint("jobs", "list")
    with serving(lambda handler, _: handler.give(200, b"<html>")) as other:
        monkeypatch.setenv("PIXELTOLL_URL", other.url())
        assert "not an API of Pixeltoll" in operator.complaint("jobs", "list")
    with serving(lambda handler, _: handler.give(502, b"gateway")) as broken:
        monkeypatch.setenv("PIXELTOLL_URL", broken.url())
        assert "status 502" in operator.complaint("jobs", "list")
    monkeypatch.setenv("PIXELTOLL_API_KEY", "")
    assert "set both, or neither" in operator.complaint("jobs", "list")
    monkeypatch.setenv("PIXELTOLL_URL", "")
    assert "No stack runs" in operator.complaint("jobs", "list")


def test_an_answer_that_was_lost_is_asked_for_again_under_the_same_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pixeltoll.client._PAUSE_S", 0)

    def give(handler: object, _visit: object) -> None:
        if len(web.visits) == 1:
            handler.connection.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        else:
            handler.give(202, b"{}")  # type: ignore[attr-defined]

    with serving(give) as web, Client(web.url(), "px_x_y") as client:
        assert client.post("/v1/jobs", json={}) == {}
    first, second = (visit.headers["idempotency-key"] for visit in web.visits)
    assert first == second


def test_the_key_is_for_the_api_alone(tmp_path: Path) -> None:
    with serving(lambda handler, _: handler.give(200, png())) as web:
        picture = {"url": web.url("/1.png"), "content_type": "image/png"}
        with Client(web.url(), "px_x_y") as client:
            client.save({"id": "x", "outputs": [picture]}, tmp_path)
    assert "authorization" not in web.visits[0].headers


@pytest.mark.parametrize(("amount", "units"), [("0.02", 3), ("0.000000000000000001", 7), ("9", 1)])
def test_the_bound_is_never_below_what_was_quoted(amount: str, units: int) -> None:
    bound = Fraction(price_bound({"amount": amount, "units": units}))
    assert 0 <= bound - Fraction(amount) / units < Fraction(1, 10**18)
