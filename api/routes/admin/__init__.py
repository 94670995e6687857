"""/v1/admin: what the installation's owner does, a room for each resource.

This only puts the rooms together; what they share is in `owners`.
"""

from __future__ import annotations

from flask import Blueprint

from api.routes.admin import gateways, keys, limits, offers, orchestrators, top_ups

bp = Blueprint("admin", __name__, url_prefix="/v1/admin")
for room in (gateways, keys, top_ups, limits, orchestrators, offers):
    bp.register_blueprint(room.bp)
