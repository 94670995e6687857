"""What gunicorn calls: how to log and how to leave, and where all processes of this API count.

Each process counts for itself and is asked alone, so all write into a folder that any of them can
add up; what one that ended had counted stays there. It is named before they start, because
prometheus_client reads its name when imported.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from types import FrameType
from typing import Any

from api import settings
from api.runtime import EXTENSION, Runtime
from tasks import telemetry

# Read by gunicorn: what it says before `on_starting`, it says in its own way, so only what matters.
loglevel = "warning"
# Of the time that a process has to leave: how much of it who waits is given. The rest is for the
# answers.
_PATIENCE = 0.8


def on_starting(_server: Any) -> None:  # noqa: ANN401  gunicorn has no types
    """Make the folder, before any process is started; and log as all our processes do."""
    telemetry.configure()
    telemetry.adopt("gunicorn.error")
    settings.share_metrics(tempfile.mkdtemp(prefix="pixeltoll-metrics-"))


def post_worker_init(worker: Any) -> None:  # noqa: ANN401  as above
    """Let requests that wait for their jobs be answered before a process that is to end does."""
    runtime: Runtime = worker.wsgi.extensions[EXTENSION]
    patience_s = runtime.task_settings.drain_s * _PATIENCE

    def leave(number: int, frame: FrameType | None) -> None:
        # In a thread: whatever holds the lock now may be what this signal interrupts.
        threading.Thread(target=runtime.waiting.leave, args=(patience_s,), daemon=True).start()
        worker.handle_exit(number, frame)

    signal.signal(signal.SIGTERM, leave)


def on_exit(_server: Any) -> None:  # noqa: ANN401  as above
    """Take the folder away."""
    folder = settings.metrics_folder()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
