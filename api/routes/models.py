"""/v1/models: what can be ordered, and what it costs."""

from __future__ import annotations

import itertools

from flask import Blueprint, Response

from api import render
from api.openapi import Answer, Operation, operation
from api.runtime import current
from api.views import ModelsView
from ledger import offers
from ledger.offers import Capability
from tasks import workers

bp = Blueprint("models", __name__, url_prefix="/v1/models")


@bp.get("")
@operation(
    Operation(
        tag="models",
        security="gateway",
        answers=[Answer(200, "The capabilities that are offered", ModelsView)],
    )
)
def index() -> Response:
    """List the models with their prices, bounds and defaults.

    One item for each pipeline of a model that somebody offers. `live`: a worker is up; `warm`: one
    has the model in memory.
    """
    runtime = current()
    with runtime.reads() as session:
        candidates = workers.candidates(session, offers.live(session))
    # The sort is stable, so within a capability they stay by currency and price.
    ranked = sorted(candidates, key=lambda one: _rank(one.offer.capability))
    known = {spec.model_id: spec for spec in runtime.catalog.models()}
    data = [
        render.model(known[capability.model_id], capability, list(found))
        for capability, found in itertools.groupby(ranked, key=lambda one: one.offer.capability)
        if capability.model_id in known
        and capability.pipeline in known[capability.model_id].pipelines
    ]
    return render.answer(ModelsView(data=data, next_cursor=None))


def _rank(capability: Capability) -> tuple[str, str]:
    return capability.pipeline, capability.model_id
