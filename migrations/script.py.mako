"""${message}

Rules: no lock held for long on a large table (build indexes CONCURRENTLY, add columns without a rewrite); the previous
release must still run on the new schema; a destructive change takes three releases.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
