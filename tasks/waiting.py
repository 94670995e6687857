"""What a queued job waits for: the jobs before it, and a worker that is alive."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from tasks.tables import Job
from tasks.workers import SILENCE_S

# Counting jobs ahead costs time; nobody needs to know more than this.
MAX_QUEUE_POSITION = 100


@dataclass(frozen=True)
class Wait:
    """How many queued jobs come before a job (0: it is next), and whether anybody serves its queue.

    The position is counted up to `MAX_QUEUE_POSITION`.
    """

    position: int
    live: bool


def ahead_of(queue: str, priority: str, job_id: str) -> str:
    """Return what counts the jobs before one, in SQL, by the names of its parameters.

    Two ranges of one index, where one comparison of pairs would be a filter over the whole queue.
    The limit is written out: by a parameter, PostgreSQL would plan the statement anew each time.
    """
    queued = f"SELECT 1 FROM jobs WHERE queue = :{queue} AND state = 'queued'"  # noqa: S608  names
    sooner = f"{queued} AND priority > :{priority}"
    earlier = f"{queued} AND priority = :{priority} AND id < :{job_id}"
    before = f"{sooner} UNION ALL {earlier} LIMIT {MAX_QUEUE_POSITION}"
    return f"(SELECT count(*) FROM ({before}) AS before)"  # noqa: S608  names


# Written out, because building a statement costs more than running it.
_WAIT = text(f"""
SELECT {ahead_of("queue", "priority", "id")} AS ahead, EXISTS (
    SELECT 1 FROM workers
     WHERE queues @> ARRAY[CAST(:queue AS varchar)]
       AND heartbeat_at > now() - make_interval(secs => :silence_s)
) AS live
""")  # noqa: S608  names


def look(session: Session, job: Job) -> Wait | None:
    """Return what a queued job waits for, in one round trip; None when it is not queued."""
    if job.state != "queued":
        return None
    facts = {
        "queue": job.queue,
        "priority": job.priority,
        "id": job.id,
        "silence_s": SILENCE_S,
    }
    row = session.execute(_WAIT, facts).one()
    return Wait(row.ahead, row.live)
