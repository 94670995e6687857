"""What is going on for a gateway in the WebUI's words, what it has set, and stopping its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response
from pydantic import Field, RootModel

from api import parsing, render
from api.dialects.sdwebui import answers, options, running
from api.dialects.sdwebui.blueprint import bp
from api.openapi import Answer, Operation, operation
from api.runtime import current, current_gateway
from api.views import View
from tasks import workers
from tasks.errors import NoOffer, UnknownModel


class State(View):
    """What a gateway's requests are at."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str
    job_count: int
    job_timestamp: str
    job_no: int = 0
    sampling_step: int
    sampling_steps: int


class Progress(View):
    """How far the oldest request is."""

    progress: float
    eta_relative: float
    state: State
    current_image: None = None
    textinfo: str | None


class Options(RootModel[dict[str, Any]]):
    """Options by name."""


class Nothing(RootModel[None]):
    """Nothing."""


class Empty(View):
    """Nothing."""


class Amount(View):
    """Bytes of a memory, as far as it is for models."""

    free: int
    used: int
    total: int


class Devices(View):
    """The memory that models draw in."""

    system: Amount


class Away(View):
    """Why there are no numbers."""

    error: str


class Memory(View):
    """The memory of the live workers, in all."""

    ram: Amount | Away = Field(description="Where models wait to be used again.")
    cuda: Devices | Away


def _said(text: str, model: type[Any]) -> Operation:
    return Operation(
        tag="sdwebui",
        security="basic",
        answers=[Answer(200, text, model)],
        told_as=answers.told_as,
    )


def _null() -> Response:
    return Response("null", mimetype="application/json")


@bp.get("/progress")
@operation(_said("The progress", Progress))
def progress() -> Response:
    """Show how far the caller's own WebUI requests are.

    Running ones come before those that wait.
    """
    found = running.look(current(), current_gateway())
    job = found.job
    steps = 0 if job is None else int(job.params["num_inference_steps"])
    return render.answer(
        Progress(
            progress=found.progress,
            eta_relative=found.left_s,
            state=State(
                job="" if job is None else str(job.id),
                job_count=found.count,
                job_timestamp="0" if job is None else job.created_at.strftime("%Y%m%d%H%M%S"),
                sampling_step=round(found.progress * steps),
                sampling_steps=steps,
            ),
            textinfo=None if job is None else job.phase or job.state,
        )
    )


@bp.post("/interrupt")
@operation(_said("All are stopped", Empty))
def interrupt() -> Response:
    """Cancel all WebUI requests of the caller. Their funds come back."""
    running.stop(current(), current_gateway())
    return render.answer(Empty())


@bp.post("/skip")
@operation(_said("It is stopped", Nothing))
def skip() -> Response:
    """Cancel the caller's WebUI request that comes first. Its funds come back."""
    running.stop(current(), current_gateway(), 1)
    return _null()


@bp.get("/options")
@operation(_said("The options", Options))
def get_options() -> Response:
    """Show what the caller has set, and what cannot be set."""
    found = Options(options.show(current(), current_gateway()))
    return Response(found.model_dump_json(), mimetype="application/json")


@bp.post("/options")
@operation(
    Operation(
        tag="sdwebui",
        security="basic",
        body={parsing.JSON: Options},
        answers=[Answer(200, "They are set", Nothing)],
        errors=[UnknownModel, NoOffer],
        told_as=answers.told_as,
    )
)
def set_options() -> Response:
    """Choose the model of the caller's requests that name none: `sd_model_checkpoint`.

    By its title, file name, hash, id or alias; empty or null is the first that is offered. Other
    options may be sent back as they were read.
    """
    runtime, gateway_id = current(), current_gateway()
    given = parsing.json_body(Options).root
    spec = options.model_in(runtime, given)
    if spec is not None:
        options.choose(runtime, gateway_id, spec)
    elif options.MODEL in given:
        options.forget(runtime, gateway_id)
    return _null()


@bp.post("/refresh-checkpoints")
@operation(_said("Nothing was to be done", Nothing))
def refresh_checkpoints() -> Response:
    """Do nothing: `sd-models` is always as new as the offers."""
    return _null()


@bp.post("/unload-checkpoint")
@operation(_said("Nothing was to be done", Empty))
def unload_checkpoint() -> Response:
    """Do nothing: workers unload models when they need the room."""
    return render.answer(Empty())


@bp.get("/memory")
@operation(_said("The memory", Memory))
def memory() -> Response:
    """Show how much memory of the live workers models take, and how much is there for them."""
    with current().reads() as session:
        found = workers.memory_bytes(session)
    device, waiting = (_amount(found, where) for where in ("device", "waiting"))
    cuda = device if isinstance(device, Away) else Devices(system=device)
    return render.answer(Memory(ram=waiting, cuda=cuda))


def _amount(found: Mapping[str, int], where: str) -> Amount | Away:
    total = found.get(f"{where}_budget")
    if total is None:
        return Away(error="No worker is up that tells of its memory.")
    # One model may be larger than the budget, which bounds what is kept beside it.
    return Amount(free=max(0, total - found[where]), used=found[where], total=total)
