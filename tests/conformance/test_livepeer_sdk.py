"""The published `livepeer-ai` SDK, unmodified: what it sends is understood, and what it is answered
it parses."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from livepeer_ai import Livepeer
from livepeer_ai.models import errors
from livepeer_ai.models.components import BodyGenImageToImage, TextToImageParams
from livepeer_ai.utils import BackoffStrategy, RetryConfig
from PIL import Image
from pydantic import BaseModel

from api.dialects.livepeer.fields import ImageToImage, TextToImage
from tests.fakes import FakeEngine, Gate
from tests.integration.api.world import MAX_BODY_BYTES, MODEL, World, png

SMALL = {"prompt": "a fox", "model_id": MODEL, "width": 64, "height": 64}
PICTURE = {"file_name": "cat.png", "content": png()}
PREFIX = "/api/beta/generate"


def small(**changes: object) -> Any:
    """A text-to-image request, as a dictionary like those of the SDK's documentation."""
    return {**SMALL, **changes}


def edit(**changes: object) -> Any:
    """An image-to-image request."""
    return {"prompt": "a hat", "model_id": MODEL, "image": PICTURE, **changes}


@pytest.fixture
def sdk(address: str, shared_world: World) -> Iterator[Livepeer]:
    with Livepeer(http_bearer=shared_world.key, server_url=address) as livepeer:
        yield livepeer


def fetched(url: str) -> Image.Image:
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(TextToImage, TextToImageParams), (ImageToImage, BodyGenImageToImage)]
)
def test_fields_and_defaults_are_the_sdks(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    def told(model: type[BaseModel]) -> dict[str, tuple[bool, object]]:
        fields = model.model_fields.items()
        return {name: (field.is_required(), field.default) for name, field in fields}

    assert told(ours) == told(theirs)


def test_text_to_image(sdk: Livepeer) -> None:
    response = sdk.generate.text_to_image(request=small(seed=5, num_images_per_prompt=3))

    assert response.image_response is not None
    images = response.image_response.images
    assert [(one.seed, one.nsfw) for one in images] == [(5, False), (6, False), (7, False)]
    assert [fetched(one.url).size for one in images] == [(64, 64)] * 3


@pytest.mark.parametrize("name", ["cat.png", "cat"])
def test_image_to_image(sdk: Livepeer, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(png(72, 64))
    with file.open("rb") as content:
        picture = {"file_name": name, "content": content}
        response = sdk.generate.image_to_image(request=edit(image=picture, strength=0.5))

    assert response.image_response is not None
    [image] = response.image_response.images
    assert fetched(image.url).size == (72, 64)


def test_an_adapter_reaches_the_job(sdk: Livepeer, shared_world: World) -> None:
    response = sdk.generate.text_to_image(request=small(loras='{ "nerijs/pixel-art-xl": 1.2 }'))

    answer: Any = response.http_meta
    body = answer.response.json()
    job = shared_world.client().get(f"/v1/jobs/{body['job_id']}").json
    assert job["parameters"]["loras"] == {"nerijs/pixel-art-xl": 1.2}


def test_the_asynchronous_client(address: str, shared_world: World) -> None:
    async def both() -> list[Any]:
        async with Livepeer(http_bearer=shared_world.key, server_url=address + PREFIX) as livepeer:
            return list(
                await asyncio.gather(
                    livepeer.generate.text_to_image_async(request=small()),
                    livepeer.generate.image_to_image_async(request=edit()),
                )
            )

    for response in asyncio.run(both()):
        assert fetched(response.image_response.images[0].url).size == (64, 64)


def test_a_retry_with_a_key_answers_the_same_pictures(sdk: Livepeer) -> None:
    headers = {"Idempotency-Key": "sdk-1"}
    first, again = (
        sdk.generate.text_to_image(
            request=small(),
            http_headers=headers,
            retries=RetryConfig("backoff", BackoffStrategy(1, 50, 1.5, 1000), True),
        )
        for _ in range(2)
    )
    assert first.image_response == again.image_response


def test_a_client_that_gives_up_finds_its_pictures_by_its_key(
    sdk: Livepeer, engine: FakeEngine
) -> None:
    headers, drawing = {"Idempotency-Key": "sdk-hasty"}, Gate()
    before, engine.on_step = engine.on_step, drawing
    try:
        with pytest.raises(httpx.ReadTimeout):
            sdk.generate.text_to_image(request=small(seed=9), http_headers=headers, timeout_ms=200)
        drawing.wait_for_arrival()
    finally:
        engine.on_step = before
        drawing.open()
    calls = len(engine.batches)
    response = sdk.generate.text_to_image(request=small(seed=9), http_headers=headers)

    assert response.image_response is not None
    assert [one.seed for one in response.image_response.images] == [9]
    assert len(engine.batches) == calls


# --- errors -----------------------------------------------------------------------------------

Call = Callable[[Livepeer], object]


def text(**changes: object) -> Call:
    return lambda sdk: sdk.generate.text_to_image(request=small(**changes))


def keyed(**changes: object) -> Call:
    headers = {"Idempotency-Key": "sdk-2"}
    return lambda sdk: sdk.generate.text_to_image(request=small(**changes), http_headers=headers)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (text(loras="{"), "cannot be parsed as JSON"),
        (text(loras="[]"), "must be a JSON object"),
        (text(loras=json.dumps({f"a/{n}": 1 for n in range(5)})), "at most 4"),
        (lambda sdk: sdk.generate.image_to_image(request=edit(loras="5")), "JSON object"),
    ],
)
def test_a_bad_request_is_the_sdks_own_error(sdk: Livepeer, call: Call, words: str) -> None:
    with pytest.raises(errors.HTTPError) as refused:
        call(sdk)
    assert words in refused.value.data.detail.msg


def test_a_wrong_key_is_the_sdks_own_error(address: str) -> None:
    with (
        Livepeer(http_bearer="wrong", server_url=address) as sdk,
        pytest.raises(errors.HTTPError) as refused,
    ):
        sdk.generate.text_to_image(request=small())
    assert "not an API key" in refused.value.data.detail.msg


def test_our_own_failure_is_the_sdks_own_error(sdk: Livepeer, shared_world: World) -> None:
    catalog = shared_world.runtime.catalog
    vars(shared_world.runtime)["catalog"] = None
    try:
        with pytest.raises(errors.HTTPError) as failed:
            sdk.generate.text_to_image(request=small())
    finally:
        vars(shared_world.runtime)["catalog"] = catalog
    assert "logged" in failed.value.data.detail.msg


def test_a_wrong_field_is_the_sdks_own_error(sdk: Livepeer) -> None:
    picture = {"file_name": "cat.png", "content": b"no picture"}
    for call in (
        text(num_images_per_prompt=100),
        lambda sdk: sdk.generate.image_to_image(request=edit(image=picture)),
    ):
        with pytest.raises(errors.HTTPValidationError) as refused:
            call(sdk)
        assert refused.value.data.detail


def test_other_refusals_carry_their_status_and_body(
    sdk: Livepeer, address: str, shared_world: World
) -> None:
    large = {"file_name": "cat.png", "content": b"x" * (MAX_BODY_BYTES + 1)}
    poor = Livepeer(http_bearer=shared_world.poor_key, server_url=address)
    calls: list[tuple[Livepeer, Call, int]] = [
        (sdk, text(model_id="no/such"), 404),
        (poor, text(num_images_per_prompt=16, width=512, height=512), 402),
        (sdk, lambda sdk: sdk.generate.image_to_image(request=edit(image=large)), 413),
        (sdk, keyed(seed=2), 409),
    ]
    keyed(seed=1)(sdk)
    with poor:
        for client, call, status in calls:
            with pytest.raises(errors.SDKError) as refused:
                call(client)
            assert refused.value.status_code == status
            assert json.loads(refused.value.body)["detail"]["msg"]


def test_who_waits_too_often_is_told_when_to_come_again(sdk: Livepeer, shared_world: World) -> None:
    place = shared_world.runtime.waiting.place
    with contextlib.ExitStack() as taken:
        for _ in range(shared_world.runtime.settings.max_waiting_each):
            taken.enter_context(place(shared_world.gateway_id))
        with pytest.raises(errors.SDKError) as refused:
            sdk.generate.text_to_image(request=small())
    answer: Any = refused.value.raw_response
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert "respond-async" in answer.json()["detail"]["msg"]


def test_a_timeout_tells_the_job(sdk: Livepeer, shared_world: World) -> None:
    settings = shared_world.runtime.settings
    vars(shared_world.runtime)["settings"] = settings.model_copy(
        update={"livepeer_timeout_s": 0.001}
    )
    try:
        with pytest.raises(errors.SDKError) as late:
            sdk.generate.text_to_image(request=small(num_inference_steps=100))
    finally:
        vars(shared_world.runtime)["settings"] = settings
    assert late.value.status_code == 504
    job_id = json.loads(late.value.body)["job_id"]
    job = shared_world.client().get(f"/v1/jobs/{job_id}?wait=60").json
    assert job["state"] == "succeeded"
