"""/v1/admin: what the installation's owner does, a room for each resource.

This only puts the rooms together; what they share is in `owners`.
"""

from __future__ import annotations

from flask import Blueprint

from api.routes.admin import (
    budgets,
    gateways,
    keys,
    limits,
    offers,
    orchestrator_keys,
    orchestrators,
    payouts,
    policies,
    rates,
    refunds,
    refusals,
    top_ups,
)

bp = Blueprint("admin", __name__, url_prefix="/v1/admin")
for room in (
    *(gateways, keys, top_ups, limits, budgets, policies, refusals),
    *(orchestrators, orchestrator_keys, offers, rates, payouts, refunds),
):
    bp.register_blueprint(room.bp)
