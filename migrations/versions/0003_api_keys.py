"""API keys: looked up by their public id, stored as a hash."""

from alembic import op

revision = "0003_api_keys"
down_revision = "0002_jobs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE api_keys (
    id varchar NOT NULL CONSTRAINT pk_api_keys PRIMARY KEY,
    gateway_id uuid NOT NULL CONSTRAINT fk_api_keys_gateway_id_gateways REFERENCES gateways,
    name varchar NOT NULL,
    secret_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX ix_api_keys_gateway_id ON api_keys (gateway_id);
""")


def downgrade() -> None:
    op.execute("DROP TABLE api_keys")
