"""Prices in other currencies than the one that is settled in: rates, and what they did to amounts.

A hold, and the charge that comes of it, keep the offer's own price beside the amount and the rate
between them. Where the price is in the currency of the amount, there is nothing to keep.
"""

from alembic import context, op

revision = "0005_currencies"
down_revision = "0004_reports"
branch_labels = None
depends_on = None

RATES = """
CREATE TABLE exchange_rates (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_exchange_rates PRIMARY KEY,
    base_currency varchar NOT NULL
        CONSTRAINT ck_exchange_rates_base_currency CHECK (base_currency IN ('USD', 'ETH')),
    quote_currency varchar NOT NULL
        CONSTRAINT ck_exchange_rates_quote_currency CHECK (quote_currency IN ('USD', 'ETH')),
    rate numeric(38,18) NOT NULL CONSTRAINT ck_exchange_rates_above_zero
        CHECK (rate > 0 AND rate < 'NaN'),
    source varchar NOT NULL CONSTRAINT ck_exchange_rates_source
        CHECK (length(source) BETWEEN 1 AND 200),
    observed_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_exchange_rates_two_currencies CHECK (base_currency <> quote_currency),
    -- A rate of the future would never grow old. Clocks may differ a little.
    CONSTRAINT ck_exchange_rates_observed CHECK (observed_at <= created_at + interval '1 minute')
);
CREATE INDEX ix_exchange_rates_newest
    ON exchange_rates (base_currency, quote_currency, observed_at DESC, id DESC);
"""

# What an operator wrote in wei is kept in ETH, scaled to 18 decimals; and what was written, too.
STATED = """
ALTER TABLE {table}
    ADD COLUMN stated_price_per_unit numeric,
    ADD COLUMN stated_pixels_per_unit bigint,
    ADD COLUMN stated_currency varchar,
    ADD CONSTRAINT ck_{table}_stated CHECK (
        num_nonnulls(stated_price_per_unit, stated_pixels_per_unit, stated_currency) = 0
        OR (stated_currency = 'wei' AND currency = 'ETH' AND stated_pixels_per_unit > 0
            AND stated_price_per_unit * pixels_per_unit
              = price_per_unit * 1000000000000000000 * stated_pixels_per_unit) IS TRUE);
"""

# With two currencies, one rate is all that a hold can need: for its price, its limit, or both.
HOLDS = """
ALTER TABLE holds
    ADD COLUMN price_currency varchar,
    ADD COLUMN limit_currency varchar,
    ADD COLUMN rate numeric(38,18),
    ADD COLUMN rate_divisor numeric(38,18),
    ADD COLUMN rate_id bigint
        CONSTRAINT fk_holds_rate_id_exchange_rates REFERENCES exchange_rates,
    DROP CONSTRAINT ck_holds_amount_exact,
    DROP CONSTRAINT ck_holds_within_limit,
    ADD CONSTRAINT ck_holds_amount_exact CHECK (
        CASE WHEN price_currency IS NULL THEN
            amount * pixels_per_unit >= units * price_per_unit
            AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit
        ELSE
            amount * pixels_per_unit * rate_divisor >= units * price_per_unit * rate
            AND (amount - 0.000000000000000001) * pixels_per_unit * rate_divisor
              < units * price_per_unit * rate
        END),
    ADD CONSTRAINT ck_holds_within_limit CHECK (
        CASE WHEN price_currency IS NOT DISTINCT FROM limit_currency THEN
            price_per_unit * limit_pixels_per_unit <= limit_price_per_unit * pixels_per_unit
        WHEN limit_currency IS NULL THEN
            price_per_unit * rate * limit_pixels_per_unit
            <= limit_price_per_unit * pixels_per_unit * rate_divisor
        ELSE
            price_per_unit * limit_pixels_per_unit * rate_divisor
            <= limit_price_per_unit * rate * pixels_per_unit
        END),
    ADD CONSTRAINT ck_holds_converted CHECK (
        num_nonnulls(rate, rate_divisor, rate_id)
        = CASE WHEN num_nonnulls(price_currency, limit_currency) = 0 THEN 0 ELSE 3 END),
    ADD CONSTRAINT ck_holds_rate_above_zero CHECK (
        rate > 0 AND rate < 'NaN' AND rate_divisor > 0 AND rate_divisor < 'NaN'),
    ADD CONSTRAINT ck_holds_price_foreign CHECK (price_currency <> currency),
    ADD CONSTRAINT ck_holds_limit_foreign CHECK (
        limit_currency IS NULL
        OR (limit_currency <> currency AND limit_price_per_unit IS NOT NULL));

ALTER TABLE charges
    ADD COLUMN price_currency varchar,
    ADD COLUMN rate numeric(38,18),
    ADD COLUMN rate_divisor numeric(38,18),
    DROP CONSTRAINT ck_charges_amount_exact,
    ADD CONSTRAINT ck_charges_amount_exact CHECK (
        CASE WHEN price_currency IS NULL THEN
            amount * pixels_per_unit >= units * price_per_unit
            AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit
        ELSE
            amount * pixels_per_unit * rate_divisor >= units * price_per_unit * rate
            AND (amount - 0.000000000000000001) * pixels_per_unit * rate_divisor
              < units * price_per_unit * rate
        END),
    ADD CONSTRAINT ck_charges_converted CHECK (
        num_nonnulls(rate, rate_divisor) = CASE WHEN price_currency IS NULL THEN 0 ELSE 2 END);
"""

UNDO_TABLES = """
ALTER TABLE charges
    DROP CONSTRAINT ck_charges_amount_exact,
    DROP CONSTRAINT ck_charges_converted,
    DROP COLUMN rate_divisor, DROP COLUMN rate, DROP COLUMN price_currency,
    ADD CONSTRAINT ck_charges_amount_exact CHECK (
        amount * pixels_per_unit >= units * price_per_unit
        AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit);
ALTER TABLE holds
    DROP CONSTRAINT ck_holds_limit_foreign,
    DROP CONSTRAINT ck_holds_price_foreign,
    DROP CONSTRAINT ck_holds_rate_above_zero,
    DROP CONSTRAINT ck_holds_converted,
    DROP CONSTRAINT ck_holds_within_limit,
    DROP CONSTRAINT ck_holds_amount_exact,
    DROP COLUMN rate_id, DROP COLUMN rate_divisor, DROP COLUMN rate,
    DROP COLUMN limit_currency, DROP COLUMN price_currency,
    ADD CONSTRAINT ck_holds_amount_exact CHECK (
        amount * pixels_per_unit >= units * price_per_unit
        AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit),
    ADD CONSTRAINT ck_holds_within_limit CHECK (
        price_per_unit * limit_pixels_per_unit <= limit_price_per_unit * pixels_per_unit);
ALTER TABLE price_limits
    DROP CONSTRAINT ck_price_limits_stated, DROP COLUMN stated_currency,
    DROP COLUMN stated_pixels_per_unit, DROP COLUMN stated_price_per_unit;
ALTER TABLE offers
    DROP CONSTRAINT ck_offers_stated, DROP COLUMN stated_currency,
    DROP COLUMN stated_pixels_per_unit, DROP COLUMN stated_price_per_unit;
DROP TABLE exchange_rates;
"""

CHECK_HOLDS = """
CREATE OR REPLACE FUNCTION ledger_check_holds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad uuid;
BEGIN
    SELECT h.id INTO bad FROM new_holds h
     WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.hold_id = h.id AND e.kind = 'hold') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % reserves nothing: it has no entry', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_entered';
    END IF;
    SELECT h.id INTO bad FROM new_holds h
      LEFT JOIN offers o ON o.id = h.offer_id
      LEFT JOIN accounts a ON a.orchestrator_id = h.orchestrator_id AND a.kind = 'payable'
     WHERE (h.orchestrator_id, h.pipeline, h.model_id, h.price_per_unit, h.pixels_per_unit,
            coalesce(h.price_currency, h.currency), h.currency)
           IS DISTINCT FROM
           (o.orchestrator_id, o.pipeline, o.model_id, o.price_per_unit, o.pixels_per_unit,
            o.currency, a.currency)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % is not what its offer says, or its orchestrator cannot be paid', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_as_offered';
    END IF;
    SELECT h.id INTO bad FROM new_holds h
     WHERE h.rate_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM exchange_rates r
         WHERE r.id = h.rate_id
           AND ((r.base_currency, r.quote_currency, r.rate, 1)
                = (coalesce(h.price_currency, h.limit_currency), h.currency, h.rate, h.rate_divisor)
             OR (r.quote_currency, r.base_currency, 1, r.rate)
                = (coalesce(h.price_currency, h.limit_currency), h.currency, h.rate, h.rate_divisor)
           )) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % is not converted by the rate that it names', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_as_rated';
    END IF;
    RETURN NULL;
END $$;
"""

CHECK_CHARGES = """
CREATE OR REPLACE FUNCTION ledger_check_charges() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT c.hold_id,
           CASE WHEN h.price_currency IS NOT DISTINCT FROM h.limit_currency
                THEN c.price_per_unit * h.limit_pixels_per_unit
                   > h.limit_price_per_unit * c.pixels_per_unit
                WHEN h.limit_currency IS NULL
                THEN c.price_per_unit * h.rate * h.limit_pixels_per_unit
                   > h.limit_price_per_unit * c.pixels_per_unit * h.rate_divisor
                ELSE c.price_per_unit * h.limit_pixels_per_unit * h.rate_divisor
                   > h.limit_price_per_unit * h.rate * c.pixels_per_unit
           END AS above_limit,
           e.kind IS DISTINCT FROM 'capture' OR e.hold_id IS DISTINCT FROM c.hold_id AS uncaptured
      INTO bad
      FROM new_charges c
      LEFT JOIN holds h ON h.id = c.hold_id
      LEFT JOIN entries e ON e.id = c.entry_id
     WHERE (c.gateway_id, c.orchestrator_id, c.reference, c.pipeline, c.model_id, c.currency,
            c.price_per_unit, c.pixels_per_unit, c.platform_fee)
           IS DISTINCT FROM
           (h.gateway_id, h.orchestrator_id, h.reference, h.pipeline, h.model_id, h.currency,
            h.price_per_unit, h.pixels_per_unit, trunc(c.amount * h.fee_rate, 18))
        OR (c.price_currency IS NOT DISTINCT FROM h.price_currency
            AND (h.price_currency IS NULL
                 OR (c.rate, c.rate_divisor) = (h.rate, h.rate_divisor))) IS NOT TRUE
        OR (c.units <= h.units AND c.amount <= h.amount) IS NOT TRUE
        OR (e.kind = 'capture' AND e.hold_id = c.hold_id) IS NOT TRUE
     LIMIT 1;
    IF FOUND THEN
        IF bad.above_limit THEN
            RAISE EXCEPTION 'the price of charge % is above the limit of its hold', bad.hold_id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'charges_within_limit';
        ELSIF bad.uncaptured THEN
            RAISE EXCEPTION 'charge % has no capture entry', bad.hold_id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'charges_captured';
        END IF;
        RAISE EXCEPTION 'charge % is not what its hold reserved', bad.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'charges_as_held';
    END IF;
    RETURN NULL;
END $$;
"""

HARDEN = "ALTER FUNCTION {function}() SECURITY DEFINER SET search_path = public, pg_temp"

VIEWS = """
CREATE VIEW billing_rates AS
SELECT r.observed_at, r.base_currency, r.quote_currency, r.rate, r.source, r.created_at,
       r.id AS rate_id
  FROM exchange_rates r;

CREATE OR REPLACE VIEW ledger_open_holds AS
SELECT h.created_at AS held_at, h.reference AS job_id, g.name AS gateway, o.name AS orchestrator,
       h.pipeline, h.model_id, h.units, h.price_per_unit, h.pixels_per_unit, h.currency, h.amount,
       h.limit_price_per_unit, h.limit_pixels_per_unit, h.expires_at, h.id AS hold_id,
       coalesce(h.price_currency, h.currency) AS price_currency,
       CASE WHEN h.limit_price_per_unit IS NOT NULL THEN coalesce(h.limit_currency, h.currency) END
           AS limit_currency,
       coalesce(h.rate, 1.000000000000000000) AS rate,
       coalesce(h.rate_divisor, 1.000000000000000000) AS rate_divisor, h.rate_id
  FROM holds h
  JOIN gateways g ON g.id = h.gateway_id
  JOIN orchestrators o ON o.id = h.orchestrator_id
 WHERE h.state = 'open';

CREATE OR REPLACE VIEW billing_charges AS
SELECT c.created_at AS charged_at, c.reference AS job_id, g.name AS gateway, o.name AS orchestrator,
       c.pipeline, c.model_id, c.units, c.price_per_unit, c.pixels_per_unit, c.currency,
       c.amount, c.platform_fee, c.orchestrator_payment, c.refunded,
       h.limit_price_per_unit, h.limit_pixels_per_unit, c.entry_id, c.hold_id, c.day,
       coalesce(c.price_currency, c.currency) AS price_currency,
       CASE WHEN h.limit_price_per_unit IS NOT NULL THEN coalesce(h.limit_currency, h.currency) END
           AS limit_currency,
       coalesce(h.rate, 1.000000000000000000) AS rate,
       coalesce(h.rate_divisor, 1.000000000000000000) AS rate_divisor, h.rate_id
  FROM charges c
  JOIN holds h ON h.id = c.hold_id
  JOIN gateways g ON g.id = c.gateway_id
  JOIN orchestrators o ON o.id = c.orchestrator_id;

CREATE OR REPLACE VIEW billing_invoice_lines AS
SELECT line.month, g.name AS gateway, line.kind, line.pipeline, line.model_id,
       line.price_per_unit, line.pixels_per_unit, line.currency, count(*) AS items,
       sum(line.units) AS units, sum(line.amount) AS amount, line.price_currency
  FROM gateways g, LATERAL (
    SELECT c.month, 'charge' AS kind, c.pipeline, c.model_id, c.price_per_unit, c.pixels_per_unit,
           c.currency, c.units, c.amount, coalesce(c.price_currency, c.currency) AS price_currency
      FROM charges c WHERE c.gateway_id = g.id
     UNION ALL
    SELECT r.month, 'refund', c.pipeline, c.model_id, c.price_per_unit, c.pixels_per_unit,
           c.currency, 0, -r.amount, coalesce(c.price_currency, c.currency)
      FROM refunds r JOIN charges c ON c.hold_id = r.hold_id WHERE r.gateway_id = g.id
  ) AS line
 GROUP BY line.month, g.name, line.kind, line.pipeline, line.model_id, line.price_per_unit,
          line.pixels_per_unit, line.currency, line.price_currency;
"""

CHANGED_VIEWS = ("billing_invoice_lines", "billing_charges", "ledger_open_holds")


def upgrade() -> None:
    op.execute(RATES)
    for name, when, level, reason in (
        ("written_once", "UPDATE", "ROW", "it is written once"),
        ("never_deleted", "DELETE", "ROW", "it is kept for good"),
        ("never_emptied", "TRUNCATE", "STATEMENT", "it is kept for good"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {when} ON exchange_rates FOR EACH {level} "
            f"EXECUTE FUNCTION ledger_refuse('{reason}')"
        )
    op.execute(
        "CREATE TRIGGER written_now BEFORE INSERT ON exchange_rates FOR EACH ROW "
        "WHEN (NEW.created_at <> now()) "
        "EXECUTE FUNCTION ledger_refuse('it is dated by the database')"
    )
    for table in ("offers", "price_limits"):
        op.execute(STATED.format(table=table))
    op.execute(HOLDS)
    for name, function in (
        ("ledger_check_holds", CHECK_HOLDS),
        ("ledger_check_charges", CHECK_CHARGES),
    ):
        op.execute(function)
        op.execute(HARDEN.format(function=name))
    op.execute(VIEWS)
    op.execute("REVOKE UPDATE, DELETE ON exchange_rates FROM pixeltoll_app")
    op.execute("REVOKE ALL ON billing_rates FROM pixeltoll_app")
    op.execute("GRANT SELECT ON billing_rates TO pixeltoll_app, pixeltoll_reports")


def downgrade() -> None:
    op.execute(f"DROP VIEW billing_rates, {', '.join(CHANGED_VIEWS)}")
    first = context.script.get_revision("0001_ledger").module
    fourth = context.script.get_revision("0004_reports").module
    for name in ("ledger_check_holds", "ledger_check_charges"):
        op.execute(first.FUNCTIONS[name].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
        op.execute(HARDEN.format(function=name))
    op.execute(UNDO_TABLES)
    for view in (*first.VIEWS.split(";"), *fourth.VIEWS.split(";")):
        if any(f"VIEW {name} AS" in view for name in CHANGED_VIEWS):
            op.execute(view)
    views = ", ".join(CHANGED_VIEWS)
    op.execute(f"REVOKE ALL ON {views} FROM pixeltoll_app")
    op.execute(f"GRANT SELECT ON {views} TO pixeltoll_app, pixeltoll_reports")
