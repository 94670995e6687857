"""What a running job waits for: its model, or its pictures."""

from alembic import op

revision = "0030_job_phase"
down_revision = "0009_refusals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("""
        ALTER TABLE jobs ADD COLUMN phase varchar
            CONSTRAINT ck_jobs_phase CHECK (phase IN ('loading', 'drawing'))
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE jobs DROP COLUMN phase")
