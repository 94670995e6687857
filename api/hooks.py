"""What gunicorn calls: one way to log, and one folder for the metrics of all processes of this API.

Each process counts for itself and is asked alone, so all write into a folder that any of them can
add up. It is named before they start, because prometheus_client reads its name when imported.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from api import settings
from tasks import telemetry

# Read by gunicorn: what it says before `on_starting`, it says in its own way, so only what matters.
loglevel = "warning"


def on_starting(_server: Any) -> None:  # noqa: ANN401  gunicorn has no types
    """Make the folder, before any process is started; and log as all our processes do."""
    telemetry.configure()
    telemetry.adopt("gunicorn.error")
    settings.share_metrics(tempfile.mkdtemp(prefix="pixeltoll-metrics-"))


def child_exit(_server: Any, worker: Any) -> None:  # noqa: ANN401  as above
    """Forget what a process that ended had at the moment; what it had counted stays."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:  # noqa: ANN401  as above
    """Take the folder away."""
    folder = settings.metrics_folder()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
