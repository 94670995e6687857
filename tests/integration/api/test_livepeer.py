"""The Livepeer gateway's routes: its fields and defaults, its answers, and every error in the shape
that its clients parse."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import text
from werkzeug.test import TestResponse

from tasks import claims, policies
from tasks.catalog import Catalog
from tasks.engine.protocol import ImageTask
from tasks.tables import Job
from tests.fakes import FakeEngine, picture
from tests.integration.api.conformance import Answer
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.test_waiting import backend
from tests.integration.api.working import working
from tests.integration.api.world import MODEL, ORCHESTRATOR, PRICE, UNSOLD, World, png
from tests.stage import eventually

TEXT, IMAGE = "/text-to-image", "/image-to-image"
SMALL: dict[str, Any] = {"prompt": "a fox", "model_id": MODEL, "width": 64, "height": 64}
OTHER_PREFIX = "/api/beta/generate"


@pytest.fixture(scope="module")
def engine_() -> FakeEngine:
    engine = FakeEngine()
    engine.has_checker = True
    return engine


@pytest.fixture(scope="module")
def lit(shared_world: World, engine_: FakeEngine) -> Iterator[World]:
    """A world with a worker, for all tests of this module."""
    with working(shared_world, engine_):
        yield shared_world


def draw(world: World, path: str = TEXT, key: str | None = None, **changes: Any) -> Answer:
    return world.client(key).post(path, json={**SMALL, **changes})


def edit(world: World, picture: bytes | None = None, name: str = "a.png", **fields: str) -> Answer:
    data: dict[str, Any] = {"prompt": "a hat", "model_id": MODEL, **fields}
    data["image"] = (io.BytesIO(png() if picture is None else picture), name)
    return world.client().post(IMAGE, data=data, content_type="multipart/form-data")


def parameters(world: World, response: Answer) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = world.client().get(f"/v1/jobs/{response.json['job_id']}").json
    parameters: dict[str, Any] = found["parameters"]
    return parameters


# --- pictures ---------------------------------------------------------------------------------


def test_pictures_are_there_with_the_answer_and_with_what_was_paid(lit: World) -> None:
    response = draw(lit, num_images_per_prompt=2, seed=7, num_inference_steps=5, unknown="ignored")

    assert response.status_code == 200, response.text
    body = response.json
    assert [(one["seed"], set(one)) for one in body["images"]] == [
        (7, {"url", "seed", "nsfw"}),
        (8, {"url", "seed", "nsfw"}),
    ]
    assert all(one["nsfw"] in (True, False) for one in body["images"])
    assert (body["model_id"], body["orchestrator"]) == (MODEL, ORCHESTRATOR)
    assert (body["units"], body["price_per_unit"]) == (2 * 64 * 64, PRICE)
    assert (body["amount"], body["currency"]) == ("0.000156249980928", "USD")
    assert (body["num_inference_steps"], body["guidance_scale"]) == (5, 7.5)
    for one in body["images"]:
        picture = lit.client("").get(one["url"].removeprefix("http://localhost"))
        assert Image.open(io.BytesIO(picture.data)).size == (64, 64)


def test_more_pictures_than_livepeer_can_keep_are_all_there_and_all_different(lit: World) -> None:
    images = draw(lit, num_images_per_prompt=16, seed=100).json["images"]

    assert [one["seed"] for one in images] == list(range(100, 116))
    fetched = {
        lit.client("").get(one["url"].removeprefix("http://localhost")).data for one in images
    }
    assert len(fetched) == 16


def test_what_is_not_given_is_as_at_livepeer(lit: World) -> None:
    large = lit.client().post(TEXT, json={"prompt": "a fox"}).json["detail"]
    assert [one["msg"].split(";")[0] for one in large] == ["is 1024", "is 576"]
    found = parameters(lit, draw(lit))
    assert (found["num_inference_steps"], found["guidance_scale"]) == (50, 7.5)
    assert (found["num_images_per_prompt"], found["safety_check"]) == (1, True)
    found = parameters(lit, edit(lit))
    assert (found["num_inference_steps"], found["strength"]) == (100, 0.8)
    assert found["guidance_scale"] == 7.5


def test_what_is_empty_or_null_is_not_given(lit: World) -> None:
    empty: dict[str, Any] = {
        "model_id": "",
        "loras": "",
        "negative_prompt": "",
        "seed": None,
        "safety_check": "",
    }
    found = parameters(lit, draw(lit, **empty))
    assert (found["model_id"], found["loras"], found["safety_check"]) == (MODEL, {}, True)
    found = parameters(lit, edit(lit, model_id="", loras="", seed="", strength=""))
    assert (found["model_id"], found["strength"]) == (MODEL, 0.8)


def test_numbers_and_booleans_may_come_as_text(lit: World) -> None:
    response = edit(
        lit, seed="3", safety_check="false", num_inference_steps="7", guidance_scale="2.5"
    )
    found = parameters(lit, response)
    assert (found["seed"], found["safety_check"], found["num_inference_steps"]) == (3, False, 7)
    assert found["guidance_scale"] == 2.5
    assert response.json["images"][0]["nsfw"] is False
    assert parameters(lit, draw(lit, width="64", seed="9"))["seed"] == 9


def test_too_few_steps_are_the_models_own_and_no_pictures_are_one(lit: World) -> None:
    found = parameters(lit, draw(lit, num_inference_steps=0, num_images_per_prompt=0))
    assert (found["num_inference_steps"], found["num_images_per_prompt"]) == (8, 1)


def test_what_a_model_does_not_take_is_dropped(lit: World) -> None:
    assert edit(lit, image_guidance_scale="99").status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_file_is_what_its_content_says(lit: World, kind: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (70, 64), "teal").save(out, kind)
    response = edit(lit, out.getvalue(), name="no-extension")
    assert (response.json["width"], response.json["height"]) == (72, 64)
    assert response.json["units"] == 72 * 64


def test_the_routes_are_under_the_prefix_and_with_a_slash_too(lit: World) -> None:
    for path in (OTHER_PREFIX + TEXT, TEXT + "/"):
        response = draw(lit, path)
        assert response.status_code == 200
        assert response.json["images"][0]["url"].startswith("http://localhost/stream/")


def test_a_repeated_request_answers_the_same_job(lit: World) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = (lit.client().post(TEXT, json=SMALL, headers=headers) for _ in range(2))
    assert first.json == again.json


def test_ten_clients_at_once_get_what_each_has_asked_for(lit: World) -> None:
    asked: list[dict[str, Any]] = [
        {"seed": 1000 * n, "num_images_per_prompt": 1 + n % 3, "num_inference_steps": 4 + n % 2}
        for n in range(10)
    ]
    answers: dict[int, Answer] = {}

    def run(number: int) -> None:
        answers[number] = draw(lit, **asked[number], guidance_scale=float(number % 3))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, wanted in enumerate(asked):
        body = answers[number].json
        seeds = [one["seed"] for one in body["images"]]
        assert seeds == [wanted["seed"] + k for k in range(wanted["num_images_per_prompt"])]
        assert body["num_inference_steps"] == wanted["num_inference_steps"]
        assert body["guidance_scale"] == number % 3


# --- waiting ----------------------------------------------------------------------------------


def test_who_prefers_not_to_wait_is_told_where_to_poll(lit: World) -> None:
    headers = {"Prefer": 'return=minimal, Respond-Async; foo="bar"'}
    response = lit.client().post(TEXT, json=SMALL, headers=headers)

    assert response.status_code == 202
    assert response.json["status"] == "processing"
    assert response.headers["Preference-Applied"] == "respond-async"
    polled = lit.client().get(f"{response.headers['Location']}?wait=60").json
    assert (polled["id"], polled["state"]) == (response.json["job_id"], "succeeded")


def test_who_waits_too_long_is_told_the_job_which_goes_on(make_world: MakeWorld) -> None:
    world = make_world(livepeer_timeout_s=0.2)
    response = draw(world)

    assert (response.status_code, response.json["code"]) == (504, "timeout")
    assert response.json["job_id"] in response.json["detail"]["msg"]
    world.succeed(png())
    job = world.client().get(f"/v1/jobs/{response.json['job_id']}").json
    assert job["state"] == "succeeded"


def test_where_nobody_more_can_wait_nothing_is_submitted(make_world: MakeWorld) -> None:
    world = make_world(max_waiting=2, max_waiting_each=1)
    place = world.runtime.waiting.place
    with place(world.gateway_id):
        own = draw(world)
    with place(uuid4()), place(uuid4()):
        full = draw(world)

    assert (own.status_code, own.json["code"]) == (429, "waiting_limit")
    assert (full.status_code, full.json["code"]) == (503, "too_many_waiting")
    for response in (own, full):
        assert response.headers["Retry-After"] == "1"
        assert "respond-async" in response.json["detail"]["msg"]
    assert world.traces()["jobs"] == 0
    assert world.runtime.waiting.taken == 0


_ENDS = {
    "lora_load_failed": 400,
    "lora_not_found": 400,
    "lora_not_allowed": 400,
    "lora_incompatible": 400,
    "invalid_image": 400,
    "withheld": 400,
    "unchecked": 500,
    "out_of_memory": 500,
    "model_load_failed": 500,
    "worker_lost": 503,
    "storage_error": 503,
    "deadline_passed": 504,
}


def test_a_job_that_ends_without_pictures_says_why(world: World) -> None:
    for code, status in _ENDS.items():

        def fail(job: Job, code: str = code) -> None:
            world.change(lambda session: claims.fail(session, job.id, 1, code, "as it is."))

        response = ended(world, fail)
        assert (response.status_code, response.json["code"]) == (status, code)
        assert response.json["detail"] == {"msg": "as it is."}
        assert response.json["job_id"]
        assert ("Retry-After" in response.headers) == (status == 503)

    def cancel(job: Job) -> None:
        assert world.client().post(f"/v1/jobs/{job.id}/cancel").status_code in (200, 202)

    canceled = ended(world, cancel)
    assert (canceled.status_code, canceled.json["code"]) == (409, "canceled")


def test_what_a_key_brings_back_is_not_to_be_asked_for_again(world: World) -> None:
    def lose(job: Job) -> None:
        world.change(lambda session: claims.fail(session, job.id, 1, "worker_lost", "as it is."))

    response = ended(world, lose, {"Idempotency-Key": "mine"})
    again = world.client().post(TEXT, json=SMALL, headers={"Idempotency-Key": "mine"})
    assert (response.status_code, again.status_code) == (503, 503)
    assert response.json == again.json
    assert "Retry-After" not in response.headers
    assert "Retry-After" not in again.headers


def ended(
    world: World, end: Callable[[Job], None], headers: dict[str, str] | None = None
) -> Answer:
    """What a client is answered whose job ends like this once a worker has it."""
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(world.client().post(TEXT, json=SMALL, headers=headers))

    client = threading.Thread(target=ask)
    client.start()
    assert eventually(lambda: backend(world))
    assert eventually(lambda: _queued(world))
    end(world.claim())
    client.join()
    return answers[0]


def _queued(world: World) -> bool:
    with world.sessions() as session:
        return bool(session.scalar(text("SELECT count(*) FROM jobs WHERE state = 'queued'")))


def test_a_request_of_which_some_pictures_are_withheld_says_so_and_pays_for_the_others(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    world.change(lambda session: policies.set_safety(session, world.gateway_id, "withhold"))
    engine = FakeEngine()
    engine.has_checker = True
    with working(world, engine):
        seed = next(seed for seed in range(100) if _flagged(seed) != _flagged(seed + 1))
        body = draw(world, seed=seed, num_images_per_prompt=2).json

    assert [one["seed"] for one in body["images"]] == [seed + _flagged(seed)]
    assert (body["units"], body["amount"]) == (64 * 64, "0.000078124990464")
    assert body["error"]["code"] == "partial_result"


def _flagged(seed: int) -> bool:
    """Tell whether the checker of the tests flags what they draw of a seed: red above green."""
    red, green = picture(ImageTask("a fox", "", seed), 1, 1).tobytes()[:2]
    return red > green


# --- errors -----------------------------------------------------------------------------------


def test_who_has_no_key_is_told_so_in_livepeers_words(shared_world: World) -> None:
    for key in ("", "nonsense", shared_world.revoked_key):
        response = draw(shared_world, key=key)
        assert response.status_code == 401
        assert response.json["detail"]["msg"]
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_by_setting_who_has_no_key_spends_from_one(make_world: MakeWorld) -> None:
    world = make_world()
    settings = world.runtime.settings.model_copy(update={"livepeer_key": SecretStr(world.key)})
    vars(world.runtime)["settings"] = settings
    wait = {"Prefer": "respond-async"}

    assert world.client("").post(TEXT, json=SMALL, headers=wait).status_code == 202
    assert world.client("wrong").post(TEXT, json=SMALL, headers=wait).status_code == 401
    assert world.client("").get("/v1/balance").status_code == 401


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"width": 100_000}, "width"),
        ({"height": -1}, "height"),
        ({"num_images_per_prompt": 17}, "num_images_per_prompt"),
        ({"guidance_scale": "much"}, "guidance_scale"),
        ({"guidance_scale": 1e300}, "guidance_scale"),
        ({"seed": 2**70}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_a_wrong_field_is_named_in_a_list(
    shared_world: World, changes: dict[str, Any], field: str
) -> None:
    response = draw(shared_world, **changes)
    assert response.status_code == 422, response.text
    [wrong] = response.json["detail"]
    assert (wrong["loc"], wrong["type"]) == (["body", field], "invalid_params")
    assert wrong["msg"]


@pytest.mark.parametrize(
    ("loras", "said"),
    [
        ("{", "cannot be parsed as JSON"),
        ("[]", "must be a JSON object"),
        (json.dumps({f"a/{n}": 1 for n in range(5)}), "at most 4"),
        ('{"a/b": "strong"}', "must be a number"),
        ('{"a/b": NaN}', "must be a number"),
        ('{"/etc/passwd": 1}', "may be used here"),
    ],
)
def test_adapters_that_are_wrong_are_a_bad_request(
    shared_world: World, loras: str, said: str
) -> None:
    response = draw(shared_world, loras=loras)
    assert response.status_code == 400
    assert said in response.json["detail"]["msg"]


def test_a_picture_that_is_none_is_named(shared_world: World) -> None:
    response = edit(shared_world, b"not a picture")
    assert response.status_code == 422
    assert response.json["detail"][0]["loc"] == ["body", "image"]


@pytest.mark.parametrize("image", [None, "text"])
def test_a_form_without_a_file_is_told_what_lacks(shared_world: World, image: str | None) -> None:
    data = {"prompt": "a hat", "model_id": MODEL, **({} if image is None else {"image": image})}
    response = shared_world.client().post(IMAGE, data=data, content_type="multipart/form-data")
    assert response.status_code == 422
    assert response.json["detail"][0]["loc"] == ["body", "image"]


def test_other_refusals_keep_their_status_and_say_what_to_do(shared_world: World) -> None:
    world = shared_world
    client = world.client()
    unknown = draw(world, model_id="no/such")
    assert (unknown.status_code, unknown.json["code"]) == (404, "unknown_model")
    assert MODEL in unknown.json["models"]
    poor = draw(world, key=world.poor_key, num_images_per_prompt=16, width=512, height=512)
    assert (poor.status_code, poor.json["code"]) == (402, "insufficient_funds")
    unlimited = draw(world, key=world.other_key)
    assert (unlimited.status_code, unlimited.json["code"]) == (402, "no_price_limit")
    typed = client.post(TEXT, data="x", content_type="text/plain")
    assert (typed.status_code, typed.json["code"]) == (415, "unsupported_content_type")
    typed = client.post(IMAGE, json=SMALL)
    assert (typed.status_code, typed.json["code"]) == (415, "unsupported_content_type")
    broken = client.post(TEXT, data="{", content_type="application/json")
    assert (broken.status_code, broken.json["code"]) == (400, "malformed_body")
    array = client.post(TEXT, json=[1])
    assert (array.status_code, array.json["detail"][0]["loc"]) == (422, ["body", "body"])
    form = "multipart/form-data; boundary=x"
    large = client.post(IMAGE, data=b"x" * 2_000_000, content_type=form)
    assert (large.status_code, large.json["code"]) == (413, "body_too_large")
    cut = client.post(IMAGE, data=b"--x\r\n", content_type=form)
    assert (cut.status_code, cut.json["code"]) == (400, "malformed_body")
    for response in (unknown, poor, unlimited, typed, broken, large, cut):
        assert response.json["detail"]["msg"]


@pytest.mark.parametrize("path", [TEXT, IMAGE + "/", OTHER_PREFIX + TEXT])
def test_another_method_is_refused_in_livepeers_shape(shared_world: World, path: str) -> None:
    # The tests' own client wants a problem wherever no operation is documented.
    response = FlaskClient(shared_world.app, TestResponse).get(path)
    assert (response.status_code, response.get_json()["code"]) == (405, "method_not_allowed")
    assert response.get_json()["detail"]["msg"]
    assert "POST" in response.headers["Allow"]


def test_where_nothing_is_offered_there_is_no_default_model(make_world: MakeWorld) -> None:
    world = make_world()
    vars(world.runtime)["catalog"] = Catalog([world.runtime.catalog.get(UNSOLD)])
    response = world.client().post(TEXT, json={"prompt": "a fox"})
    assert (response.status_code, response.json["code"]) == (404, "no_offer")


def test_the_default_model_is_a_setting(make_world: MakeWorld) -> None:
    world = make_world(livepeer_text_to_image_model="test/unsold")
    response = world.client().post(TEXT, json={"prompt": "a fox", "width": 64, "height": 64})
    assert response.json["code"] == "no_offer"
    assert "test/unsold" in response.json["detail"]["msg"]


def test_our_own_failure_is_told_in_livepeers_shape(world: World) -> None:
    vars(world.runtime)["catalog"] = None
    response = draw(world)
    assert (response.status_code, response.json["code"]) == (500, "internal_error")
    assert response.json["detail"]["msg"]
    assert response.json["request_id"]
