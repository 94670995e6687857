"""A worker process as in production, but its engine sleeps: `python -m bench.worker`."""

from __future__ import annotations

from bench.engines import SERVED, SleepingEngine
from tasks import worker

if __name__ == "__main__":
    worker.run([model.model_id for model in SERVED], SleepingEngine)
