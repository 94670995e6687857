"""What a request asks, checked against the model's bounds, pure: no service runs here.

`Request` is what a caller said (None where nothing was said); `Generation` is what the GPU will
run, with every default filled in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tasks import finer, lora, samplers, sizing
from tasks.catalog import MAX_GUIDANCE, ModelSpec
from tasks.errors import FieldError, InvalidParams
from tasks.finer import Finer
from tasks.sizing import between

MAX_SEED = 2**62
# What pictures of one pipeline call need not share.
_EACH_ITS_OWN: Mapping[str, object] = {
    "prompt": "",
    "negative_prompt": "",
    "num_images_per_prompt": 1,
    "seed": 0,
    "safety_check": True,
}
_EVERY_HUB_ID = ("*/*",)


@dataclass(frozen=True)
class Request:
    """What a caller asks for. None means: the model's default. Sizes are in pixels."""

    pipeline: str
    model_id: str
    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    num_images_per_prompt: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    strength: float | None = None
    seed: int | None = None
    loras: str = ""
    safety_check: bool = True
    # Names as people say them; None is the model's own.
    sampler: str | None = None
    schedule: str | None = None
    # Only the part of the input picture that its mask shows is drawn.
    masked: bool = False
    finer: Finer = field(default_factory=Finer)


@dataclass(frozen=True)
class Generation:
    """What is run: every parameter with its value. Image k of n has the seed `seed + k`.

    `width` and `height` are those of the pictures that come of it, which are priced.
    """

    pipeline: str
    model_id: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    strength: float
    seed: int
    # Weights by source, in the order of the sources. A mapping, as it comes back from the database.
    loras: Mapping[str, float] = field(default_factory=dict)
    safety_check: bool = True
    # As `samplers.Choice`: two empty names are the model's own.
    sampler: str = ""
    schedule: str = ""
    masked: bool = False
    finer: Finer = field(default_factory=Finer)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Generation:
        """Return the parameters that are stored with a job; an old one has fewer of them."""
        return cls(**{**stored, "finer": Finer.of(stored.get("finer", {}))})

    def seed_of(self, index: int) -> int:
        """Return the seed of a picture."""
        return self.seed if self.finer.subseed_strength else self.seed + index

    def subseed_of(self, index: int) -> int:
        """Return the subseed of a picture."""
        return self.finer.subseed + index

    @property
    def keeps_input_size(self) -> bool:
        """Tell whether the engine takes the input picture as large as it is."""
        return self.pipeline == "upscale" or self.finer.start == "latents"

    @property
    def units(self) -> int:
        """Pixels that are priced: width x height x images."""
        return self.width * self.height * self.num_images_per_prompt

    @property
    def batch_key(self) -> str:
        """What jobs must share to run in one pipeline call: all that is not each picture's own."""
        shared = {**self.to_json(), **_EACH_ITS_OWN}
        common = replace(self.finer, subseed=0, subseed_strength=0.0, format="png")
        shared |= {"finer": None if common == Finer() else asdict(common)}
        return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:24]

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as they are stored with the job."""
        facts = {**vars(self), "loras": dict(self.loras)}
        del facts["finer"]
        # Nearly no job has any of it.
        return facts if self.finer == Finer() else {**facts, "finer": asdict(self.finer)}


def validate(
    spec: ModelSpec,
    request: Request,
    seed: int,
    image_size: tuple[int, int] | None = None,
    lora_patterns: Sequence[str] = _EVERY_HUB_ID,
) -> Generation:
    """Check a request against the model's bounds and fill in its defaults.

    `seed` is used when the request has none. `image_size` is the (width, height) of the input
    picture, in pixels, or None without one. A size that the model's multiple does not divide is
    rounded up; the rounded size is run, priced and reported. `lora_patterns` are of the adapters
    that may be used.

    Raises:
        InvalidParams: One or more fields are out of bounds; names every one of them.
    """
    errors: list[FieldError] = []
    if request.pipeline not in spec.pipelines:
        names = " or ".join(spec.pipelines)
        errors.append(FieldError("pipeline", f"{spec.model_id} does {names}"))
    if request.masked and spec.layout == "instruct-pix2pix":
        errors.append(FieldError("mask", f"{spec.model_id} draws whole pictures only"))
    _check_prompts(spec, request, errors)
    asked = (request.width, request.height)
    width, height = sizing.size(spec, request.pipeline, asked, image_size, errors)
    between(request.num_images_per_prompt, 1, spec.max_images, "num_images_per_prompt", errors)
    steps = request.num_inference_steps
    steps = spec.default_steps if steps is None else steps
    between(steps, 1, spec.max_steps, "num_inference_steps", errors)
    steps = round(_within(steps, spec.run_steps))
    guidance = _float(request.guidance_scale, spec.default_guidance_scale, "guidance_scale", errors)
    guidance = _within(guidance, spec.run_guidance_scale)
    image_guidance = _image_guidance(spec, request, errors)
    strength = _strength(spec, request, steps, errors)
    is_masked, sides = request.masked, (width, height)
    finer.check(spec, request.pipeline, request.finer, sides, errors, masked=is_masked)
    if request.seed is not None:
        between(request.seed, 0, MAX_SEED, "seed", errors)
    loras = _loras(request, lora_patterns, errors)
    choice = samplers.Choice()
    with _noted(errors):
        choice = samplers.choose(spec.layout, request.sampler, request.schedule, steps)
    if errors:
        raise InvalidParams(errors)
    return Generation(
        pipeline=request.pipeline,
        model_id=spec.model_id,
        prompt=request.prompt,
        negative_prompt=(
            request.negative_prompt if "negative_prompt" in spec.takes(request.pipeline) else ""
        ),
        width=width,
        height=height,
        num_images_per_prompt=request.num_images_per_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        image_guidance_scale=image_guidance,
        strength=strength,
        seed=seed if request.seed is None else request.seed,
        loras=loras,
        safety_check=request.safety_check,
        sampler=choice.sampler,
        schedule=choice.schedule,
        masked=request.masked,
        finer=finer.within(spec, request.finer),
    )


@contextlib.contextmanager
def _noted(errors: list[FieldError]) -> Iterator[None]:
    try:
        yield
    except InvalidParams as refused:
        errors.extend(refused.errors)


def prompts(text: str, most: int) -> tuple[str, ...]:
    """Return the prompts of a text, one for each text encoder: `a fox | oil on canvas`.

    Where a model reads one prompt, `|` is a letter like others. Blank ones are dropped.
    """
    parts = text.split("|") if most > 1 else (text,)
    return tuple(part.strip() for part in parts if part.strip())


def _loras(
    request: Request, patterns: Sequence[str], errors: list[FieldError]
) -> Mapping[str, float]:
    loras: Mapping[str, float] = {}
    with _noted(errors):
        loras = lora.parse(request.loras, patterns)
    if loras and request.pipeline == "upscale":
        errors.append(FieldError("loras", "cannot be used for upscale; leave them out"))
    return loras


def _check_prompts(spec: ModelSpec, request: Request, errors: list[FieldError]) -> None:
    most = spec.prompts(request.pipeline)
    if request.pipeline != "upscale" and not prompts(request.prompt, most):
        errors.append(FieldError("prompt", "must not be empty"))
    for name in ("prompt", "negative_prompt"):
        text: str = getattr(request, name)
        if (count := len(prompts(text, most))) > most:
            said = f"has {count} prompts, divided by '|'; {spec.model_id} reads at most {most}"
            errors.append(FieldError(name, said))
        elif len(text) > spec.max_prompt_chars:
            errors.append(
                FieldError(
                    name, f"has {len(text)} characters; at most {spec.max_prompt_chars} are taken"
                )
            )
        elif "\x00" in text:
            errors.append(FieldError(name, "must not contain a NUL character"))
        elif any("\ud800" <= letter <= "\udfff" for letter in text):
            # JSON can spell half a character; neither the database nor a tokenizer can hold it.
            errors.append(FieldError(name, "must be valid Unicode; it has an unpaired surrogate"))


def _image_guidance(spec: ModelSpec, request: Request, errors: list[FieldError]) -> float:
    value = _float(
        request.image_guidance_scale,
        spec.default_image_guidance_scale,
        "image_guidance_scale",
        errors,
    )
    if "image_guidance_scale" not in spec.takes(request.pipeline):
        return spec.default_image_guidance_scale
    return value


def _strength(spec: ModelSpec, request: Request, steps: int, errors: list[FieldError]) -> float:
    value = spec.default_strength if request.strength is None else request.strength
    if not 0 < value <= 1:
        errors.append(FieldError("strength", "must be above 0 and at most 1"))
        return value
    if "strength" not in spec.takes(request.pipeline) and request.finer.first_pass is None:
        return spec.default_strength
    if spec.raise_strength:
        return max(1 / max(steps, 1), value)
    if int(steps * value) < 1:
        errors.append(
            FieldError("strength", f"{value} of {steps} steps leaves no step to run; raise either")
        )
    return value


def _float(value: float | None, default: float, field: str, errors: list[FieldError]) -> float:
    number = default if value is None else value
    if not math.isfinite(number) or not 0 <= number <= MAX_GUIDANCE:
        errors.append(FieldError(field, f"must be a number from 0 to {MAX_GUIDANCE:g}"))
    return number


def _within(value: float, bounds: tuple[float, float] | None) -> float:
    """Bring a value into what a distilled model can do; a number that is none stays one."""
    return value if bounds is None else min(max(value, bounds[0]), bounds[1])
