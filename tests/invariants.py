"""What must be true after every test that breaks something: the books, the jobs, the objects."""

from __future__ import annotations

import hashlib

from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger import audit
from tasks import audit as job_audit
from tasks.storage import ObjectStore
from tasks.tables import Job, Output

# Each finds what must not be, and so returns nothing.
_JOBS = {
    "a job whose end and whose hold's end disagree": """
        SELECT jobs.id, jobs.state, holds.state FROM jobs JOIN holds ON holds.id = hold_id
         WHERE finished_at IS NOT NULL AND holds.state <>
               CASE jobs.state WHEN 'succeeded' THEN 'captured'
                    WHEN 'expired' THEN 'expired' ELSE 'voided' END""",
    "a succeeded job without exactly one charge for its outputs, or another with one": """
        SELECT jobs.id, jobs.state FROM jobs LEFT JOIN charges USING (hold_id)
         GROUP BY jobs.id
        HAVING count(charges.hold_id) <> (jobs.state = 'succeeded')::int
            OR sum(charges.units) <> jobs.units / jobs.num_images
                   * (SELECT count(*) FROM outputs WHERE outputs.job_id = jobs.id)""",
    "a succeeded job without outputs, or without some and not saying so, or another with some": """
        SELECT jobs.id, jobs.state FROM jobs LEFT JOIN outputs ON outputs.job_id = jobs.id
         GROUP BY jobs.id
        HAVING CASE WHEN jobs.state <> 'succeeded' THEN count(outputs.key) > 0
                    WHEN jobs.error_code = 'partial_result'
                         THEN count(outputs.key) NOT BETWEEN 1 AND num_images - 1
                    ELSE count(outputs.key) <> num_images OR jobs.error_code IS NOT NULL END""",
    "an output that its job has no place for": """
        SELECT outputs.key FROM outputs JOIN jobs ON jobs.id = outputs.job_id
         WHERE index NOT BETWEEN 0 AND num_images - 1""",
    "an output of another attempt than the one that was settled": """
        SELECT outputs.key FROM outputs JOIN jobs ON jobs.id = outputs.job_id
         WHERE outputs.key NOT LIKE 'outputs/' || jobs.id || '/' || jobs.attempt || '/%'""",
}


def assert_sound(sessions: sessionmaker[Session], store: ObjectStore | None = None) -> None:
    """Prove the books, the jobs and, given the store, every delivered object."""
    with sessions.begin() as session:
        for what, query in {**audit.CHECKS, **job_audit.CHECKS, **_JOBS}.items():
            found = session.execute(text(query)).all()
            assert not found, f"{what}: {found}"
        outputs = session.scalars(select(Output)).all()
    for output in outputs if store else ():
        data = store.get(output.key) if store else b""
        assert hashlib.sha256(data).digest() == output.sha256, output.key
        assert len(data) == output.size_bytes, output.key


def assert_no_orphans(sessions: sessionmaker[Session], store: ObjectStore) -> None:
    """Prove that after a sweep the store has nothing but what outputs name."""
    with sessions.begin() as session:
        named = set(session.scalars(select(Output.key)))
        unswept = session.scalars(select(Job.id).where(~Job.swept)).all()
    assert not unswept
    assert {stored.key for stored in store.list("outputs/")} == named
