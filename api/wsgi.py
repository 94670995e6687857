"""What a WSGI server loads: `gunicorn api.wsgi:app`."""

from __future__ import annotations

from api import runtime
from api.app import create_app
from tasks import telemetry

telemetry.configure()
telemetry.adopt("gunicorn.error")
app = create_app(runtime.build())
