"""The books: tables, and the rules that no writer can break.

Balances and the states of holds are written by triggers from the entries alone, so they cannot drift from them.
The postings of an entry are inserted by one statement, which must balance: the check runs once for a whole batch.
"""

from alembic import op

revision = "0001_ledger"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE gateways (
    id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_gateways PRIMARY KEY,
    name varchar NOT NULL CONSTRAINT uq_gateways_name UNIQUE
        CONSTRAINT ck_gateways_name CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE orchestrators (
    id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_orchestrators PRIMARY KEY,
    name varchar NOT NULL CONSTRAINT uq_orchestrators_name UNIQUE
        CONSTRAINT ck_orchestrators_name CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    fee_rate numeric(7,6) NOT NULL DEFAULT 0
        CONSTRAINT ck_orchestrators_fee_rate CHECK (fee_rate BETWEEN 0 AND 1),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE accounts (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_accounts PRIMARY KEY,
    kind varchar NOT NULL,
    gateway_id uuid CONSTRAINT fk_accounts_gateway_id_gateways REFERENCES gateways,
    orchestrator_id uuid CONSTRAINT fk_accounts_orchestrator_id_orchestrators REFERENCES orchestrators,
    currency varchar NOT NULL CONSTRAINT ck_accounts_currency CHECK (currency IN ('USD', 'ETH')),
    balance numeric(38,18) CONSTRAINT ck_accounts_balance_not_negative CHECK (balance >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_accounts_kind_gateway_id_orchestrator_id_currency
        UNIQUE NULLS NOT DISTINCT (kind, gateway_id, orchestrator_id, currency),
    CONSTRAINT ck_accounts_owner CHECK (
        CASE kind
            WHEN 'available' THEN gateway_id IS NOT NULL AND orchestrator_id IS NULL
            WHEN 'held' THEN gateway_id IS NOT NULL AND orchestrator_id IS NULL
            WHEN 'payable' THEN orchestrator_id IS NOT NULL AND gateway_id IS NULL
            WHEN 'revenue' THEN gateway_id IS NULL AND orchestrator_id IS NULL
            WHEN 'funding' THEN gateway_id IS NULL AND orchestrator_id IS NULL
            WHEN 'payouts' THEN gateway_id IS NULL AND orchestrator_id IS NULL
            ELSE false
        END),
    CONSTRAINT ck_accounts_materialised CHECK ((balance IS NOT NULL) = (gateway_id IS NOT NULL))
);

CREATE TABLE offers (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_offers PRIMARY KEY,
    orchestrator_id uuid NOT NULL CONSTRAINT fk_offers_orchestrator_id_orchestrators REFERENCES orchestrators,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    price_per_unit numeric(38,18) NOT NULL CONSTRAINT ck_offers_price_above_zero CHECK (price_per_unit > 0),
    pixels_per_unit bigint NOT NULL CONSTRAINT ck_offers_pixels_above_zero CHECK (pixels_per_unit > 0),
    currency varchar NOT NULL CONSTRAINT ck_offers_currency CHECK (currency IN ('USD', 'ETH')),
    withdrawn boolean NOT NULL DEFAULT false,
    valid_from timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_offers_capability ON offers (pipeline, model_id, orchestrator_id, valid_from DESC, id DESC);

CREATE TABLE price_limits (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_price_limits PRIMARY KEY,
    gateway_id uuid NOT NULL CONSTRAINT fk_price_limits_gateway_id_gateways REFERENCES gateways,
    pipeline varchar,
    model_id varchar,
    price_per_unit numeric(38,18),
    pixels_per_unit bigint,
    currency varchar,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_price_limits_gateway_id_pipeline_model_id
        UNIQUE NULLS NOT DISTINCT (gateway_id, pipeline, model_id),
    CONSTRAINT ck_price_limits_model_needs_pipeline CHECK (model_id IS NULL OR pipeline IS NOT NULL),
    CONSTRAINT ck_price_limits_price_whole_or_any CHECK (
        (price_per_unit IS NULL AND pixels_per_unit IS NULL AND currency IS NULL)
        OR (price_per_unit > 0 AND pixels_per_unit > 0 AND currency IN ('USD', 'ETH')) IS TRUE)
);

CREATE TABLE holds (
    id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_holds PRIMARY KEY,
    reference varchar NOT NULL CONSTRAINT uq_holds_reference UNIQUE,
    gateway_id uuid NOT NULL CONSTRAINT fk_holds_gateway_id_gateways REFERENCES gateways,
    orchestrator_id uuid NOT NULL CONSTRAINT fk_holds_orchestrator_id_orchestrators REFERENCES orchestrators,
    offer_id bigint NOT NULL CONSTRAINT fk_holds_offer_id_offers REFERENCES offers,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    units bigint NOT NULL CONSTRAINT ck_holds_units CHECK (units > 0),
    price_per_unit numeric(38,18) NOT NULL CONSTRAINT ck_holds_price_above_zero CHECK (price_per_unit > 0),
    pixels_per_unit bigint NOT NULL CONSTRAINT ck_holds_pixels_above_zero CHECK (pixels_per_unit > 0),
    limit_price_per_unit numeric(38,18),
    limit_pixels_per_unit bigint,
    currency varchar NOT NULL CONSTRAINT ck_holds_currency CHECK (currency IN ('USD', 'ETH')),
    amount numeric(38,18) NOT NULL,
    state varchar NOT NULL DEFAULT 'open'
        CONSTRAINT ck_holds_state CHECK (state IN ('open', 'captured', 'voided', 'expired')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    CONSTRAINT ck_holds_resolved CHECK ((state = 'open') = (resolved_at IS NULL)),
    -- The amount is units x price, rounded up to 18 decimals: said with products, which numeric keeps exact.
    CONSTRAINT ck_holds_amount_exact CHECK (
        amount * pixels_per_unit >= units * price_per_unit
        AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit),
    CONSTRAINT ck_holds_limit_whole CHECK ((limit_price_per_unit IS NULL) = (limit_pixels_per_unit IS NULL)),
    CONSTRAINT ck_holds_within_limit CHECK (
        price_per_unit * limit_pixels_per_unit <= limit_price_per_unit * pixels_per_unit)
);
CREATE INDEX ix_holds_open ON holds (gateway_id) WHERE state = 'open';
CREATE INDEX ix_holds_open_expiry ON holds (expires_at) WHERE state = 'open';

CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_entries PRIMARY KEY,
    kind varchar NOT NULL CONSTRAINT ck_entries_kind
        CHECK (kind IN ('top_up', 'hold', 'capture', 'void', 'expire', 'refund', 'payout')),
    reference varchar CONSTRAINT uq_entries_reference UNIQUE,
    currency varchar NOT NULL CONSTRAINT ck_entries_currency CHECK (currency IN ('USD', 'ETH')),
    hold_id uuid CONSTRAINT fk_entries_hold_id_holds REFERENCES holds,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_xact bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    CONSTRAINT ck_entries_named CHECK ((hold_id IS NULL) <> (reference IS NULL))
);
CREATE UNIQUE INDEX uq_entries_hold_resolution ON entries (hold_id) WHERE kind IN ('capture', 'void', 'expire');
CREATE UNIQUE INDEX uq_entries_hold_authorization ON entries (hold_id) WHERE kind = 'hold';

-- No foreign keys here: the trigger below checks entry and account for a whole statement at once, and a foreign key
-- would take a row lock on the platform's accounts for every job of every gateway. Neither is ever deleted.
CREATE TABLE postings (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_postings PRIMARY KEY,
    entry_id bigint NOT NULL,
    account_id bigint NOT NULL,
    amount numeric(38,18) NOT NULL CONSTRAINT ck_postings_amount_not_zero CHECK (amount <> 0)
);
CREATE INDEX ix_postings_entry_id ON postings (entry_id);
CREATE INDEX ix_postings_account_id_id ON postings (account_id, id);

CREATE TABLE charges (
    hold_id uuid NOT NULL CONSTRAINT pk_charges PRIMARY KEY CONSTRAINT fk_charges_hold_id_holds REFERENCES holds,
    entry_id bigint NOT NULL CONSTRAINT uq_charges_entry_id UNIQUE
        CONSTRAINT fk_charges_entry_id_entries REFERENCES entries,
    reference varchar NOT NULL CONSTRAINT uq_charges_reference UNIQUE,
    gateway_id uuid NOT NULL CONSTRAINT fk_charges_gateway_id_gateways REFERENCES gateways,
    orchestrator_id uuid NOT NULL CONSTRAINT fk_charges_orchestrator_id_orchestrators REFERENCES orchestrators,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    units bigint NOT NULL CONSTRAINT ck_charges_units CHECK (units > 0),
    price_per_unit numeric(38,18) NOT NULL,
    pixels_per_unit bigint NOT NULL,
    currency varchar NOT NULL,
    amount numeric(38,18) NOT NULL,
    platform_fee numeric(38,18) NOT NULL CONSTRAINT ck_charges_platform_fee CHECK (platform_fee >= 0),
    orchestrator_payment numeric(38,18) NOT NULL
        CONSTRAINT ck_charges_orchestrator_payment CHECK (orchestrator_payment >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_charges_split CHECK (platform_fee + orchestrator_payment = amount),
    CONSTRAINT ck_charges_amount_exact CHECK (
        amount * pixels_per_unit >= units * price_per_unit
        AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit)
);
CREATE INDEX ix_charges_gateway_id_created_at ON charges (gateway_id, created_at);
CREATE INDEX ix_charges_orchestrator_id_created_at ON charges (orchestrator_id, created_at);
"""

RULES = """
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is written once: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege', HINT = 'Correct the books with a new entry.';
END $$;

CREATE FUNCTION ledger_stamp_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_xact := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$;

-- What an entry says about a hold is what the hold's state follows.
CREATE FUNCTION ledger_resolve_holds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE holds SET
        state = CASE e.kind WHEN 'capture' THEN 'captured' WHEN 'void' THEN 'voided' ELSE 'expired' END,
        resolved_at = now()
    FROM new_entries e
    WHERE e.hold_id = holds.id AND e.kind IN ('capture', 'void', 'expire');
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_apply_postings() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT p.entry_id,
           bool_and(e.id IS NOT NULL AND e.created_xact = pg_current_xact_id()::text::bigint) AS own_entry,
           bool_and(a.id IS NOT NULL AND a.currency = e.currency) AS own_currency,
           sum(p.amount) AS total
      INTO bad
      FROM new_postings p
      LEFT JOIN entries e ON e.id = p.entry_id
      LEFT JOIN accounts a ON a.id = p.account_id
     GROUP BY p.entry_id
    HAVING sum(p.amount) <> 0
        OR NOT bool_and(e.id IS NOT NULL AND e.created_xact = pg_current_xact_id()::text::bigint)
        OR NOT bool_and(a.id IS NOT NULL AND a.currency = e.currency)
     LIMIT 1;
    IF FOUND THEN
        IF NOT bad.own_entry THEN
            RAISE EXCEPTION 'entry % is not of this transaction: a posting cannot be added later', bad.entry_id
                USING ERRCODE = 'check_violation';
        ELSIF NOT bad.own_currency THEN
            RAISE EXCEPTION 'entry % posts to an account of another currency, or to none', bad.entry_id
                USING ERRCODE = 'check_violation';
        END IF;
        RAISE EXCEPTION 'entry % does not balance: its postings sum to %', bad.entry_id, bad.total
            USING ERRCODE = 'check_violation';
    END IF;

    -- Locks are taken in id order, so that two entries over the same accounts cannot deadlock.
    PERFORM 1 FROM accounts
      WHERE balance IS NOT NULL AND id IN (SELECT account_id FROM new_postings)
      ORDER BY id FOR NO KEY UPDATE;
    UPDATE accounts SET balance = accounts.balance + change.amount
      FROM (SELECT account_id, sum(amount) AS amount FROM new_postings GROUP BY account_id) AS change
     WHERE accounts.id = change.account_id AND accounts.balance IS NOT NULL;
    RETURN NULL;
END $$;

-- An entry without postings never meets the check above.
CREATE FUNCTION ledger_require_postings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM postings WHERE entry_id = NEW.id) THEN
        RAISE EXCEPTION 'entry % has no postings', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_check_charge() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hold holds%ROWTYPE;
BEGIN
    SELECT * INTO hold FROM holds WHERE id = NEW.hold_id;
    IF NEW.price_per_unit * hold.limit_pixels_per_unit > hold.limit_price_per_unit * NEW.pixels_per_unit THEN
        RAISE EXCEPTION 'the price of charge % is above the limit of its hold', NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'charges_within_limit';
    END IF;
    IF (NEW.gateway_id, NEW.orchestrator_id, NEW.reference, NEW.pipeline, NEW.model_id, NEW.currency,
        NEW.price_per_unit, NEW.pixels_per_unit)
       IS DISTINCT FROM
       (hold.gateway_id, hold.orchestrator_id, hold.reference, hold.pipeline, hold.model_id, hold.currency,
        hold.price_per_unit, hold.pixels_per_unit)
       OR NEW.units > hold.units OR NEW.amount > hold.amount THEN
        RAISE EXCEPTION 'charge % is not what its hold reserved', NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'charges_as_held';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM entries
                    WHERE id = NEW.entry_id AND hold_id = NEW.hold_id AND kind = 'capture') THEN
        RAISE EXCEPTION 'charge % has no capture entry', NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'charges_captured';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER stamp BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION ledger_stamp_entry();
CREATE TRIGGER resolve_holds AFTER INSERT ON entries REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_resolve_holds();
CREATE CONSTRAINT TRIGGER require_postings AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ledger_require_postings();
CREATE TRIGGER apply_postings AFTER INSERT ON postings REFERENCING NEW TABLE AS new_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_apply_postings();
CREATE TRIGGER check_charge BEFORE INSERT ON charges FOR EACH ROW EXECUTE FUNCTION ledger_check_charge();

-- Balances and hold states are written from inside the triggers above (depth 1), never by a statement of its own.
CREATE TRIGGER follow_postings BEFORE UPDATE ON accounts FOR EACH ROW WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER follow_entries BEFORE UPDATE ON holds FOR EACH ROW WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger_refuse_change();
"""

WRITTEN_ONCE = ("entries", "postings", "charges", "offers")
NEVER_DELETED = (*WRITTEN_ONCE, "accounts", "holds", "gateways", "orchestrators")

VIEWS = """
CREATE VIEW ledger_balances AS
SELECT a.id AS account_id, a.kind AS account, coalesce(g.name, o.name, 'platform') AS owner, a.currency,
       CASE WHEN a.balance IS NOT NULL THEN a.balance
            ELSE coalesce((SELECT sum(p.amount) FROM postings p WHERE p.account_id = a.id), 0)::numeric(38,18)
       END AS balance
  FROM accounts a
  LEFT JOIN gateways g ON g.id = a.gateway_id
  LEFT JOIN orchestrators o ON o.id = a.orchestrator_id;

CREATE VIEW ledger_trial_balance AS
SELECT a.kind AS account, a.currency,
       coalesce(sum(-p.amount) FILTER (WHERE p.amount < 0), 0)::numeric(38,18) AS debit,
       coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0)::numeric(38,18) AS credit,
       coalesce(sum(p.amount), 0)::numeric(38,18) AS balance
  FROM accounts a LEFT JOIN postings p ON p.account_id = a.id
 GROUP BY a.kind, a.currency;

CREATE VIEW billing_charges AS
SELECT c.created_at AS charged_at, c.reference AS job_id, g.name AS gateway, o.name AS orchestrator,
       c.pipeline, c.model_id, c.units, c.price_per_unit, c.pixels_per_unit, c.currency,
       c.amount, c.platform_fee, c.orchestrator_payment,
       h.limit_price_per_unit, h.limit_pixels_per_unit, c.entry_id, c.hold_id
  FROM charges c
  JOIN holds h ON h.id = c.hold_id
  JOIN gateways g ON g.id = c.gateway_id
  JOIN orchestrators o ON o.id = c.orchestrator_id;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(RULES)
    for table in WRITTEN_ONCE:
        op.execute(
            f"CREATE TRIGGER written_once BEFORE UPDATE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change()"
        )
    for table in NEVER_DELETED:
        op.execute(
            f"CREATE TRIGGER never_deleted BEFORE DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER never_emptied BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
        )
    op.execute(VIEWS)


def downgrade() -> None:
    op.execute("DROP VIEW billing_charges, ledger_trial_balance, ledger_balances")
    op.execute(
        "DROP TABLE charges, postings, entries, holds, price_limits, offers, accounts, orchestrators, gateways"
    )
    for function in (
        "refuse_change",
        "stamp_entry",
        "resolve_holds",
        "apply_postings",
        "require_postings",
        "check_charge",
    ):
        op.execute(f"DROP FUNCTION ledger_{function}()")
