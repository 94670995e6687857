"""The AWS task API: what it takes, what it answers, and what it refuses, by the table of AWS's."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image

from ledger import accounts, offers
from ledger.money import unit_price
from ledger.offers import Capability
from ledger.tables import Offer
from tasks import jobs, names
from tasks.errors import InvalidImage
from tasks.tables import Job
from tests.integration.api.conformance import Answer
from tests.integration.api.world import (
    CATALOG,
    CHECKPOINT,
    LANCZOS,
    MODEL,
    ORCHESTRATOR,
    UNSOLD,
    UPSCALER,
    World,
    png,
)
from tests.web import Handler, Visit, Web, serving

PROMPT = (
    "cat wizard, gandalf, lord of the rings, detailed, fantasy, cute, adorable, Pixar, Disney, 8k"
)
# The two examples of the original's page, but for the host of the link.
NEW: dict[str, Any] = {
    "task": {
        "metadata": {
            "id": "test-i2i",
            "runtime": "sdruntime",
            "tasktype": "image-to-image",
            "prefix": "output",
            "context": "",
        },
        "content": {
            "alwayson_scripts": {},
            "prompt": PROMPT,
            "steps": 16,
            "width": 512,
            "height": 512,
            "init_images": ["LINK"],
        },
    }
}
OLD: dict[str, Any] = {
    "alwayson_scripts": {
        "task": "image-to-image",
        "image_link": "LINK",
        "id_task": "test-i2i",
        "sd_model_checkpoint": CHECKPOINT,
    },
    "prompt": PROMPT,
    "steps": 16,
    "width": 512,
    "height": 512,
}
DOG: dict[str, Any] = {"prompt": "A dog", "steps": 16, "width": 512, "height": 512}
V2, V1 = "/v1alpha2", "/v1alpha1"
_LEFT_OUT = object()


@dataclass(frozen=True)
class Sample:
    """A published request, and what is to come of it where its link leads to 128 x 96 pixels."""

    path: str
    body: dict[str, Any]
    folder: str = "output/test-i2i"
    size: tuple[int, int] = (512, 512)

    def at(self, link: str) -> dict[str, Any]:
        """The request as it was published, but for where the link leads."""
        found: dict[str, Any] = json.loads(json.dumps(self.body).replace('"LINK"', f'"{link}"'))
        return found


def _sample(**facts: Any) -> dict[str, Any]:
    content = facts.pop("content")
    shared = {"runtime": "sdruntime", "prefix": "output", "context": ""}
    return {"task": {"metadata": {**shared, **facts}, "content": content}}


# The page's examples and the test requests of its repository, but for the names of a runtime and
# an upscaler that are not here.
SAMPLES: Mapping[str, Sample] = {
    "page, new": Sample(V2, NEW),
    "page, old": Sample(V1, OLD),
    "text, new": Sample(
        V2,
        _sample(id="test-t2i", tasktype="text-to-image", content={"alwayson_scripts": {}, **DOG}),
        "output/test-t2i",
    ),
    "text, old": Sample(
        V1,
        {
            "alwayson_scripts": {
                "task": "text-to-image",
                "sd_model_checkpoint": CHECKPOINT,
                "id_task": "123",
                "uid": "123",
                "save_dir": "outputs",
            },
            **DOG,
        },
        "outputs/123",
    ),
    "larger": Sample(
        V2,
        _sample(
            id="test-extra",
            tasktype="extra-single-image",
            content={
                "resize_mode": 0,
                "show_extras_results": False,
                "gfpgan_visibility": 0,
                "codeformer_visibility": 0,
                "codeformer_weight": 0,
                "upscaling_resize": 4,
                "upscaling_resize_w": 512,
                "upscaling_resize_h": 512,
                "upscaling_crop": False,
                "upscaler_1": "Lanczos",
                "upscaler_2": "None",
                "extras_upscaler_2_visibility": 0,
                "upscale_first": False,
                "image": "LINK",
            },
        ),
        "output/test-extra",
        (512, 384),
    ),
}


def cat(handler: Handler, _: Visit) -> None:
    handler.give(200, png(300, 200), Content_Type="image/png")


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving(cat) as found:
        yield found


@pytest.fixture(scope="module")
def linked(shared_world: World, web: Web) -> World:
    """A world whose operator trusts the server."""
    settings = shared_world.runtime.task_settings.model_copy(
        update={
            "link_hosts": f"127.0.0.1:{web.port}",
            "link_buckets": f"{shared_world.runtime.task_settings.s3_bucket}/shared",
        }
    )
    runtime = replace(shared_world.runtime, task_settings=settings)
    shared_world.app.extensions["pixeltoll"] = runtime
    return replace(shared_world, runtime=runtime)


def post(world: World, path: str, body: Any, key: str | None = None) -> Answer:
    headers = {"x-api-key": world.key if key is None else key}
    return world.client("").post(path, json=body, headers=headers)


def metadata(**changes: Any) -> dict[str, Any]:
    """A text-to-image task with other metadata."""
    facts = {"id": "t-1", "runtime": "sdruntime", "tasktype": "text-to-image", "prefix": "output"}
    facts.update(changes)
    left = {name: value for name, value in facts.items() if value is not _LEFT_OUT}
    return {"task": {"metadata": left, "content": dict(DOG)}}


def content(**changes: Any) -> dict[str, Any]:
    """A text-to-image task with other content."""
    body = metadata()
    body["task"]["content"].update(changes)
    return body


def edit(**changes: Any) -> dict[str, Any]:
    """An image-to-image task with a picture of 64 x 32 in it."""
    picture = base64.b64encode(png(64, 32)).decode()
    body = metadata(tasktype="image-to-image")
    body["task"]["content"].update(init_images=[picture], width=64, height=64, **changes)
    return body


def job(world: World, response: Answer) -> Job:
    assert response.status_code == 200, response.text
    with world.sessions() as session:
        return jobs.find(session, world.gateway_id, response.json["job_id"])


def failure(response: Answer, status: int, code: str) -> Any:
    assert (response.status_code, response.json["code"]) == (status, code), response.text
    return response.json


# --- accepted ---------------------------------------------------------------------------------


def test_both_examples_are_taken_as_they_are_written(linked: World, web: Web) -> None:
    pages = [SAMPLES["page, new"], SAMPLES["page, old"]]
    made = {one.path: post(linked, one.path, one.at(web.url("/cat.png"))) for one in pages}

    place = f"s3://{linked.runtime.task_settings.s3_bucket}/tasks/{linked.gateway_id}"
    for path, response in made.items():
        row = job(linked, response)
        who = {"runtime": "sdruntime"} if path == V2 else {"sd_model_checkpoint": CHECKPOINT}
        assert response.json == {
            "id": "test-i2i",
            "id_task": "test-i2i",
            "output_location": f"{place}/output/test-i2i",
            "job_id": str(row.id),
            **who,
        }
        assert (row.pipeline, row.model_id, row.params["prompt"]) == (
            "image-to-image",
            MODEL,
            PROMPT,
        )
        assert (row.params["width"], row.params["height"]) == (512, 512)
        assert (row.params["num_inference_steps"], row.params["strength"]) == (16, 0.75)
        picture = Image.open(io.BytesIO(linked.store.get(row.input_key or "")))
        assert picture.size == (512, 512)


@pytest.mark.parametrize("field", ["init_images", "mask"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_each_picture_may_be_behind_a_link(
    linked: World, web: Web, field: str, scheme: str
) -> None:
    linked.store.put("shared/cat.png", png(64, 32), "image/png")
    bucket = linked.runtime.task_settings.s3_bucket
    link = web.url("/cat.png") if scheme == "http" else f"s3://{bucket}/shared/cat.png"
    body = edit(inpaint_full_res=False)
    body["task"]["content"][field] = [link] if field == "init_images" else link
    row = job(linked, post(linked, V2, body))
    assert row.params["masked"] is (field == "mask")
    assert Image.open(io.BytesIO(linked.store.get(row.input_key or ""))).size == (64, 64)


def test_the_published_text_requests_are_taken(shared_world: World) -> None:
    row = job(shared_world, post(shared_world, V1, SAMPLES["text, old"].body))
    assert (row.callback or {})["task"]["folder"].endswith("/outputs/123")
    row = job(shared_world, post(shared_world, V2, SAMPLES["text, new"].body))
    assert (row.params["guidance_scale"], row.num_images) == (7.0, 1)


def test_what_is_left_out_is_as_in_the_web_ui(shared_world: World) -> None:
    body = metadata()
    body["task"]["content"] = {"prompt": "A dog", "width": None, "unknown": 5, "seed": -1}
    found = job(shared_world, post(shared_world, V2, body)).params
    assert (found["width"], found["height"], found["num_inference_steps"]) == (512, 512, 50)
    assert found["seed"] >= 0


def test_pictures_are_batches_times_their_size(shared_world: World) -> None:
    asked = content(batch_size=3, n_iter=2, seed=7, width=64, height=64)
    row = job(shared_world, post(shared_world, V2, asked))
    assert (row.num_images, row.params["seed"], row.units) == (6, 7, 6 * 64 * 64)


@pytest.mark.parametrize("where", ["alwayson_scripts", "override_settings", "hidden"])
@pytest.mark.parametrize(
    "name",
    [CHECKPOINT, MODEL, CHECKPOINT.removesuffix(".safetensors"), names.title(CATALOG.get(MODEL))],
)
def test_a_dynamic_runtime_takes_a_model_by_any_name(
    shared_world: World, where: str, name: str
) -> None:
    named: dict[str, Any] = {"sd_model_checkpoint": name}
    body = (
        content(alwayson_scripts={"override_settings": named})
        if where == "hidden"
        else content(**{where: named})
    )
    assert job(shared_world, post(shared_world, V2, body)).model_id == MODEL


def test_the_key_may_come_as_a_bearer_too(shared_world: World) -> None:
    assert shared_world.client().post(V2, json=metadata()).status_code == 200


def test_the_content_type_is_not_asked_for(shared_world: World) -> None:
    response = shared_world.client().post(
        V1, data='{"alwayson_scripts": 5}', content_type="application/x-www-form-urlencoded"
    )
    assert failure(response, 400, "invalid_params")["message"].startswith("Incorrect payload")


def test_a_task_may_be_done_again_and_a_repeated_request_is_one(shared_world: World) -> None:
    first, again = (post(shared_world, V2, metadata()) for _ in range(2))
    assert first.json["job_id"] != again.json["job_id"]
    headers = {"Idempotency-Key": "one-task"}
    first, again = (
        shared_world.client().post(V2, json=metadata(), headers=headers) for _ in range(2)
    )
    assert first.json == again.json
    for other in (metadata(id="t-2"), metadata(prefix="elsewhere"), metadata(context=5)):
        response = shared_world.client().post(V2, json=other, headers=headers)
        failure(response, 409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("mode", "edge"), [(0, (0, 128, 128)), (1, (0, 128, 128)), (2, (0, 128, 128))]
)
def test_a_picture_is_brought_to_the_size_that_is_asked(
    shared_world: World, mode: int, edge: tuple[int, ...]
) -> None:
    row = job(shared_world, post(shared_world, V2, edit(resize_mode=mode)))
    stored = Image.open(io.BytesIO(shared_world.store.get(row.input_key or "")))
    assert stored.size == (64, 64)
    assert {stored.getpixel(place) for place in ((0, 0), (63, 63), (32, 32))} == {edge}


def test_samplers_adapters_and_masks_are_the_web_uis(shared_world: World) -> None:
    asked = {"sampler_name": "DPM++ 2M", "scheduler": "Karras", "prompt": "a dog <lora:a/b:0.5>"}
    run = job(shared_world, post(shared_world, V2, content(**asked))).params
    assert (run["sampler"], run["schedule"]) == ("DPM++ 2M", "Karras")
    assert (run["prompt"], run["loras"]) == ("a dog", {"a/b": 0.5})
    mask = base64.b64encode(png(64, 32)).decode()
    masked = post(shared_world, V2, edit(mask=mask, inpaint_full_res=False))
    assert job(shared_world, masked).params["masked"] is True


# --- refused ----------------------------------------------------------------------------------


def without(name: str) -> dict[str, Any]:
    body = metadata()
    del body["task"][name]
    return body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (metadata(id=_LEFT_OUT), "Incorrect payload structure, invalid id format"),
        (metadata(id="a/b"), "Incorrect payload structure, invalid id format"),
        (metadata(id=5), "Incorrect payload structure, invalid id format"),
        (metadata(id=""), "Incorrect payload structure, invalid id format"),
        (metadata(id="-_"), "Incorrect payload structure, invalid id format"),
        (metadata(id="x" * 65), "Incorrect payload structure, invalid id format"),
        (metadata(id="ä"), "Incorrect payload structure, invalid id format"),
        (metadata(id="a\n"), "Incorrect payload structure, invalid id format"),
        (metadata(runtime=_LEFT_OUT), "Incorrect payload structure, invalid runtime format"),
        (metadata(runtime="a b"), "Incorrect payload structure, invalid runtime format"),
        (metadata(tasktype="pipeline"), "Incorrect payload structure, invalid tasktype"),
        (metadata(tasktype="extra-batch-image"), "Incorrect payload structure, invalid tasktype"),
        (metadata(tasktype=_LEFT_OUT), "Incorrect payload structure, invalid tasktype"),
        (without("metadata"), "Incorrect payload structure, metadata is missing"),
        (without("content"), "Incorrect payload structure, content is missing"),
        (metadata(prefix=_LEFT_OUT), "Invalid request format"),
        (metadata(prefix=""), "Invalid request format"),
        ({}, "Invalid request format"),
        ([], "Invalid request format"),
        (5, "Invalid request format"),
    ],
)
def test_a_malformed_task_is_refused_in_the_originals_words(
    shared_world: World, body: Any, said: str
) -> None:
    found = failure(post(shared_world, V2, body), 400, "invalid_params")
    assert found["message"].startswith(f"{said}: ")
    assert found["errors"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sd_model_checkpoint", "sd_model_checkpoint is missing"),
        ("task", "invalid task"),
        ("id_task", "invalid id_task format"),
        ("image_link", "Incorrect payload structure: init_images"),
        (None, "alwayson_scripts is missing"),
    ],
)
def test_a_malformed_old_task_is_too(shared_world: World, name: str | None, said: str) -> None:
    body = copy.deepcopy(OLD)
    if name is None:
        del body["alwayson_scripts"]
    else:
        del body["alwayson_scripts"][name]
    assert said in failure(post(shared_world, V1, body), 400, "invalid_params")["message"]


def test_what_is_not_json_is_refused(shared_world: World) -> None:
    response = shared_world.client().post(V2, data="{", content_type="application/json")
    found = failure(response, 400, "malformed_body")
    assert found["message"].startswith("Invalid request format: ")


def test_a_body_that_is_too_large_is_refused(shared_world: World) -> None:
    response = post(shared_world, V2, content(init_images=["x" * 1_100_000]))
    failure(response, 400, "body_too_large")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (metadata(runtime="nobody"), 404, "unknown_runtime"),
        (content(alwayson_scripts={"sd_model_checkpoint": "no.safetensors"}), 404, "unknown_model"),
        (metadata(runtime="unsold"), 404, "no_offer"),
        (metadata(runtime="southern"), 404, "no_offer"),
        (content(override_settings={"sd_model_checkpoint": UNSOLD}), 404, "no_offer"),
    ],
)
def test_what_cannot_be_routed_is_refused_and_not_lost(
    shared_world: World, body: Any, status: int, code: str
) -> None:
    before = shared_world.traces()
    failure(post(shared_world, V2, body), status, code)
    assert shared_world.traces() == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": 101}, "steps"),
        ({"width": 1024}, "width"),
        ({"batch_size": 5, "n_iter": 5}, "batch_size x n_iter"),
        ({"batch_size": 0}, "batch_size"),
        ({"cfg_scale": 101}, "cfg_scale"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"script_name": "loopback"}, "script_name"),
        ({"enable_hr": True, "hr_upscaler": "SwinIR"}, "hr_upscaler"),
        ({"alwayson_scripts": {"controlnet": {"args": []}}}, "alwayson_scripts"),
        ({"sampler_name": "no such"}, "sampler_name"),
        ({"prompt": "a dog <hypernet:x:1>"}, "prompt"),
        ({"alwayson_scripts": {"sd_model_checkpoint": 5}}, "alwayson_scripts.sd_model_checkpoint"),
        ({"alwayson_scripts": {"override_settings": 5}}, "alwayson_scripts.override_settings"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}},
         "CLIP_stop_at_last_layers"),
        ({"override_settings": {"sd_model_checkpoint": "a"},
          "alwayson_scripts": {"sd_model_checkpoint": "b"}},
         "override_settings.sd_model_checkpoint"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_or_not_done_here_is_named(
    shared_world: World, changes: dict[str, Any], field: str
) -> None:
    found = failure(post(shared_world, V2, content(**changes)), 400, "invalid_params")
    assert [one["field"] for one in found["errors"]] == [field]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resize_mode": 4}, "resize_mode"),
        ({"init_images": []}, "init_images"),
        ({"init_images": ["a", "b"]}, "init_images.1"),
        ({"mask": base64.b64encode(png(64, 64)).decode()}, "inpaint_full_res"),
        ({"init_images": ["AAAA"]}, "init_images"),
        ({"init_images": ["http://169.254.169.254/latest"]}, "init_images"),
        ({"init_images": ["s3://other/cat.png"]}, "init_images"),
        ({"width": 20_000}, "width"),
        ({"denoising_strength": 0}, "denoising_strength"),
    ],
)
def test_a_picture_that_cannot_be_used_is_refused(
    shared_world: World, changes: dict[str, Any], field: str
) -> None:
    before = shared_world.traces()
    body = edit()
    body["task"]["content"].update(changes)
    response = post(shared_world, V2, body)
    assert (response.status_code, response.json["errors"][0]["field"]) == (400, field)
    assert response.json["code"] in ("invalid_params", InvalidImage.code)
    assert shared_world.traces() == before


def larger(**changes: Any) -> dict[str, Any]:
    """A task that makes a picture of 64 x 32 larger."""
    body = metadata(tasktype="extra-single-image")
    picture = base64.b64encode(png(64, 32)).decode()
    body["task"]["content"] = {"image": picture, "upscaler_1": UPSCALER, **changes}
    return body


@pytest.mark.parametrize(
    ("changes", "size", "model_id"),
    [
        ({}, (128, 64), UPSCALER),
        ({"upscaler_1": "None", "upscaling_resize": 0.5}, (32, 16), LANCZOS),
        (
            {"resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100},
            (100, 100),
            UPSCALER,
        ),
    ],
)
def test_a_picture_can_be_made_larger(
    shared_world: World, changes: dict[str, Any], size: tuple[int, int], model_id: str
) -> None:
    shared_world.sell_upscaling()
    row = job(shared_world, post(shared_world, V2, larger(**changes)))
    assert (row.pipeline, row.model_id) == ("upscale", model_id)
    assert (row.params["width"], row.params["height"]) == size
    assert row.units == size[0] * size[1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": ""}, "image"),
        ({"image": "AAAA"}, "image"),
        ({"image": "http://169.254.169.254/latest"}, "image"),
        ({"upscaler_1": "R-ESRGAN 4x+"}, "upscaler_1"),
        ({"upscaling_resize": 5}, "upscaling_resize"),
        ({"gfpgan_visibility": 1}, "gfpgan_visibility"),
        ({"resize_mode": "x"}, "resize_mode"),
        ({"upscaling_resize_w": 10**400, "resize_mode": 1}, "upscaling_resize_w"),
        ({"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts"),
        ({"override_settings": {"samples_format": "tiff"}}, "samples_format"),
        ({"override_settings": {"upscaler_for_img2img": "x"}}, "upscaler_for_img2img"),
    ],
)
def test_what_cannot_be_made_larger_is_refused(
    shared_world: World, changes: dict[str, Any], field: str
) -> None:
    response = post(shared_world, V2, larger(**changes))
    assert response.status_code == 400
    assert response.json["code"] in ("invalid_params", InvalidImage.code)
    assert [one["field"] for one in response.json["errors"]] == [field]


def test_a_fixed_runtime_runs_no_other_model(shared_world: World) -> None:
    for name, status in ((MODEL, 200), (CHECKPOINT, 200), (UNSOLD, 400)):
        body = content(alwayson_scripts={"sd_model_checkpoint": name})
        body["task"]["metadata"]["runtime"] = "fixed"
        assert post(shared_world, V2, body).status_code == status


def test_a_runtime_of_an_orchestrator_goes_to_nobody_else(
    shared_world: World,
) -> None:
    with shared_world.sessions.begin() as session:
        other = accounts.create_orchestrator(session, "cheap", "USD", Decimal(0))
        price = unit_price("0.000000001")
        capability = Capability("text-to-image", MODEL)
        offers.publish(session, other.id, capability, price, "USD")
    try:
        for runtime, who in (("fixed", "cheap"), ("northern", ORCHESTRATOR)):
            row = job(shared_world, post(shared_world, V2, metadata(runtime=runtime)))
            assert row.orchestrator.name == who
    finally:
        with shared_world.sessions.begin() as session:
            [mine] = offers.live(session, Offer.orchestrator_id == other.id)
            offers.withdraw(session, mine)


@pytest.mark.parametrize("key", ["", "px_nobody", "nonsense"])
def test_a_stranger_is_refused(shared_world: World, key: str) -> None:
    found = failure(post(shared_world, V2, metadata(), key=key), 401, "not_authenticated")
    assert found["message"]


def test_who_cannot_pay_is_told_what_is_missing(shared_world: World) -> None:
    found = failure(post(shared_world, V2, metadata(), shared_world.poor_key), 402,
                    "insufficient_funds")  # fmt: skip
    assert found["missing"]


@pytest.mark.parametrize(
    "prefix",
    [
        "..", "../x", "a/../b", "a/..", "./a", "/", "/etc", "//a", "a//b", "%2e%2e/a", "a%2fb",
        "..%2f", "a\\b", "..\\a", "a\x00b", "a\nb", "a\x7f", "\u202ea", "a b", "ä", "...",
        "x" * 513, "a" + "/a" * 256, 5, None,
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [V2, V1])
def test_no_prefix_leads_out_of_its_folder(shared_world: World, path: str, prefix: Any) -> None:
    body = metadata(prefix=prefix)
    if path == V1:
        scripts = {**OLD["alwayson_scripts"], "task": "text-to-image", "save_dir": prefix}
        body = {**DOG, "alwayson_scripts": scripts}
    found = failure(post(shared_world, path, body), 400, "invalid_params")
    assert found["message"].startswith("Invalid request format: ")


@pytest.mark.parametrize("prefix", ["a", "a/", "a/b/c", "a.b", "..a", "inputs", "x" * 512])
def test_a_folders_name_may_be_any_other(shared_world: World, prefix: str) -> None:
    found = post(shared_world, V2, metadata(prefix=prefix))
    root = f"tasks/{shared_world.gateway_id}/"
    assert found.json["output_location"].endswith(f"{root}{prefix.rstrip('/')}/t-1")
