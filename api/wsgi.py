"""What a WSGI server loads: `gunicorn api.wsgi:app`."""

from __future__ import annotations

from api import runtime
from api.app import create_app
from tasks import telemetry, tracing

telemetry.configure()
telemetry.adopt("gunicorn.error")
built = runtime.build()
tracing.start("pixeltoll-api", built.task_settings.traces)
app = create_app(built)
