"""What the results of each attempt of a task are called, so that no two are called the same."""

from alembic import op

revision = "0100_result_stems"
down_revision = "0090_draining"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute("""
        CREATE TABLE result_stems (
            stem varchar NOT NULL CONSTRAINT pk_result_stems PRIMARY KEY,
            job_id uuid NOT NULL CONSTRAINT fk_result_stems_job_id_jobs REFERENCES jobs,
            attempt integer NOT NULL,
            CONSTRAINT uq_result_stems_job_id_attempt UNIQUE (job_id, attempt)
        )
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE result_stems")
