"""What a process counts about jobs while it runs: names, labels, and how a phase is timed.

Owns the metrics of workers and what the API counts of the same things; what only the database
knows is `gauges`', what an engine has in memory `inventory`'s, and what an audit found
`bookkeeping`'s. Labels are few and known: a model of the catalog, a phase, an outcome, a code;
never a gateway, a job or a word of a prompt. Values are for watching, and no money is reckoned with
them.

There is no gauge here: the API's processes import this and are asked together, and a gauge would
stay theirs one by one, those that have ended included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

from prometheus_client import Counter, Histogram

from tasks import tracing
from tasks.tables import Job

Phase: TypeAlias = Literal["queue", "load", "denoise", "encode", "upload", "settle"]
Outcome: TypeAlias = Literal["succeeded", "failed", "requeued"]

_SECONDS = (0.005, 0.02, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1800)
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)

PHASE_SECONDS = Histogram(
    "pixeltoll_phase_seconds",
    "How long jobs spend in a phase. Queue: each job; load, denoise and settle: each call for a "
    "batch; encode and upload: each picture.",
    ["phase", "model_id"],
    buckets=_SECONDS,
)
BATCH_FILL = Histogram(
    "pixeltoll_batch_fill_ratio",
    "Pictures in a pipeline call, as a share of the most that its model allows.",
    ["model_id"],
    buckets=_SHARES,
)
WORKER_JOBS = Counter(
    "pixeltoll_worker_jobs",
    "Jobs that this worker is done with: succeeded, failed, or queued again.",
    ["outcome", "model_id"],
)
CAPTURES = Counter("pixeltoll_captures", "Holds that were captured.", ["model_id"])
CAPTURED_UNITS = Counter("pixeltoll_captured_units", "Units that were charged.", ["model_id"])
LORA_LOOKUPS = Counter(
    "pixeltoll_lora_lookups",
    "Adapters that a batch asked for, and whether they were in memory (hit) or not (miss).",
    ["outcome"],
)
DELIVERIES = Counter(
    "pixeltoll_webhook_deliveries",
    "Attempts to tell a webhook: delivered, failed and to be tried again, given up, or overtaken "
    "by another attempt.",
    ["outcome"],
)
HOLDS = Counter("pixeltoll_holds", "Holds that were placed, one for each new job.", ["model_id"])
REFUSALS = Counter(
    "pixeltoll_refusals",
    "Submissions that an error answered, by its code; only what the books refused has a record.",
    ["reason"],
)


@contextmanager
def timed(phase: Phase, model_id: str, jobs: Sequence[Job]) -> Iterator[None]:
    """Note how long the block takes, unless it fails: half a phase would say nothing.

    In the traces of the jobs that it is for, it is a span in any case.
    """
    began_at = time.perf_counter()
    with tracing.phase(phase, jobs):
        yield
    PHASE_SECONDS.labels(phase, model_id).observe(time.perf_counter() - began_at)


def note_claimed(claimed: Sequence[Job]) -> None:
    """Note how long claimed jobs could have run and did not, by the database's clock."""
    tracing.note_queued(claimed)
    for job in claimed:
        if job.started_at is not None:
            waited_s = (job.started_at - job.available_at).total_seconds()
            PHASE_SECONDS.labels("queue", job.model_id).observe(max(0.0, waited_s))


def note_done(job: Job, outcome: Outcome) -> None:
    """Note that this worker is done with a job."""
    WORKER_JOBS.labels(outcome, job.model_id).inc()


def note_captured(job: Job, pictures: int) -> None:
    """Note that a job succeeded, and was charged for so many of its pictures."""
    note_done(job, "succeeded")
    CAPTURES.labels(job.model_id).inc()
    CAPTURED_UNITS.labels(job.model_id).inc(job.units // job.num_images * pictures)
