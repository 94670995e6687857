"""What a gateway sees and sets of its own money, a room for each resource.

This only puts the rooms together.
"""

from __future__ import annotations

from flask import Blueprint

from api.routes.gateway import balance, budgets, invoices, limits, statement

bp = Blueprint("gateway", __name__, url_prefix="/v1")
for room in (balance, limits, budgets, statement, invoices):
    bp.register_blueprint(room.bp)
