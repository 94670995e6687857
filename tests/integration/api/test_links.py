"""Pictures that a job names by a link: fetched before anything is held, and checked like others."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tasks.errors import InvalidImage
from tasks.tables import Job
from tests.integration.api.world import FROM_IMAGE, World, png, problem
from tests.web import Handler, Visit, Web, serving

LINK = "LINK-TO-A-FOX"


def answers(handler: Handler, visit: Visit) -> None:
    body = png(128, 64) if visit.path.endswith(".png") else b"the secret of the inside"
    handler.give(200, body, Content_Type="image/png")


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving(answers) as found:
        yield found


@pytest.fixture(scope="module")
def linked(shared_world: World, web: Web) -> World:
    """A world whose operator trusts the server, and has a bucket of pictures."""
    world = shared_world
    settings = world.runtime.task_settings.model_copy(
        update={
            "link_hosts": f"127.0.0.1:{web.port}",
            "link_buckets": f"{world.runtime.task_settings.s3_bucket}/shared",
        }
    )
    runtime = replace(world.runtime, task_settings=settings)
    world.app.extensions["pixeltoll"] = runtime
    return replace(world, runtime=runtime)


def ask(world: World, image: str, **more: Any) -> Any:
    return world.client().post("/v1/jobs", json={**FROM_IMAGE, "image": image}, **more)


def test_a_job_takes_its_picture_from_a_link(linked: World, web: Web) -> None:
    job = ask(linked, web.url("/fox.png"))
    assert job.status_code == 202, job.text
    assert (job.json["parameters"]["width"], job.json["units"]) == (128, 128 * 64)
    with linked.sessions() as session:
        key = session.get_one(Job, job.json["id"]).input_key
    assert linked.store.get(key or "").startswith(b"\x89PNG")


def test_a_form_may_name_its_picture_by_a_link(linked: World, web: Web) -> None:
    form = {**FROM_IMAGE, "image": web.url("/fox.png")}
    job = linked.client().post("/v1/jobs", data=form, content_type="multipart/form-data")
    assert (job.status_code, job.json["units"]) == (202, 128 * 64)


def test_a_quote_follows_a_link_too(linked: World, web: Web) -> None:
    quote = linked.client().post("/v1/quotes", json={**FROM_IMAGE, "image": web.url("/fox.png")})
    assert quote.json["units"] == 128 * 64


def test_a_repeated_request_fetches_nothing_again(linked: World, web: Web) -> None:
    before = len(web.visits)
    key = {"Idempotency-Key": "linked-once"}
    first, again = (ask(linked, web.url("/once.png"), headers=key) for _ in range(2))
    assert first.json["id"] == again.json["id"]
    assert len(web.visits) == before + 1
    other = ask(linked, web.url("/other.png"), headers=key)
    problem(other, 409, "idempotency_key_reused")


def test_an_object_of_a_listed_folder_is_read(linked: World) -> None:
    bucket = linked.runtime.task_settings.s3_bucket
    linked.store.put("shared/fox.png", png(128, 64), "image/png")
    linked.store.put("private/fox.png", png(128, 64), "image/png")
    assert ask(linked, f"s3://{bucket}/shared/fox.png").status_code == 202
    for key, said in (
        ("private/fox.png", "not read from this bucket"),
        ("shared/none.png", "no such object"),
        ("shared/../private/fox.png", "dotted parts"),
        ("shared//fox.png", "empty or dotted"),
        ("shared/", "dotted parts"),
    ):
        body = problem(ask(linked, f"s3://{bucket}/{key}"), 422, "invalid_image")
        assert said in body["detail"], key


def test_an_object_of_too_many_bytes_is_not_read(linked: World) -> None:
    bucket = linked.runtime.task_settings.s3_bucket
    small = linked.runtime.task_settings.model_copy(update={"max_input_bytes": 100})
    linked.store.put("shared/large.png", bytes(101), "image/png")
    links = replace(linked.runtime, task_settings=small).links
    with pytest.raises(InvalidImage, match="more than 100 bytes"):
        links.fetch(f"s3://{bucket}/shared/large.png", linked.gateway_id)


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("http://127.0.0.1:1/fox.png", "port 1 "),
        ("http://169.254.169.254/latest/meta-data", "no address that is public"),
        ("http://2130706433/fox.png", "four decimal numbers"),
        ("s3://elsewhere/fox.png", "not read from this bucket"),
        ("{web}/secret", "not a picture"),
    ],
)
def test_a_bad_link_is_told_and_leaves_nothing(
    linked: World, web: Web, link: str, said: str
) -> None:
    before = linked.traces()
    response = ask(linked, link.format(web=web.url()[:-1]))
    body = problem(response, 422, "invalid_image")
    [error] = body["errors"]
    assert error["field"] == "image"
    assert said in error["message"]
    assert "secret" not in response.text
    assert linked.traces() == before


_SENT: Mapping[str, tuple[str, dict[str, Any]]] = {
    "native": ("/v1/jobs", {**FROM_IMAGE, "image": LINK}),
    "quote": ("/v1/quotes", {**FROM_IMAGE, "image": LINK}),
    "aws": (
        "/v1alpha2",
        {
            "task": {
                "metadata": {
                    "id": "t",
                    "runtime": "sdruntime",
                    "tasktype": "image-to-image",
                    "prefix": "p",
                },
                "content": {"prompt": "a fox", "init_images": [LINK]},
            }
        },
    ),
    "webui": ("/sdapi/v1/img2img", {"prompt": "a fox", "init_images": [LINK]}),
    "larger": ("/sdapi/v1/extra-single-image", {"upscaling_resize": 2, "image": LINK}),
}


@pytest.mark.parametrize("route", _SENT)
def test_who_fetches_too_much_is_told_in_its_own_dialect_and_others_are_not(
    linked: World, web: Web, route: str
) -> None:
    path, body = _SENT[route]
    asked = json.loads(json.dumps(body).replace(LINK, web.url("/fox.png")))
    slots = linked.runtime.links.slots
    most, each = (linked.runtime.links.bounds.at_once, linked.runtime.links.bounds.at_once_each)
    before = linked.traces()
    with contextlib.ExitStack() as stack:
        for _ in range(each):
            stack.enter_context(slots.place(linked.gateway_id))
        refused = linked.client().post(path, json=asked)
        assert (refused.status_code, refused.json["code"]) == (429, "link_limit"), refused.text
        assert refused.headers["Retry-After"]
        other = linked.client(linked.other_key).post("/v1/quotes", json=_other(web))
        assert other.json["code"] == "no_price_limit"
    with contextlib.ExitStack() as stack:
        for number in range(most):
            stack.enter_context(slots.place(UUID(int=number // each)))
        busy = linked.client().post(path, json=asked)
        assert (busy.status_code, busy.json["code"]) == (503, "links_busy"), busy.text
        assert busy.headers["Retry-After"]
    assert linked.traces() == before


def _other(web: Web) -> dict[str, Any]:
    """What is refused for its price only after its link was fetched."""
    return {**FROM_IMAGE, "image": web.url("/fox.png")}
