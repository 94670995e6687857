"""What was not sold, and why; and limits for what nobody offers.

Neither is part of the books: they record what did not move any money.
"""

from alembic import op

revision = "0009_refusals"
down_revision = "0008_payouts"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE refusals (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_refusals PRIMARY KEY,
    gateway_id uuid NOT NULL CONSTRAINT fk_refusals_gateway_id_gateways REFERENCES gateways,
    api_key_id varchar,
    reason varchar NOT NULL CONSTRAINT ck_refusals_reason
        CHECK (reason IN ('no_limit', 'price', 'budget', 'funds')),
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    units bigint NOT NULL,
    needed numeric(38,18),
    available numeric(38,18),
    currency varchar,
    price_per_unit numeric(38,18),
    pixels_per_unit bigint,
    price_currency varchar,
    limit_price_per_unit numeric(38,18),
    limit_pixels_per_unit bigint,
    limit_currency varchar,
    message varchar NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_refusals_gateway_id_id ON refusals (gateway_id, id);

CREATE TABLE limit_warnings (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_limit_warnings PRIMARY KEY,
    gateway_id uuid NOT NULL CONSTRAINT fk_limit_warnings_gateway_id_gateways REFERENCES gateways,
    pipeline varchar NOT NULL,
    model_id varchar,
    message varchar NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_limit_warnings_gateway_id_id ON limit_warnings (gateway_id, id);
"""

VIEWS = """
CREATE VIEW billing_refusals AS
SELECT r.created_at AS refused_at, g.name AS gateway, r.api_key_id, r.reason, r.pipeline,
       r.model_id, r.units, r.needed, r.available, r.currency, r.price_per_unit, r.pixels_per_unit,
       r.price_currency, r.limit_price_per_unit, r.limit_pixels_per_unit, r.limit_currency,
       r.message, r.id AS refusal_id
  FROM refusals r JOIN gateways g ON g.id = r.gateway_id;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(VIEWS)
    op.execute("REVOKE UPDATE, DELETE ON refusals, limit_warnings FROM pixeltoll_app")
    op.execute("REVOKE ALL ON billing_refusals FROM pixeltoll_app")
    op.execute("GRANT SELECT ON billing_refusals TO pixeltoll_app, pixeltoll_reports")


def downgrade() -> None:
    op.execute("DROP VIEW billing_refusals")
    op.execute("DROP TABLE limit_warnings, refusals")
