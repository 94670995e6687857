"""What a WebUI client is answered: its pictures in base64 with their `info`, or what went wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Response
from pydantic import ConfigDict, Field

from api import problems, render
from api.dialects.sdwebui import pictures
from api.dialects.sdwebui.fields import Fields, ImageToImage, TextToImage
from api.runtime import Runtime
from api.views import View
from tasks import names
from tasks.catalog import ModelSpec
from tasks.errors import InvalidImage, InvalidParams, StorageError, Withheld
from tasks.finer import FirstPass
from tasks.formats import Kind
from tasks.masks import Cut
from tasks.params import Generation
from tasks.tables import Job, Output

_BAD_REQUEST, _SERVER_ERROR, _GATEWAY_TIMEOUT = 400, 500, 504
# Where the WebUI has another status than 422 for a field.
_BY_FIELD = {"sampler": _BAD_REQUEST, "schedule": _BAD_REQUEST, "init_images": 404}
_ENDED = {
    InvalidImage.code: _BAD_REQUEST,
    Withheld.code: _BAD_REQUEST,
    StorageError.code: 503,
    "worker_lost": 503,
    "deadline_passed": _GATEWAY_TIMEOUT,
}


class Pictures(View):
    """The pictures, what was asked for, and as the text of a JSON object, how they were made."""

    images: list[str] = Field(description="Files in base64.")
    parameters: dict[str, Any]
    info: str


class Extra(View):
    """The picture, and what was done to it."""

    image: str = Field(description="A file in base64; empty if the job was interrupted.")
    html_info: str


class Failure(View):
    """An error, in the WebUI's words and ours. `code` is stable."""

    model_config = ConfigDict(extra="allow")

    error: str
    detail: str
    body: str = ""
    errors: str
    code: str
    job_id: UUID | None = None


def told_as(_status: int) -> type[View]:
    """Return the body that an error of a status has."""
    return Failure


def respond(error: Exception) -> Response:
    """Turn any error into an answer in the WebUI's shape."""
    told = problems.tell(error)
    status = told.problem.status
    if isinstance(error, InvalidParams):
        fields = {one.field for one in error.errors}
        status = _BY_FIELD.get(fields.pop(), status) if len(fields) == 1 else status
    facts = {name: value for name, value in told.facts.items() if name != "errors"}
    headers = dict(told.headers)
    if "WWW-Authenticate" in headers:
        headers["WWW-Authenticate"] = 'Basic realm="pixeltoll", charset="UTF-8"'
    view = Failure.model_validate(
        {
            "error": told.problem.title,
            "detail": told.detail,
            "errors": told.detail,
            "code": told.problem.code,
            **facts,
        }
    )
    return Response(
        view.model_dump_json(exclude_none=True), status, headers, mimetype="application/json"
    )


@dataclass(frozen=True)
class Made:
    """A request with its job: all that an answer is made of."""

    fields: Fields
    spec: ModelSpec
    job: Job
    kind: Kind
    cut: Cut | None


def of(made: Made, runtime: Runtime) -> Response:
    """Show a job that was waited for: its pictures, why it failed, or that it is not done.

    One that was interrupted has no pictures, and is no error to the WebUI.
    """
    if made.job.state == "succeeded":
        return render.answer(_pictures(made, runtime))
    if made.job.state == "canceled":
        return render.answer(Pictures(images=[], parameters=_echo(made.fields), info=_info(made)))
    return _without(made.job)


def of_extra(job: Job, runtime: Runtime) -> Response:
    """Show a job that was to make a picture larger, as `of`."""
    if job.state not in ("succeeded", "canceled"):
        return _without(job)
    run = job.params
    said = f"Upscaled to {run['width']}x{run['height']} by {job.model_id}. Job: {job.id}"
    files = [pictures.encoded(runtime.store.get(one.key)) for one in job.outputs]
    return render.answer(Extra(image=files[0] if files else "", html_info=f"<p>{said}</p>"))


def _without(job: Job) -> Response:
    """Show why a job has no pictures."""
    if job.state in ("queued", "running"):
        said = (
            f"The pictures are not there yet. The job goes on: poll /v1/jobs/{job.id}, "
            "where it can be canceled, too."
        )
        return _failed(job, _GATEWAY_TIMEOUT, "timeout", said)
    code = job.error_code or job.state
    status = _BAD_REQUEST if code.startswith("lora_") else _ENDED.get(code, _SERVER_ERROR)
    return _failed(job, status, code, job.error_message or f"The job was {job.state}.")


def _failed(job: Job, status: int, code: str, said: str) -> Response:
    view = Failure(error="The job failed", detail=said, errors=said, code=code, job_id=job.id)
    again = {"Retry-After": problems.RETRY_AFTER_S} if status == 503 else {}  # noqa: PLR2004  its name is the header
    return render.answer(view, status, **again)


def _pictures(made: Made, runtime: Runtime) -> Pictures:
    images: list[bytes] = []
    if made.fields.send_images:
        images = [
            pictures.finished(runtime.store.get(one.key), made.cut, _infotext(made, one), made.kind)
            for one in made.job.outputs
        ]
        if made.fields.save_images and len(images) > 1:
            images.insert(0, pictures.sheet(images))
    return Pictures(
        images=[pictures.encoded(one) for one in images],
        parameters=_echo(made.fields),
        info=_info(made),
    )


def _echo(fields: Fields) -> dict[str, Any]:
    """Return what was asked for, without the pictures that came with it."""
    echo = fields.model_dump(mode="json")
    if isinstance(fields, ImageToImage) and not fields.include_init_images:
        echo |= {"init_images": None, "mask": None}
    return echo


def _info(made: Made) -> str:
    """Return the WebUI's account of what was run."""
    job, fields, run = made.job, made.fields, made.job.params
    seeds = [one.seed for one in job.outputs]
    ran = Generation.of(run)
    varied = ran.finer.subseed_strength
    has_sheet = fields.send_images and fields.save_images and len(seeds) > 1
    return json.dumps(
        {
            "prompt": fields.prompt,
            "all_prompts": [fields.prompt] * len(seeds),
            "negative_prompt": fields.negative_prompt,
            "all_negative_prompts": [fields.negative_prompt] * len(seeds),
            "seed": run["seed"],
            "all_seeds": seeds,
            "subseed": ran.subseed_of(0) if varied else fields.subseed,
            "all_subseeds": [
                ran.subseed_of(one.index) if varied else fields.subseed for one in job.outputs
            ],
            "subseed_strength": varied,
            "width": run["width"],
            "height": run["height"],
            "sampler_name": _sampler(made),
            "cfg_scale": run["guidance_scale"],
            "steps": run["num_inference_steps"],
            "batch_size": fields.batch_size,
            "restore_faces": False,
            "face_restoration_model": None,
            "sd_model_name": names.file_name(made.spec).removesuffix(names.CHECKPOINT),
            "sd_model_hash": names.weights_hash(made.spec),
            "sd_vae_name": None,
            "sd_vae_hash": None,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": -1,
            "denoising_strength": run["strength"] if _denoises(made) else None,
            "extra_generation_params": _extra(made),
            "index_of_first_image": int(has_sheet),
            "infotexts": [_infotext(made, one) for one in job.outputs],
            "styles": [],
            "job_timestamp": job.created_at.strftime("%Y%m%d%H%M%S"),
            "clip_skip": 1,
            "is_using_inpainting_conditioning": False,
            "version": "pixeltoll",
            "job_id": str(job.id),
        }
    )


def _sampler(made: Made) -> str:
    asked = made.fields.sampler_name or made.fields.sampler_index
    return made.job.params.get("sampler") or asked


def _denoises(made: Made) -> bool:
    """Tell whether a picture is drawn over, by a share of the steps."""
    return isinstance(made.fields, ImageToImage) or _first_pass(made) is not None


def _first_pass(made: Made) -> FirstPass | None:
    return Generation.of(made.job.params).finer.first_pass


def _extra(made: Made) -> dict[str, object]:
    """Return what the WebUI tells of two passes."""
    fields, first = made.fields, _first_pass(made)
    if first is None or not isinstance(fields, TextToImage):
        return {}
    run = made.job.params
    return {
        "Hires resize": f"{run['width']}x{run['height']}",
        "Hires steps": first.steps,
        "Hires upscaler": fields.hr_upscaler,
    }


def _infotext(made: Made, output: Output) -> str:
    """Return how one picture was made, as the WebUI writes it into its files."""
    run, fields = made.job.params, made.fields
    ran, first = Generation.of(run), _first_pass(made)
    width, height = (run["width"], run["height"]) if first is None else (first.width, first.height)
    facts: dict[str, object] = {
        "Steps": run["num_inference_steps"],
        "Sampler": _sampler(made),
        "Schedule type": run.get("schedule") or "Automatic",
        "CFG scale": run["guidance_scale"],
        "Seed": output.seed,
        "Size": f"{width}x{height}",
        "Model hash": names.weights_hash(made.spec),
        "Model": names.file_name(made.spec).removesuffix(names.CHECKPOINT),
    }
    if ran.finer.subseed_strength:
        facts["Variation seed"] = ran.subseed_of(output.index)
        facts["Variation seed strength"] = ran.finer.subseed_strength
    if _denoises(made):
        facts["Denoising strength"] = run["strength"]
    told = ", ".join(f"{name}: {value}" for name, value in {**facts, **_extra(made)}.items())
    negative = f"\nNegative prompt: {fields.negative_prompt}" if fields.negative_prompt else ""
    return f"{fields.prompt}{negative}\n{told}"
