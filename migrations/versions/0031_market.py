"""What an offer promises beside its price, and keys by which workers register.

A worker's row is only its last heartbeat: those that live write theirs again.
"""

from alembic import op

revision = "0031_market"
down_revision = "0030_job_phase"
branch_labels = None
depends_on = None

OFFERS = """
ALTER TABLE offers
    ADD COLUMN warm boolean NOT NULL DEFAULT false,
    ADD COLUMN capacity integer NOT NULL DEFAULT 1
        CONSTRAINT ck_offers_capacity_above_zero CHECK (capacity > 0);
"""

WORKERS = """
DELETE FROM workers;
ALTER TABLE workers
    ADD COLUMN orchestrator_id uuid NOT NULL
        CONSTRAINT fk_workers_orchestrator_id_orchestrators REFERENCES orchestrators,
    ADD COLUMN speeds jsonb NOT NULL DEFAULT '{}';
"""

KEYS = """
CREATE TABLE orchestrator_keys (
    id varchar NOT NULL CONSTRAINT pk_orchestrator_keys PRIMARY KEY,
    orchestrator_id uuid NOT NULL
        CONSTRAINT fk_orchestrator_keys_orchestrator_id_orchestrators REFERENCES orchestrators,
    name varchar NOT NULL,
    secret_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX ix_orchestrator_keys_orchestrator_id ON orchestrator_keys (orchestrator_id);
"""


def upgrade() -> None:
    op.execute(OFFERS)
    op.execute(WORKERS)
    op.execute(KEYS)
    # A key that was revoked says so for good.
    op.execute("REVOKE DELETE ON orchestrator_keys FROM pixeltoll_app")


def downgrade() -> None:
    op.execute("DROP TABLE orchestrator_keys")
    op.execute("ALTER TABLE workers DROP COLUMN speeds, DROP COLUMN orchestrator_id")
    op.execute("ALTER TABLE offers DROP COLUMN capacity, DROP COLUMN warm")
