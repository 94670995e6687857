"""What a Livepeer client sends, and what it asks for in our words.

Names and defaults are Livepeer's. As at its gateway, fields that are not known are ignored, an
empty string or null is a field that is not given, and numbers may come as text. Bounds are the
model's: those are checked where every job is.
"""

from __future__ import annotations

from typing import Annotated, Any

from flask import request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from api import offered, parsing
from api.errors import MalformedBody, UnsupportedContentType
from api.runtime import Runtime
from api.schemas import JobFields, Whole
from tasks.catalog import Pipeline
from tasks.errors import FieldError, InvalidParams, NoOffer

_TEXT: Pipeline = "text-to-image"
_IMAGE: Pipeline = "image-to-image"


class Fields(BaseModel):
    """What both routes take."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: str = Field(
        description="What to draw. A text-to-image model with several text encoders reads one "
        "prompt for each, divided by `|`."
    )
    model_id: str = Field("", description="A model's id or alias; the default model if empty.")
    loras: str = Field(
        "", description='LoRA adapters, as the text of a JSON object: `{"owner/style": 0.8}`.'
    )
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    safety_check: bool = True
    seed: Whole | None = Field(None, description="Chosen at random when not given.")
    num_images_per_prompt: Whole = Field(1, description="Picture k of n has the seed `seed + k`.")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None and value != ""}


class TextToImage(Fields):
    """The body of `/text-to-image`."""

    height: Whole = 576
    width: Whole = 1024
    num_inference_steps: Whole = Field(50, description="Below 1: the model's own default.")


class ImageToImage(Fields):
    """The form of `/image-to-image`."""

    image: Annotated[Any, WithJsonSchema({"type": "string", "format": "binary"})] = Field(
        description="The input picture, as a file. Its content decides what it is."
    )
    strength: float = Field(0.8, description="How far to leave the input picture.")
    image_guidance_scale: float = Field(1.5, description="instruct-pix2pix models only.")
    num_inference_steps: Whole = Field(100, description="Below 1: the model's own default.")


def text_to_image(runtime: Runtime) -> JobFields:
    """Read a JSON body.

    Raises:
        UnsupportedContentType, MalformedBody, InvalidParams: It is none, or a field is wrong.
        NoOffer: It names no model, and there is none to take.
    """
    fields = parsing.json_body(TextToImage)
    return _job(runtime, _TEXT, fields, width=fields.width, height=fields.height)


def image_to_image(runtime: Runtime) -> tuple[JobFields, bytes]:
    """Read a form; returns its fields, and the picture's bytes.

    Raises:
        UnsupportedContentType, MalformedBody, InvalidParams: It is none, or a field is wrong.
        NoOffer: It names no model, and there is none to take.
    """
    if request.mimetype != parsing.FORM:
        raise UnsupportedContentType(request.mimetype, (parsing.FORM,))
    try:
        texts = request.form.to_dict()
    except ValueError:
        raise MalformedBody("The form is cut off, or its boundary is missing.") from None
    file = request.files.get("image")
    if "image" in texts:
        said = "must be sent as a file, with a file name"
        raise InvalidParams([FieldError("image", said)])
    fields = parsing.checked(ImageToImage, {**texts, "image": file})
    asked = _job(
        runtime,
        _IMAGE,
        fields,
        strength=fields.strength,
        image_guidance_scale=fields.image_guidance_scale,
    )
    return asked, fields.image.read()


def _job(
    runtime: Runtime, pipeline: Pipeline, fields: TextToImage | ImageToImage, **own: float
) -> JobFields:
    steps = fields.num_inference_steps
    asked = {
        "pipeline": pipeline,
        "model_id": fields.model_id or _default_model(runtime, pipeline),
        "prompt": fields.prompt,
        "negative_prompt": fields.negative_prompt,
        "loras": fields.loras,
        "guidance_scale": fields.guidance_scale,
        "safety_check": fields.safety_check,
        "seed": fields.seed,
        "num_inference_steps": None if steps < 1 else steps,
        "num_images_per_prompt": max(1, fields.num_images_per_prompt),
        **own,
    }
    return parsing.checked(JobFields, asked)


def _default_model(runtime: Runtime, pipeline: Pipeline) -> str:
    """Return the model of a request that names none.

    Raises:
        NoOffer: The installation has set none, and no model is offered.
    """
    settings = runtime.settings
    named = {
        _TEXT: settings.livepeer_text_to_image_model,
        _IMAGE: settings.livepeer_image_to_image_model,
    }[pipeline]
    if named:
        return named
    for spec in offered.of_pipeline(runtime, pipeline):
        return spec.model_id
    raise NoOffer(pipeline, "", ())
