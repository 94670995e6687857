"""What a WebUI client may choose from: models, samplers, schedulers, adapters."""

from __future__ import annotations

from typing import Any

from flask import Response
from pydantic import RootModel

from api import offered
from api.dialects.sdwebui import answers, asking, extras, hires
from api.dialects.sdwebui.blueprint import bp
from api.openapi import Answer, Operation, operation
from api.runtime import current
from api.views import View
from ledger.tables import Offer
from tasks import names
from tasks.samplers import SAMPLERS, SCHEDULES

# As the WebUI says of what makes any size.
_ANY_SCALE = 4.0


class Checkpoint(View):
    """A model, by the names that the WebUI has for one."""

    title: str
    model_name: str
    hash: str
    sha256: str | None
    filename: str
    config: None = None


class SamplerItem(View):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, Any]


class SchedulerItem(View):
    """A schedule, which the WebUI calls a scheduler."""

    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float = -1
    need_inner_model: bool = False


class LoraItem(View):
    """An adapter that may be used."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class UpscalerItem(View):
    """What makes pictures larger."""

    name: str
    model_name: str | None
    model_path: None = None
    model_url: None = None
    scale: float


class ModeItem(View):
    """A way between two passes."""

    name: str


class Upscalers(RootModel[list[UpscalerItem]]):
    """The upscalers."""


class Modes(RootModel[list[ModeItem]]):
    """The ways."""


class Checkpoints(RootModel[list[Checkpoint]]):
    """The models."""


class Samplers(RootModel[list[SamplerItem]]):
    """The samplers."""


class Schedulers(RootModel[list[SchedulerItem]]):
    """The schedules."""


class Loras(RootModel[list[LoraItem]]):
    """The adapters."""


def _said(text: str, model: type[RootModel[Any]]) -> Operation:
    return Operation(
        tag="sdwebui",
        security="basic",
        answers=[Answer(200, text, model)],
        told_as=answers.told_as,
    )


def _answer(view: RootModel[Any]) -> Response:
    return Response(view.model_dump_json(), mimetype="application/json")


@bp.get("/sd-models")
@operation(_said("The models", Checkpoints))
def sd_models() -> Response:
    """List the models that somebody offers to draw with."""
    return _answer(
        Checkpoints(
            [
                Checkpoint(
                    title=names.title(spec),
                    model_name=names.file_name(spec).removesuffix(names.CHECKPOINT),
                    hash=names.weights_hash(spec),
                    sha256=spec.sha256,
                    filename=names.file_name(spec),
                )
                for spec in offered.models(current(), Offer.pipeline != extras.UPSCALE)
            ]
        )
    )


@bp.get("/samplers")
@operation(_said("The samplers", Samplers))
def samplers() -> Response:
    """List the samplers."""
    return _answer(
        Samplers(
            [
                SamplerItem(
                    name=one.name,
                    aliases=list(one.aliases),
                    options={"scheduler": one.schedule.lower()},
                )
                for one in SAMPLERS
            ]
        )
    )


@bp.get("/schedulers")
@operation(_said("The schedules", Schedulers))
def schedulers() -> Response:
    """List the schedules."""
    return _answer(Schedulers([SchedulerItem(name=one.name, label=one.label) for one in SCHEDULES]))


@bp.get("/loras")
@operation(_said("The adapters", Loras))
def loras() -> Response:
    """List the adapters that have a name.

    Where the installation allows whole folders, others may be used by their address.
    """
    known = asking.known_loras(current().task_settings.loras)
    return _answer(
        Loras(
            [
                LoraItem(name=name, alias=name, path=source, metadata={})
                for name, source in known.items()
            ]
        )
    )


@bp.get("/upscalers")
@operation(_said("The upscalers", Upscalers))
def upscalers() -> Response:
    """List the upscalers that somebody offers; `None` resamples as `Lanczos` does."""
    found = offered.of_pipeline(current(), extras.UPSCALE)
    return _answer(
        Upscalers(
            [
                UpscalerItem(name="None", model_name=None, scale=_ANY_SCALE),
                *(
                    UpscalerItem(
                        name=extras.name_of(spec),
                        model_name=spec.model_id,
                        scale=spec.factor or _ANY_SCALE,
                    )
                    for spec in found
                ),
            ]
        )
    )


@bp.get("/latent-upscale-modes")
@operation(_said("The ways", Modes))
def latent_upscale_modes() -> Response:
    """List the ways in which `enable_hr` brings latents to the larger size."""
    return _answer(Modes([ModeItem(name=name) for name in hires.LATENT_MODES]))
