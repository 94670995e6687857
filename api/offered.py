"""Which models somebody offers: what a dialect may list, and take where a request names none."""

from __future__ import annotations

from sqlalchemy import ColumnElement

from api.runtime import Runtime
from ledger import offers
from ledger.tables import Offer
from tasks.catalog import ModelSpec


def models(runtime: Runtime, *where: ColumnElement[bool]) -> list[ModelSpec]:
    """Return the models of live offers, in the order of the catalog."""
    with runtime.reads() as session:
        live = offers.live(session, *where)
    offered = {offer.capability.model_id for offer in live}
    return [spec for spec in runtime.catalog.models() if spec.model_id in offered]


def of_pipeline(runtime: Runtime, pipeline: str) -> list[ModelSpec]:
    """Return the models of live offers for a pipeline."""
    return models(runtime, Offer.pipeline == pipeline)
