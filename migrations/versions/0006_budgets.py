"""Spending budgets: what a gateway, or one of its API keys, may spend in a day and in a month.

What is used of a budget follows the postings, as balances do, and under the same lock: the
gateway's accounts. A job counts in the period in which its funds were held.
"""

from alembic import op

revision = "0006_budgets"
down_revision = "0005_currencies"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE budgets (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_budgets PRIMARY KEY,
    gateway_id uuid NOT NULL CONSTRAINT fk_budgets_gateway_id_gateways REFERENCES gateways,
    api_key_id varchar,
    period varchar NOT NULL CONSTRAINT ck_budgets_period CHECK (period IN ('day', 'month')),
    amount numeric(38,18) NOT NULL
        CONSTRAINT ck_budgets_amount CHECK (amount >= 0 AND amount < 'NaN'),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_budgets_gateway_id_api_key_id_period
        UNIQUE NULLS NOT DISTINCT (gateway_id, api_key_id, period)
);

CREATE TABLE budget_usage (
    budget_id bigint NOT NULL CONSTRAINT fk_budget_usage_budget_id_budgets
        REFERENCES budgets ON DELETE CASCADE,
    starts timestamptz NOT NULL,
    used numeric(38,18) NOT NULL CONSTRAINT ck_budget_usage_used CHECK (used >= 0),
    CONSTRAINT pk_budget_usage PRIMARY KEY (budget_id, starts)
);

ALTER TABLE holds ADD COLUMN api_key_id varchar;
"""

# A new budget counts what its period has seen so far. The lock keeps holds from slipping by.
OPEN_BUDGET = """
CREATE FUNCTION ledger_open_budget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    since timestamptz := date_trunc(NEW.period, now(), 'UTC');
BEGIN
    PERFORM 1 FROM accounts WHERE gateway_id = NEW.gateway_id AND kind = 'available'
        FOR NO KEY UPDATE;
    INSERT INTO budget_usage (budget_id, starts, used)
    SELECT NEW.id, date_trunc(NEW.period, spent.created_at, 'UTC'), sum(spent.amount)
      FROM (
        SELECT h.created_at, h.api_key_id, h.amount FROM holds h
         WHERE h.gateway_id = NEW.gateway_id AND h.state = 'open' AND h.created_at >= since
         UNION ALL
        SELECT h.created_at, h.api_key_id, c.amount
          FROM charges c JOIN holds h ON h.id = c.hold_id
         WHERE c.gateway_id = NEW.gateway_id AND c.day >= (since AT TIME ZONE 'UTC')::date
           AND h.created_at >= since
      ) AS spent
     WHERE NEW.api_key_id IS NULL OR NEW.api_key_id = spent.api_key_id
     GROUP BY 2;
    RETURN NULL;
END $$;
CREATE TRIGGER open_budget AFTER INSERT ON budgets
    FOR EACH ROW EXECUTE FUNCTION ledger_open_budget();
CREATE TRIGGER same_budget BEFORE UPDATE ON budgets FOR EACH ROW
    WHEN ((OLD.id, OLD.gateway_id, OLD.period) IS DISTINCT FROM
          (NEW.id, NEW.gateway_id, NEW.period) OR OLD.api_key_id IS DISTINCT FROM NEW.api_key_id)
    EXECUTE FUNCTION ledger_refuse('another budget is another row');
"""

# What leaves `available` for a hold is used; what comes back from it (a void, an expiry, the rest
# of a capture) is not. By its name, the trigger fires after the one that locks the accounts.
USE_BUDGETS = """
CREATE FUNCTION ledger_use_budgets() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    over record;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM budgets) THEN
        RETURN NULL;
    END IF;
    WITH spent AS (
        SELECT b.id, date_trunc(b.period, h.created_at, 'UTC') AS starts, -sum(p.amount) AS amount
          FROM new_postings p
          JOIN accounts a ON a.id = p.account_id AND a.kind = 'available'
          JOIN entries e ON e.id = p.entry_id
          JOIN holds h ON h.id = e.hold_id
          JOIN budgets b ON b.gateway_id = h.gateway_id
                        AND (b.api_key_id IS NULL OR b.api_key_id = h.api_key_id)
         GROUP BY b.id, 2
    ), used AS (
        INSERT INTO budget_usage AS u (budget_id, starts, used)
        SELECT id, starts, amount FROM spent WHERE amount > 0 ORDER BY id, starts
        ON CONFLICT (budget_id, starts) DO UPDATE SET used = u.used + excluded.used
        RETURNING budget_id, starts, used
    ), given_back AS (
        UPDATE budget_usage u SET used = u.used + spent.amount
          FROM spent WHERE u.budget_id = spent.id AND u.starts = spent.starts AND spent.amount < 0
    )
    SELECT b.period, b.api_key_id, b.amount, used.used - spent.amount AS before,
           spent.amount AS needed
      INTO over
      FROM used
      JOIN spent ON spent.id = used.budget_id AND spent.starts = used.starts
      JOIN budgets b ON b.id = used.budget_id
     WHERE used.used > b.amount
     ORDER BY b.id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the budget for the % is % and % of it is used; % more is too much',
            over.period, over.amount, over.before, over.needed
            USING ERRCODE = 'check_violation', CONSTRAINT = 'budgets_kept',
                  DETAIL = json_build_object(
                      'period', over.period, 'api_key_id', over.api_key_id,
                      'budget', over.amount::text, 'used', over.before::text,
                      'needed', over.needed::text)::text;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER use_budgets AFTER INSERT ON postings REFERENCING NEW TABLE AS new_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_use_budgets();
"""

VIEWS = """
CREATE VIEW billing_budgets AS
SELECT g.name AS gateway, b.api_key_id, b.period, a.currency, b.amount,
       coalesce(u.used, 0.000000000000000000) AS used,
       greatest(b.amount - coalesce(u.used, 0), 0.000000000000000000) AS remaining,
       date_trunc(b.period, now(), 'UTC') AS starts
  FROM budgets b
  JOIN gateways g ON g.id = b.gateway_id
  JOIN accounts a ON a.gateway_id = b.gateway_id AND a.kind = 'available'
  LEFT JOIN budget_usage u
         ON u.budget_id = b.id AND u.starts = date_trunc(b.period, now(), 'UTC');
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(OPEN_BUDGET)
    op.execute(USE_BUDGETS)
    op.execute(VIEWS)
    op.execute("REVOKE INSERT, UPDATE, DELETE ON budget_usage FROM pixeltoll_app")
    op.execute("REVOKE ALL ON billing_budgets FROM pixeltoll_app")
    op.execute("GRANT SELECT ON billing_budgets TO pixeltoll_app, pixeltoll_reports")


def downgrade() -> None:
    op.execute("DROP VIEW billing_budgets")
    op.execute("DROP TRIGGER use_budgets ON postings")
    op.execute("DROP TABLE budget_usage, budgets")
    op.execute("DROP FUNCTION ledger_use_budgets()")
    op.execute("DROP FUNCTION ledger_open_budget()")
    op.execute("ALTER TABLE holds DROP COLUMN api_key_id")
