"""The model that a gateway has chosen for its WebUI requests; without a row: the first offered."""

from alembic import op

revision = "0060_sdwebui_options"
down_revision = "0050_webhooks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute("""
        CREATE TABLE sdwebui_options (
            gateway_id uuid NOT NULL CONSTRAINT pk_sdwebui_options PRIMARY KEY
                CONSTRAINT fk_sdwebui_options_gateway_id_gateways REFERENCES gateways,
            model_id varchar NOT NULL
        )
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE sdwebui_options")
