"""/v1/webhooks: who is told of the ends of a gateway's jobs, and the log of what was told.

This only puts the rooms together.
"""

from __future__ import annotations

from flask import Blueprint

from api.routes.webhooks import deliveries, endpoints

bp = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks")
for room in (endpoints, deliveries):
    bp.register_blueprint(room.bp)
