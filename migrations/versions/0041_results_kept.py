"""Whether the pictures of a job, its input and its outputs, are still in the object store."""

from alembic import op

revision = "0041_results_kept"
down_revision = "0040_jobs_ended"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: what there is so far was never deleted."""
    op.execute("ALTER TABLE jobs ADD COLUMN kept boolean NOT NULL DEFAULT true")
    op.execute(
        "CREATE INDEX ix_jobs_kept ON jobs (finished_at) WHERE kept AND finished_at IS NOT NULL"
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE jobs DROP COLUMN kept")
