"""What becomes of pictures that the safety checker flags, by gateway; without a row: nothing."""

from alembic import op

revision = "0042_gateway_policies"
down_revision = "0041_results_kept"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute("""
        CREATE TABLE gateway_policies (
            gateway_id uuid NOT NULL CONSTRAINT pk_gateway_policies PRIMARY KEY
                CONSTRAINT fk_gateway_policies_gateway_id_gateways REFERENCES gateways,
            safety varchar NOT NULL CONSTRAINT ck_gateway_policies_safety
                CHECK (safety IN ('flag', 'blur', 'withhold'))
        )
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE gateway_policies")
