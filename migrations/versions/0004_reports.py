"""What finance reads, and who may touch what: views, `pixeltoll_reports` and `pixeltoll_app`.

Roles belong to the whole server, so they are made when missing and stay when this is undone. They
cannot log in: an operator grants them to users who can.
"""

from alembic import op

revision = "0004_reports"
down_revision = "0003_api_keys"
branch_labels = None
depends_on = None

ROLES = ("pixeltoll_app", "pixeltoll_reports")

# Two databases of one server may be migrated at the same time.
CREATE_ROLE = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{role}') THEN
        CREATE ROLE {role} NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""

# Days and months are UTC's. A refund is somebody's on its own, so that a report of one gateway or
# one orchestrator need not look at everybody's.
COLUMNS = """
ALTER TABLE charges
    ADD COLUMN day date GENERATED ALWAYS AS ((created_at AT TIME ZONE 'UTC')::date) STORED,
    ADD COLUMN month date GENERATED ALWAYS AS (
        (created_at AT TIME ZONE 'UTC')::date
        - (extract(day FROM (created_at AT TIME ZONE 'UTC'))::integer - 1)) STORED;
DROP INDEX ix_charges_gateway_id_created_at;
DROP INDEX ix_charges_orchestrator_id_created_at;
CREATE INDEX ix_charges_gateway_id_day ON charges (gateway_id, day);
CREATE INDEX ix_charges_gateway_id_month ON charges (gateway_id, month);
CREATE INDEX ix_charges_orchestrator_id_day ON charges (orchestrator_id, day);
CREATE INDEX ix_charges_day ON charges USING brin (day) WITH (autosummarize = true);

ALTER TABLE refunds
    ADD COLUMN gateway_id uuid,
    ADD COLUMN orchestrator_id uuid,
    ADD COLUMN day date GENERATED ALWAYS AS ((created_at AT TIME ZONE 'UTC')::date) STORED,
    ADD COLUMN month date GENERATED ALWAYS AS (
        (created_at AT TIME ZONE 'UTC')::date
        - (extract(day FROM (created_at AT TIME ZONE 'UTC'))::integer - 1)) STORED;
ALTER TABLE refunds DISABLE TRIGGER written_once;
UPDATE refunds SET gateway_id = c.gateway_id, orchestrator_id = c.orchestrator_id
  FROM charges c WHERE c.hold_id = refunds.hold_id;
ALTER TABLE refunds ENABLE TRIGGER written_once;
ALTER TABLE refunds
    ALTER COLUMN gateway_id SET NOT NULL,
    ALTER COLUMN orchestrator_id SET NOT NULL,
    ADD CONSTRAINT fk_refunds_gateway_id_gateways
        FOREIGN KEY (gateway_id) REFERENCES gateways,
    ADD CONSTRAINT fk_refunds_orchestrator_id_orchestrators
        FOREIGN KEY (orchestrator_id) REFERENCES orchestrators;
CREATE INDEX ix_refunds_gateway_id_day ON refunds (gateway_id, day);
CREATE INDEX ix_refunds_orchestrator_id_day ON refunds (orchestrator_id, day);
CREATE INDEX ix_refunds_day ON refunds (day);

CREATE FUNCTION ledger_own_refund() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    SELECT c.gateway_id, c.orchestrator_id INTO NEW.gateway_id, NEW.orchestrator_id
      FROM charges c WHERE c.hold_id = NEW.hold_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'nothing was charged for hold %', NEW.hold_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'fk_refunds_hold_id_charges';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER own_refund BEFORE INSERT ON refunds
    FOR EACH ROW EXECUTE FUNCTION ledger_own_refund();
"""

UNDO_COLUMNS = """
DROP TRIGGER own_refund ON refunds;
DROP FUNCTION ledger_own_refund();
ALTER TABLE refunds
    DROP COLUMN month, DROP COLUMN day, DROP COLUMN orchestrator_id, DROP COLUMN gateway_id;
ALTER TABLE charges DROP COLUMN month, DROP COLUMN day;
CREATE INDEX ix_charges_gateway_id_created_at ON charges (gateway_id, created_at);
CREATE INDEX ix_charges_orchestrator_id_created_at ON charges (orchestrator_id, created_at);
"""

# In the daily views the parties come first and what moved is looked up for each, so that a day of
# one of them is a short range of an index.
VIEWS = """
CREATE VIEW ledger_journal AS
SELECT p.id AS posting_id, p.entry_id, e.created_at AS posted_at, e.kind,
       coalesce(e.reference, h.reference) AS reference, a.kind AS account,
       coalesce(g.name, o.name, 'platform') AS owner, e.currency,
       CASE WHEN p.amount < 0 THEN -p.amount END AS debit,
       CASE WHEN p.amount > 0 THEN p.amount END AS credit
  FROM postings p
  JOIN entries e ON e.id = p.entry_id
  JOIN accounts a ON a.id = p.account_id
  LEFT JOIN holds h ON h.id = e.hold_id
  LEFT JOIN gateways g ON g.id = a.gateway_id
  LEFT JOIN orchestrators o ON o.id = a.orchestrator_id;

CREATE VIEW ledger_open_holds AS
SELECT h.created_at AS held_at, h.reference AS job_id, g.name AS gateway, o.name AS orchestrator,
       h.pipeline, h.model_id, h.units, h.price_per_unit, h.pixels_per_unit, h.currency, h.amount,
       h.limit_price_per_unit, h.limit_pixels_per_unit, h.expires_at, h.id AS hold_id
  FROM holds h
  JOIN gateways g ON g.id = h.gateway_id
  JOIN orchestrators o ON o.id = h.orchestrator_id
 WHERE h.state = 'open';

CREATE VIEW billing_gateway_daily AS
SELECT moved.day, g.name AS gateway, moved.currency, sum(moved.jobs) AS jobs,
       sum(moved.units) AS units, sum(moved.amount) AS amount, sum(moved.refunded) AS refunded,
       sum(moved.amount) - sum(moved.refunded) AS net
  FROM gateways g, LATERAL (
    SELECT c.day, c.currency, 1 AS jobs, c.units, c.amount, CAST(0 AS numeric(38,18)) AS refunded
      FROM charges c WHERE c.gateway_id = g.id
     UNION ALL
    SELECT r.day, e.currency, 0, 0, CAST(0 AS numeric(38,18)), r.amount
      FROM refunds r JOIN entries e ON e.id = r.entry_id WHERE r.gateway_id = g.id
  ) AS moved
 GROUP BY moved.day, g.name, moved.currency;

CREATE VIEW billing_orchestrator_daily AS
SELECT moved.day, o.name AS orchestrator, moved.currency, sum(moved.jobs) AS jobs,
       sum(moved.units) AS units, sum(moved.amount) AS amount,
       sum(moved.platform_fee) AS platform_fee, sum(moved.earned) AS earned,
       sum(moved.refunded) AS refunded, sum(moved.earned) - sum(moved.refunded) AS net
  FROM orchestrators o, LATERAL (
    SELECT c.day, c.currency, 1 AS jobs, c.units, c.amount, c.platform_fee,
           c.orchestrator_payment AS earned, CAST(0 AS numeric(38,18)) AS refunded
      FROM charges c WHERE c.orchestrator_id = o.id
     UNION ALL
    SELECT r.day, e.currency, 0, 0, CAST(0 AS numeric(38,18)), CAST(0 AS numeric(38,18)),
           CAST(0 AS numeric(38,18)), r.orchestrator_payment
      FROM refunds r JOIN entries e ON e.id = r.entry_id WHERE r.orchestrator_id = o.id
  ) AS moved
 GROUP BY moved.day, o.name, moved.currency;

CREATE VIEW billing_model_daily AS
SELECT moved.day, moved.pipeline, moved.model_id, moved.currency, sum(moved.jobs) AS jobs,
       sum(moved.units) AS units, sum(moved.amount) AS amount, sum(moved.refunded) AS refunded,
       sum(moved.amount) - sum(moved.refunded) AS net
  FROM (
    SELECT c.day, c.pipeline, c.model_id, c.currency, 1 AS jobs, c.units, c.amount,
           CAST(0 AS numeric(38,18)) AS refunded
      FROM charges c
     UNION ALL
    SELECT r.day, c.pipeline, c.model_id, c.currency, 0, 0, CAST(0 AS numeric(38,18)), r.amount
      FROM refunds r JOIN charges c ON c.hold_id = r.hold_id
  ) AS moved
 GROUP BY moved.day, moved.pipeline, moved.model_id, moved.currency;

CREATE VIEW billing_invoice_lines AS
SELECT line.month, g.name AS gateway, line.kind, line.pipeline, line.model_id,
       line.price_per_unit, line.pixels_per_unit, line.currency, count(*) AS items,
       sum(line.units) AS units, sum(line.amount) AS amount
  FROM gateways g, LATERAL (
    SELECT c.month, 'charge' AS kind, c.pipeline, c.model_id, c.price_per_unit, c.pixels_per_unit,
           c.currency, c.units, c.amount
      FROM charges c WHERE c.gateway_id = g.id
     UNION ALL
    SELECT r.month, 'refund', c.pipeline, c.model_id, c.price_per_unit, c.pixels_per_unit,
           c.currency, 0, -r.amount
      FROM refunds r JOIN charges c ON c.hold_id = r.hold_id WHERE r.gateway_id = g.id
  ) AS line
 GROUP BY line.month, g.name, line.kind, line.pipeline, line.model_id, line.price_per_unit,
          line.pixels_per_unit, line.currency;
"""

FUNCTIONS = (
    "ledger_refuse",
    "ledger_check_holds",
    "ledger_check_charges",
    "ledger_apply_refund",
    "ledger_check_entries",
    "ledger_check_postings",
    "ledger_move_balances",
)
NEW_VIEWS = (
    "ledger_journal",
    "ledger_open_holds",
    "billing_gateway_daily",
    "billing_orchestrator_daily",
    "billing_model_daily",
    "billing_invoice_lines",
)
OLD_VIEWS = ("ledger_balances", "ledger_trial_balance", "billing_charges")

# To lock a row takes the right to update a column of it. `created_at` is that column in the books,
# where a trigger refuses what would really change it.
GRANTS = """
ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO pixeltoll_app;
GRANT SELECT ON alembic_version TO pixeltoll_app;
GRANT SELECT, INSERT ON accounts, holds, entries, postings, charges, refunds, offers
    TO pixeltoll_app;
GRANT UPDATE (created_at) ON accounts, holds, charges TO pixeltoll_app;
GRANT SELECT, INSERT, UPDATE ON gateways, orchestrators TO pixeltoll_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON price_limits, jobs, outputs, workers, api_keys
    TO pixeltoll_app;
"""

UNDO_GRANTS = """
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM pixeltoll_app, pixeltoll_reports;
ALTER DEFAULT PRIVILEGES IN SCHEMA public
    REVOKE SELECT, INSERT, UPDATE, DELETE ON TABLES FROM pixeltoll_app;
"""

LOCKED = ("accounts", "holds", "charges")


def upgrade() -> None:
    for role in ROLES:
        op.execute(CREATE_ROLE.format(role=role))
    op.execute(COLUMNS)
    op.execute(VIEWS)
    for function in FUNCTIONS:
        # They write what the application may not: balances, states, what is refunded.
        op.execute(f"ALTER FUNCTION {function}() SECURITY DEFINER")
    for table in LOCKED:
        op.execute(
            f"CREATE TRIGGER dated_once BEFORE UPDATE OF created_at ON {table} FOR EACH ROW "
            "EXECUTE FUNCTION ledger_refuse('it is dated by the database')"
        )
    op.execute(GRANTS)
    views = ", ".join((*OLD_VIEWS, *NEW_VIEWS))
    op.execute(f"REVOKE ALL ON {views} FROM pixeltoll_app")
    op.execute(f"GRANT SELECT ON {views} TO pixeltoll_app, pixeltoll_reports")


def downgrade() -> None:
    op.execute(UNDO_GRANTS)
    for table in LOCKED:
        op.execute(f"DROP TRIGGER dated_once ON {table}")
    for function in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function}() SECURITY INVOKER")
    op.execute(f"DROP VIEW {', '.join(NEW_VIEWS)}")
    op.execute(UNDO_COLUMNS)
