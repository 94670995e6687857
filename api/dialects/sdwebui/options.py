"""What a gateway has set for its WebUI requests: the model, and what cannot be anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from api import offered
from api.dialects.sdwebui import extras
from api.runtime import Runtime
from api.tables import SdwebuiOptions
from ledger.tables import Offer
from tasks import names
from tasks.catalog import ModelSpec
from tasks.errors import FieldError, InvalidParams, NoOffer, UnknownModel
from tasks.finer import Format

MODEL = "sd_model_checkpoint"
FORMAT = "samples_format"
HASH = "sd_checkpoint_hash"
# What clients may read, and write back as it is.
FIXED: Mapping[str, object] = {
    "samples_format": "png",
    "grid_format": "png",
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "img2img_fix_steps": False,
    "eta_noise_seed_delta": 0,
}

_DRAWS = Offer.pipeline != extras.UPSCALE
_FORMATS: Mapping[str, Format] = {
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
    "gif": "gif",
}


def format_in(given: Mapping[str, Any]) -> tuple[Format, Mapping[str, Any]]:
    """Return the format of a request's pictures, and its other options.

    Raises:
        InvalidParams: It is none that is written here.
    """
    asked = given.get(FORMAT)
    others = {name: value for name, value in given.items() if name != FORMAT}
    if asked is None:
        return "png", others
    if not isinstance(asked, str) or asked.lower() not in _FORMATS:
        raise InvalidParams([FieldError(FORMAT, f"must be {', '.join(_FORMATS)}")])
    return _FORMATS[asked.lower()], others


def show(runtime: Runtime, gateway_id: UUID) -> dict[str, object]:
    """Return all options of a gateway."""
    try:
        spec = _chosen(runtime, gateway_id) or next(iter(offered.models(runtime, _DRAWS)), None)
    except UnknownModel:
        spec = None  # The catalog had it once, and requests are told so.
    chosen: dict[str, object] = {MODEL: None, HASH: None}
    if spec is not None:
        chosen = {MODEL: names.title(spec), HASH: spec.sha256}
    return {**chosen, **FIXED}


def model_in(runtime: Runtime, given: Mapping[str, Any]) -> ModelSpec | None:
    """Return the model that options name, if they name one.

    Raises:
        InvalidParams: An option cannot be set here, or not to this.
        UnknownModel: There is no such model.
    """
    errors = []
    for name, value in given.items():
        if name in (MODEL, HASH):
            continue
        if name not in FIXED:
            errors.append(FieldError(name, f"cannot be set here; {MODEL} can"))
        elif value != FIXED[name]:
            errors.append(FieldError(name, f"is {FIXED[name]!r} here, and cannot be changed"))
    model = given.get(MODEL)
    if model is not None and not isinstance(model, str):
        errors.append(FieldError(MODEL, "must be a string"))
    if errors:
        raise InvalidParams(errors)
    return runtime.catalog.resolve(model) if model else None


def choose(runtime: Runtime, gateway_id: UUID, spec: ModelSpec) -> None:
    """Let a gateway's requests run a model when they name none.

    Raises:
        NoOffer: Nobody offers it.
    """
    found = [one.model_id for one in offered.models(runtime, _DRAWS)]
    if spec.model_id not in found:
        raise NoOffer(spec.pipelines[0], spec.model_id, tuple(found))
    remember(runtime, gateway_id, spec)


def remember(runtime: Runtime, gateway_id: UUID, spec: ModelSpec) -> None:
    """Let a gateway's requests run a model of which it has a job already.

    Whether it is offered at this moment is not asked again: the job is there, and is answered.
    """
    row = {"gateway_id": gateway_id, "model_id": spec.model_id}
    write = insert(SdwebuiOptions).values(row)
    with runtime.sessions.begin() as session:
        session.execute(write.on_conflict_do_update(index_elements=["gateway_id"], set_=row))


def forget(runtime: Runtime, gateway_id: UUID) -> None:
    """Let a gateway's requests run the first model that is offered."""
    with runtime.sessions.begin() as session:
        session.execute(delete(SdwebuiOptions).where(SdwebuiOptions.gateway_id == gateway_id))


def model_of(runtime: Runtime, gateway_id: UUID, pipeline: str) -> ModelSpec:
    """Return the model of a request that names none.

    Raises:
        NoOffer: The gateway has chosen none, and none is offered.
        UnknownModel: The one that it has chosen is no longer in the catalog.
    """
    chosen = _chosen(runtime, gateway_id)
    if chosen is not None:
        return chosen
    for spec in offered.of_pipeline(runtime, pipeline):
        return spec
    raise NoOffer(pipeline, "", ())


def _chosen(runtime: Runtime, gateway_id: UUID) -> ModelSpec | None:
    with runtime.reads() as session:
        model_id = session.scalar(
            select(SdwebuiOptions.model_id).where(SdwebuiOptions.gateway_id == gateway_id)
        )
    return None if model_id is None else runtime.catalog.get(model_id)
