"""How much of its memory a worker's models take, which its heartbeat tells."""

from alembic import op

revision = "0080_worker_memory"
down_revision = "0071_fewer_questions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a worker of before tells nothing."""
    op.execute("ALTER TABLE workers ADD COLUMN memory jsonb NOT NULL DEFAULT '{}'")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE workers DROP COLUMN memory")
