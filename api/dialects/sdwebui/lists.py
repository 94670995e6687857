"""What a WebUI client may choose from: models, samplers, schedulers, adapters."""

from __future__ import annotations

from typing import Any

from flask import Response
from pydantic import RootModel

from api import offered
from api.dialects.sdwebui import answers, asking
from api.dialects.sdwebui.blueprint import bp
from api.openapi import Answer, Operation, operation
from api.runtime import current
from api.views import View
from tasks import names
from tasks.samplers import SAMPLERS, SCHEDULES


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
    """List the models that somebody offers."""
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
                for spec in offered.models(current())
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
