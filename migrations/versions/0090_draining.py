"""Workers that are told to leave, and where the trace of a job goes on."""

from alembic import op

revision = "0090_draining"
down_revision = "0080_worker_memory"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.execute("""
        ALTER TABLE jobs ADD COLUMN handed_back integer NOT NULL DEFAULT 0,
            ADD COLUMN traceparent varchar(55),
            ADD CONSTRAINT ck_jobs_handed_back CHECK (handed_back BETWEEN 0 AND attempt)
    """)
    op.execute("""
        ALTER TABLE workers ADD COLUMN draining_at timestamptz, ADD COLUMN left_at timestamptz
    """)


def downgrade() -> None:
    """Drop them."""
    op.execute("ALTER TABLE workers DROP COLUMN left_at, DROP COLUMN draining_at")
    op.execute("ALTER TABLE jobs DROP COLUMN traceparent, DROP COLUMN handed_back")
