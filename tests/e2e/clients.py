"""What foreign clients do with a running stack: its real models, its S3 server, its webhooks.

The clients are published ones, unmodified. Each function is a scene that asserts what comes of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw
from standardwebhooks.webhooks import Webhook as Verifier
from webuiapi import WebUIApi

from tasks import catalog, names
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.integration.api.test_aws import SAMPLES, V2
from tests.stage import eventually
from tests.web import Handler, Visit, Web

CHECKPOINT = "v1-5-pruned-emaonly"
SMALL: dict[str, Any] = {"prompt": "a fox in the snow", "width": 64, "height": 64, "steps": 2}
_WAIT_S = 150.0

Connection = Mapping[str, Any]


def cat() -> Image.Image:
    picture = Image.new("RGB", (128, 96), "navy")
    ImageDraw.Draw(picture).ellipse((32, 16, 96, 80), fill="orange")
    return picture


def receiver(handler: Handler, visit: Visit) -> None:
    """Give the picture that links lead to, and take messages."""
    if visit.path == "/cat.png":
        out = io.BytesIO()
        cat().save(out, "PNG")
        handler.give(200, out.getvalue(), Content_Type="image/png")
    else:
        handler.give(204)


# --- the WebUI's client -----------------------------------------------------------------------


@contextlib.contextmanager
def webui(connection: Connection, key: str | None = None) -> Iterator[WebUIApi]:
    """The WebUI's client, with Basic auth."""
    password = connection["api_key"] if key is None else key
    api = WebUIApi(baseurl=f"{connection['url']}/sdapi/v1", username="x", password=password)
    with api.session:
        yield api


def bearer(connection: Connection) -> httpx.Client:
    """A client of the native API."""
    headers = {"Authorization": f"Bearer {connection['api_key']}"}
    return httpx.Client(base_url=connection["url"], timeout=90, headers=headers)


def draw_by_the_webui(connection: Connection) -> None:
    """Text, a picture, a mask, a set model, a larger picture: all drawn by the stack's models."""
    with webui(connection) as api:
        api.util_set_model(next(name for name in api.util_get_model_names() if CHECKPOINT in name))
        assert CHECKPOINT in api.util_get_current_model()

        first, second = api.txt2img(**SMALL, seed=5, batch_size=2, sampler_name="Euler a").images
        assert first.size == (64, 64)
        assert first.tobytes() != second.tobytes()
        assert "Model: v1-5-pruned-emaonly" in first.info["parameters"]

        mask = Image.new("L", (128, 96), "black")
        mask.paste("white", (0, 0, 64, 96))
        sized = {**SMALL, "width": 128, "height": 96}
        edited = api.img2img(images=[cat()], denoising_strength=0.6, **sized)
        masked = api.img2img(
            images=[cat()], mask_image=mask, mask_blur=0, inpaint_full_res=False, **sized
        )
        kept = (64, 0, 128, 96)
        assert edited.image.crop(kept).tobytes() != cat().crop(kept).tobytes()
        assert masked.image.crop(kept).tobytes() == cat().crop(kept).tobytes()

        twice = api.txt2img(**SMALL, seed=5, enable_hr=True, hr_scale=1.5, denoising_strength=0.5)
        assert twice.image.size == (96, 96)
        large = api.extra_single_image(image=cat(), upscaler_1="Lanczos", upscaling_resize=2)
        assert large.image.tobytes() == cat().resize((256, 192), Image.Resampling.LANCZOS).tobytes()

        refused = api.session.post(f"{api.baseurl}/txt2img", json={**SMALL, "sampler_name": "none"})
        assert (refused.status_code, "there is no sampler" in refused.json()["detail"]) == (
            400,
            True,
        )
    with webui(connection, "px_nobody") as stranger:
        answer = stranger.session.get(f"{stranger.baseurl}/options")
        assert answer.status_code == httpx.codes.UNAUTHORIZED


def stop_by_the_webui(connection: Connection) -> None:
    """Progress is seen while a picture is drawn, which then is stopped."""
    with webui(connection) as api:
        results: list[Any] = []
        slow = {**SMALL, "width": 512, "height": 512, "steps": 100}
        drawing = threading.Thread(target=lambda: results.append(api.txt2img(**slow)))
        drawing.start()
        busy = eventually(
            lambda: found if (found := api.get_progress())["progress"] > 0 else None, _WAIT_S
        )
        assert busy is not None
        assert (busy["state"]["sampling_steps"], busy["state"]["job_count"]) == (100, 1)
        assert busy["progress"] < 1
        api.interrupt()
        drawing.join(_WAIT_S)
        [stopped] = results
        assert stopped.images == []
        assert api.get_progress()["state"]["job_count"] == 0


# --- two models in turn -----------------------------------------------------------------------


def switch_between_models(connection: Connection) -> None:
    """Twenty jobs of two models in turn get the right one each, in few switches, and in order."""
    known = {spec.model_id: spec for spec in catalog.load(Path(connection["catalog"])).models()}
    two = [name for name, spec in known.items() if spec.source.startswith("/")]
    assert len(two) == 2
    given = io.BytesIO()
    cat().resize((64, 64)).save(given, "PNG")
    asked = {"pipeline": "image-to-image", "prompt": "make it red", "num_inference_steps": 2}
    with bearer(connection) as client:
        ids = [
            client.post(
                "/v1/jobs",
                data={**asked, "model_id": two[n % 2], "seed": n},
                files={"image": given.getvalue()},
            ).json()["id"]
            for n in range(20)
        ]
        done = [client.get(f"/v1/jobs/{job_id}?wait=60").json() for job_id in ids]
        assert {job["state"] for job in done} == {"succeeded"}
        for job in done:
            made = Image.open(io.BytesIO(client.get(job["outputs"][0]["url"]).content))
            assert made.info["model_hash"] == names.weights_hash(known[job["model_id"]])
            assert made.info["seed"] == str(job["parameters"]["seed"])
    order = sorted(done, key=lambda job: (job["started_at"], job["model_id"]))
    switches = sum(one["model_id"] != next_["model_id"] for one, next_ in pairwise(order))
    # One, and those of the first jobs, which a worker may have taken before the others were there.
    assert switches <= 5
    for model_id in two:
        own = [job["parameters"]["seed"] for job in order if job["model_id"] == model_id]
        assert own == sorted(own)


# --- the AWS samples --------------------------------------------------------------------------


def run_the_aws_samples(connection: Connection, web: Web) -> None:
    """What is published, as written but for the link's host, to objects and signed messages."""
    store = ObjectStore.from_settings(
        TaskSettings.model_validate(
            {name.upper(): connection[name] for name in ("redis_url", "s3_endpoint", "s3_bucket")}
            | {
                "S3_ACCESS_KEY_ID": connection["s3_access_key_id"],
                "S3_SECRET_ACCESS_KEY": connection["s3_secret_access_key"],
            }
        )
    )
    with bearer(connection) as client:
        secret = client.post("/v1/webhooks", json={"url": web.url("/hook")}).json()["secret"]
        # As AWS's clients send it.
        client.headers = httpx.Headers({"x-api-key": connection["api_key"]})
        answers = {
            name: client.post(sample.path, json=sample.at(web.url("/cat.png")))
            for name, sample in SAMPLES.items()
        }
    for name, answer in answers.items():
        assert answer.status_code == httpx.codes.OK, answer.text
        sample, accepted = SAMPLES[name], answer.json()
        task_id = sample.folder.rpartition("/")[2]
        assert accepted["output_location"].endswith(f"/{sample.folder}")
        told = _message(web, secret, accepted["job_id"])
        runtime = "sdruntime" if sample.path == V2 else "legacy"
        assert (told["id"], told["runtime"], told["status"]) == (task_id, runtime, "completed")
        [url] = told["image_url"]
        assert url.startswith(f"{accepted['output_location']}/{task_id}-")
        picture = Image.open(io.BytesIO(_object(store, connection, url)))
        assert (picture.format, picture.size) == ("PNG", sample.size)
        manifest = json.loads(_object(store, connection, told["output_url"]))
        assert manifest["parameters"]["id_task"] == task_id
        assert manifest["parameters"]["image_seed"] == picture.info["seed"]


def _message(web: Web, secret: str, job_id: str) -> Any:
    """Wait for what a webhook is told of a job; the receiver's library verifies it."""

    def arrived() -> Any:
        for visit in web.visits:
            if visit.path == "/hook" and json.loads(visit.body)["job_id"] == job_id:
                return Verifier(secret).verify(visit.body, dict(visit.headers))
        return None

    return eventually(arrived, _WAIT_S)


def _object(store: ObjectStore, connection: Connection, url: str) -> bytes:
    return store.get(url.removeprefix(f"s3://{connection['s3_bucket']}/"))
