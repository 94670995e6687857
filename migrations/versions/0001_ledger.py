"""The books: tables, and the rules that no writer can break.

An entry and everything it says (postings, and the hold, charge or refund it is about) are inserted
by one statement, and checked once at the end of it, however many entries the statement has.
Balances and the states of holds are written by the triggers alone, so they follow the entries.
"""

from alembic import op

revision = "0001_ledger"
down_revision = None
branch_labels = None
depends_on = None

PARTIES = """
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
    orchestrator_id uuid
        CONSTRAINT fk_accounts_orchestrator_id_orchestrators REFERENCES orchestrators,
    currency varchar NOT NULL CONSTRAINT ck_accounts_currency CHECK (currency IN ('USD', 'ETH')),
    balance numeric(38,18) CONSTRAINT ck_accounts_balance_not_negative CHECK (balance >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- One currency for each owner: the one that the installation settles in.
    CONSTRAINT uq_accounts_gateway_id_kind UNIQUE (gateway_id, kind),
    CONSTRAINT uq_accounts_orchestrator_id_kind UNIQUE (orchestrator_id, kind),
    CONSTRAINT ck_accounts_owner CHECK (
        CASE kind
            WHEN 'available' THEN gateway_id IS NOT NULL AND orchestrator_id IS NULL
            WHEN 'held' THEN gateway_id IS NOT NULL AND orchestrator_id IS NULL
            WHEN 'payable' THEN orchestrator_id IS NOT NULL AND gateway_id IS NULL
            WHEN 'revenue' THEN gateway_id IS NULL AND orchestrator_id IS NULL
            WHEN 'funding' THEN gateway_id IS NULL AND orchestrator_id IS NULL
            ELSE false
        END),
    CONSTRAINT ck_accounts_materialised CHECK ((balance IS NOT NULL) = (gateway_id IS NOT NULL))
);
CREATE UNIQUE INDEX uq_accounts_kind_currency ON accounts (kind, currency)
    WHERE gateway_id IS NULL AND orchestrator_id IS NULL;
"""

# NaN is above every number in PostgreSQL, so a price is also compared with it.
PRICES = """
CREATE TABLE offers (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_offers PRIMARY KEY,
    orchestrator_id uuid NOT NULL
        CONSTRAINT fk_offers_orchestrator_id_orchestrators REFERENCES orchestrators,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    price_per_unit numeric(38,18) NOT NULL CONSTRAINT ck_offers_price_above_zero
        CHECK (price_per_unit > 0 AND price_per_unit < 'NaN'),
    pixels_per_unit bigint NOT NULL
        CONSTRAINT ck_offers_pixels_above_zero CHECK (pixels_per_unit > 0),
    currency varchar NOT NULL CONSTRAINT ck_offers_currency CHECK (currency IN ('USD', 'ETH')),
    withdrawn boolean NOT NULL DEFAULT false,
    valid_from timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ix_offers_capability
    ON offers (pipeline, model_id, orchestrator_id, valid_from DESC, id DESC);

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
    CONSTRAINT ck_price_limits_model_needs_pipeline
        CHECK (model_id IS NULL OR pipeline IS NOT NULL),
    CONSTRAINT ck_price_limits_price_whole_or_any CHECK (
        (price_per_unit IS NULL AND pixels_per_unit IS NULL AND currency IS NULL)
        OR (price_per_unit > 0 AND price_per_unit < 'NaN' AND pixels_per_unit > 0
            AND currency IN ('USD', 'ETH')) IS TRUE)
);
"""

BOOKS = """
CREATE TABLE holds (
    id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_holds PRIMARY KEY,
    reference varchar NOT NULL CONSTRAINT uq_holds_reference UNIQUE,
    gateway_id uuid NOT NULL CONSTRAINT fk_holds_gateway_id_gateways REFERENCES gateways,
    orchestrator_id uuid NOT NULL
        CONSTRAINT fk_holds_orchestrator_id_orchestrators REFERENCES orchestrators,
    offer_id bigint NOT NULL CONSTRAINT fk_holds_offer_id_offers REFERENCES offers,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    units bigint NOT NULL CONSTRAINT ck_holds_units CHECK (units > 0),
    price_per_unit numeric(38,18) NOT NULL,
    pixels_per_unit bigint NOT NULL,
    limit_price_per_unit numeric(38,18)
        CONSTRAINT ck_holds_limit_is_a_number CHECK (limit_price_per_unit < 'NaN'),
    limit_pixels_per_unit bigint,
    fee_rate numeric(7,6) NOT NULL CONSTRAINT ck_holds_fee_rate CHECK (fee_rate BETWEEN 0 AND 1),
    currency varchar NOT NULL,
    amount numeric(38,18) NOT NULL,
    state varchar NOT NULL DEFAULT 'open'
        CONSTRAINT ck_holds_state CHECK (state IN ('open', 'captured', 'voided', 'expired')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    CONSTRAINT ck_holds_resolved CHECK ((state = 'open') = (resolved_at IS NULL)),
    -- The amount is units x price, rounded up to 18 decimals: said with products, which numeric
    -- keeps exact.
    CONSTRAINT ck_holds_amount_exact CHECK (
        amount * pixels_per_unit >= units * price_per_unit
        AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit),
    CONSTRAINT ck_holds_limit_whole
        CHECK ((limit_price_per_unit IS NULL) = (limit_pixels_per_unit IS NULL)),
    CONSTRAINT ck_holds_within_limit CHECK (
        price_per_unit * limit_pixels_per_unit <= limit_price_per_unit * pixels_per_unit)
);
CREATE INDEX ix_holds_open ON holds (gateway_id) WHERE state = 'open';
CREATE INDEX ix_holds_open_expiry ON holds (expires_at) WHERE state = 'open';

CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_entries PRIMARY KEY,
    kind varchar NOT NULL CONSTRAINT ck_entries_kind
        CHECK (kind IN ('top_up', 'hold', 'capture', 'void', 'expire', 'refund')),
    reference varchar CONSTRAINT uq_entries_reference UNIQUE,
    currency varchar NOT NULL CONSTRAINT ck_entries_currency CHECK (currency IN ('USD', 'ETH')),
    hold_id uuid CONSTRAINT fk_entries_hold_id_holds REFERENCES holds,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_entries_about_a_hold
        CHECK ((hold_id IS NOT NULL) = (kind IN ('hold', 'capture', 'void', 'expire'))),
    CONSTRAINT ck_entries_named CHECK ((hold_id IS NULL) <> (reference IS NULL))
);
CREATE UNIQUE INDEX uq_entries_hold_resolution ON entries (hold_id)
    WHERE kind IN ('capture', 'void', 'expire');
CREATE UNIQUE INDEX uq_entries_hold_authorization ON entries (hold_id) WHERE kind = 'hold';

-- No foreign keys here: the trigger below checks entry and account for a whole statement at once,
-- and a foreign key would take a row lock on the platform's accounts for every job of every
-- gateway. Neither is ever deleted.
CREATE TABLE postings (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_postings PRIMARY KEY,
    entry_id bigint NOT NULL,
    account_id bigint NOT NULL,
    amount numeric(38,18) NOT NULL CONSTRAINT ck_postings_amount_not_zero CHECK (amount <> 0),
    CONSTRAINT uq_postings_entry_id_account_id UNIQUE (entry_id, account_id)
);
CREATE INDEX ix_postings_account_id_id ON postings (account_id, id);

CREATE TABLE charges (
    hold_id uuid NOT NULL CONSTRAINT pk_charges PRIMARY KEY
        CONSTRAINT fk_charges_hold_id_holds REFERENCES holds,
    entry_id bigint NOT NULL CONSTRAINT uq_charges_entry_id UNIQUE
        CONSTRAINT fk_charges_entry_id_entries REFERENCES entries,
    reference varchar NOT NULL CONSTRAINT uq_charges_reference UNIQUE,
    gateway_id uuid NOT NULL CONSTRAINT fk_charges_gateway_id_gateways REFERENCES gateways,
    orchestrator_id uuid NOT NULL
        CONSTRAINT fk_charges_orchestrator_id_orchestrators REFERENCES orchestrators,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    units bigint NOT NULL CONSTRAINT ck_charges_units CHECK (units > 0),
    price_per_unit numeric(38,18) NOT NULL,
    pixels_per_unit bigint NOT NULL,
    currency varchar NOT NULL,
    amount numeric(38,18) NOT NULL,
    platform_fee numeric(38,18) NOT NULL
        CONSTRAINT ck_charges_platform_fee CHECK (platform_fee >= 0),
    orchestrator_payment numeric(38,18) NOT NULL
        CONSTRAINT ck_charges_orchestrator_payment CHECK (orchestrator_payment >= 0),
    refunded numeric(38,18) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_charges_split CHECK (platform_fee + orchestrator_payment = amount),
    CONSTRAINT ck_charges_refunded CHECK (refunded BETWEEN 0 AND amount),
    CONSTRAINT ck_charges_amount_exact CHECK (
        amount * pixels_per_unit >= units * price_per_unit
        AND (amount - 0.000000000000000001) * pixels_per_unit < units * price_per_unit)
);
CREATE INDEX ix_charges_gateway_id_created_at ON charges (gateway_id, created_at);
CREATE INDEX ix_charges_orchestrator_id_created_at ON charges (orchestrator_id, created_at);

CREATE TABLE refunds (
    entry_id bigint NOT NULL CONSTRAINT pk_refunds PRIMARY KEY
        CONSTRAINT fk_refunds_entry_id_entries REFERENCES entries,
    hold_id uuid NOT NULL CONSTRAINT fk_refunds_hold_id_charges REFERENCES charges,
    amount numeric(38,18) NOT NULL CONSTRAINT ck_refunds_amount CHECK (amount > 0),
    platform_fee numeric(38,18) NOT NULL
        CONSTRAINT ck_refunds_platform_fee CHECK (platform_fee >= 0),
    orchestrator_payment numeric(38,18) NOT NULL
        CONSTRAINT ck_refunds_orchestrator_payment CHECK (orchestrator_payment >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ck_refunds_split CHECK (platform_fee + orchestrator_payment = amount)
);
CREATE INDEX ix_refunds_hold_id ON refunds (hold_id);
"""

REFUSE = """
CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'insufficient_privilege', HINT = 'Correct the books with a new entry.';
END $$;
"""

CHECK_HOLDS = """
CREATE FUNCTION ledger_check_holds() RETURNS trigger LANGUAGE plpgsql AS $$
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
            h.currency, h.currency)
           IS DISTINCT FROM
           (o.orchestrator_id, o.pipeline, o.model_id, o.price_per_unit, o.pixels_per_unit,
            o.currency, a.currency)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % is not what its offer says, or its orchestrator cannot be paid', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_as_offered';
    END IF;
    RETURN NULL;
END $$;
"""

CHECK_CHARGES = """
CREATE FUNCTION ledger_check_charges() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT c.hold_id,
           c.price_per_unit * h.limit_pixels_per_unit > h.limit_price_per_unit * c.pixels_per_unit
               AS above_limit,
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

# The fee that comes back with a refund is the fee on all that is refunded now, less the fee on what
# was refunded before: refunds in any parts give back exactly the fee that was taken.
APPLY_REFUND = """
CREATE FUNCTION ledger_apply_refund() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    c charges%ROWTYPE;
BEGIN
    UPDATE charges SET refunded = refunded + NEW.amount WHERE hold_id = NEW.hold_id
    RETURNING * INTO c;
    IF NEW.platform_fee * 1000000000000000000 IS DISTINCT FROM
       div(c.platform_fee * c.refunded * 1000000000000000000, c.amount)
       - div(c.platform_fee * (c.refunded - NEW.amount) * 1000000000000000000, c.amount) THEN
        RAISE EXCEPTION 'refund % does not split as charge % did', NEW.entry_id, NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'refunds_split_as_charged';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM entries WHERE id = NEW.entry_id AND kind = 'refund') THEN
        RAISE EXCEPTION 'refund % has no refund entry', NEW.entry_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'refunds_entered';
    END IF;
    RETURN NULL;
END $$;
"""

# What an entry says about a hold is what the hold's state follows.
CHECK_ENTRIES = """
CREATE FUNCTION ledger_check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad bigint;
BEGIN
    SELECT e.id INTO bad FROM new_entries e
     WHERE NOT EXISTS (SELECT 1 FROM postings p WHERE p.entry_id = e.id) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry % has no postings: they belong to the same statement', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_posted';
    END IF;
    UPDATE holds
       SET state = CASE e.kind WHEN 'capture' THEN 'captured'
                               WHEN 'void' THEN 'voided' ELSE 'expired' END,
           resolved_at = now()
      FROM new_entries e
     WHERE e.hold_id = holds.id AND e.kind <> 'hold';
    RETURN NULL;
END $$;
"""

# `due` is what an entry has to post to each kind of account, read off the hold, charge or refund
# that it is about. Lines that match it, one for an account, and that add up to zero, leave no room
# for an entry that says less or more.
CHECK_POSTINGS = """
CREATE FUNCTION ledger_check_postings() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    WITH due AS (
        SELECT e.id, e.kind, e.currency,
               e.currency = coalesce(h.currency, rc.currency, e.currency) AS own_currency,
               coalesce(h.gateway_id, rc.gateway_id) AS gateway_id,
               coalesce(h.orchestrator_id, rc.orchestrator_id) AS orchestrator_id,
               CASE e.kind WHEN 'hold' THEN -h.amount WHEN 'capture' THEN h.amount - c.amount
                           WHEN 'refund' THEN r.amount ELSE h.amount END AS available,
               CASE e.kind WHEN 'hold' THEN h.amount ELSE -h.amount END AS held,
               CASE e.kind WHEN 'capture' THEN c.orchestrator_payment
                           WHEN 'refund' THEN -r.orchestrator_payment END AS payable,
               CASE e.kind WHEN 'capture' THEN c.platform_fee
                           WHEN 'refund' THEN -r.platform_fee END AS revenue
          FROM (SELECT DISTINCT entry_id FROM new_postings) AS touched
          JOIN entries e ON e.id = touched.entry_id
          LEFT JOIN holds h ON h.id = e.hold_id
          LEFT JOIN charges c ON c.entry_id = e.id
          LEFT JOIN refunds r ON r.entry_id = e.id
          LEFT JOIN charges rc ON rc.hold_id = r.hold_id
    )
    SELECT p.entry_id,
           count(*) = (SELECT count(*) FROM postings q WHERE q.entry_id = p.entry_id)
               AND count(due.id) > 0 AS at_once,
           bool_and(coalesce(due.own_currency AND a.currency = due.currency, false))
               AS own_currency,
           sum(p.amount) AS total
      INTO bad
      FROM new_postings p
      LEFT JOIN due ON due.id = p.entry_id
      LEFT JOIN accounts a ON a.id = p.account_id
     GROUP BY p.entry_id
    HAVING sum(p.amount) <> 0
        OR count(*) <> (SELECT count(*) FROM postings q WHERE q.entry_id = p.entry_id)
        OR bool_and(coalesce(due.own_currency AND a.currency = due.currency
               AND CASE WHEN due.kind = 'top_up'
                        THEN a.kind = CASE WHEN p.amount > 0 THEN 'available' ELSE 'funding' END
                        ELSE p.amount = CASE a.kind WHEN 'available' THEN due.available
                                                    WHEN 'held' THEN due.held
                                                    WHEN 'payable' THEN due.payable
                                                    WHEN 'revenue' THEN due.revenue END
                             AND coalesce(a.gateway_id = due.gateway_id, true)
                             AND coalesce(a.orchestrator_id = due.orchestrator_id, true)
                   END, false)) = false
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF NOT bad.at_once THEN
        RAISE EXCEPTION 'entry % has its postings already, or is none: one cannot be added later',
            bad.entry_id USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_at_once';
    ELSIF NOT bad.own_currency THEN
        RAISE EXCEPTION 'entry % posts to an account of another currency, or to none', bad.entry_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_own_currency';
    ELSIF bad.total <> 0 THEN
        RAISE EXCEPTION 'entry % does not balance: its postings sum to %', bad.entry_id, bad.total
            USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_balance';
    END IF;
    RAISE EXCEPTION 'entry % does not post what it is about', bad.entry_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_as_due';
END $$;
"""

MOVE_BALANCES = """
CREATE FUNCTION ledger_move_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Locks are taken in id order, so that two entries over the same accounts cannot deadlock.
    PERFORM 1 FROM accounts
      WHERE balance IS NOT NULL AND id IN (SELECT account_id FROM new_postings)
      ORDER BY id FOR NO KEY UPDATE;
    UPDATE accounts SET balance = accounts.balance + change.amount
      FROM (SELECT account_id, sum(amount) AS amount FROM new_postings GROUP BY account_id)
           AS change
     WHERE accounts.id = change.account_id AND accounts.balance IS NOT NULL;
    RETURN NULL;
END $$;
"""

FUNCTIONS = {
    "ledger_refuse": REFUSE,
    "ledger_check_holds": CHECK_HOLDS,
    "ledger_check_charges": CHECK_CHARGES,
    "ledger_apply_refund": APPLY_REFUND,
    "ledger_check_entries": CHECK_ENTRIES,
    "ledger_check_postings": CHECK_POSTINGS,
    "ledger_move_balances": MOVE_BALANCES,
}

# Triggers of one statement fire in the order of their names.
TRIGGERS = """
CREATE TRIGGER check_holds AFTER INSERT ON holds REFERENCING NEW TABLE AS new_holds
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_holds();
CREATE TRIGGER check_charges AFTER INSERT ON charges REFERENCING NEW TABLE AS new_charges
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_charges();
CREATE TRIGGER apply_refund AFTER INSERT ON refunds
    FOR EACH ROW EXECUTE FUNCTION ledger_apply_refund();
CREATE TRIGGER check_entries AFTER INSERT ON entries REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_entries();
CREATE TRIGGER check_postings AFTER INSERT ON postings REFERENCING NEW TABLE AS new_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_postings();
CREATE TRIGGER move_balances AFTER INSERT ON postings REFERENCING NEW TABLE AS new_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_move_balances();

CREATE TRIGGER born_empty BEFORE INSERT ON accounts FOR EACH ROW WHEN (NEW.balance <> 0)
    EXECUTE FUNCTION ledger_refuse('a balance comes from postings');
CREATE TRIGGER born_open BEFORE INSERT ON holds FOR EACH ROW WHEN (NEW.state <> 'open')
    EXECUTE FUNCTION ledger_refuse('a state comes from entries');
CREATE TRIGGER born_whole BEFORE INSERT ON charges FOR EACH ROW WHEN (NEW.refunded <> 0)
    EXECUTE FUNCTION ledger_refuse('what is refunded comes from refunds');

-- Written from inside the triggers above (depth 1 and more), never by a statement of its own.
CREATE TRIGGER follow_postings BEFORE UPDATE ON accounts FOR EACH ROW
    WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION ledger_refuse('a balance follows postings');
CREATE TRIGGER follow_entries BEFORE UPDATE ON holds FOR EACH ROW
    WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION ledger_refuse('a state follows entries');
CREATE TRIGGER follow_refunds BEFORE UPDATE ON charges FOR EACH ROW
    WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION ledger_refuse('it is written once');
"""

WRITTEN_ONCE = ("entries", "postings", "refunds", "offers")
WRITTEN_NOW = ("entries", "charges", "refunds")
NEVER_DELETED = (*WRITTEN_ONCE, "charges", "holds", "accounts", "gateways", "orchestrators")

VIEWS = """
CREATE VIEW ledger_balances AS
SELECT a.id AS account_id, a.kind AS account, coalesce(g.name, o.name, 'platform') AS owner,
       a.currency,
       coalesce(a.balance, (SELECT sum(p.amount) FROM postings p WHERE p.account_id = a.id),
                0.000000000000000000) AS balance
  FROM accounts a
  LEFT JOIN gateways g ON g.id = a.gateway_id
  LEFT JOIN orchestrators o ON o.id = a.orchestrator_id;

CREATE VIEW ledger_trial_balance AS
SELECT a.kind AS account, a.currency,
       coalesce(sum(-p.amount) FILTER (WHERE p.amount < 0), 0.000000000000000000) AS debit,
       coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0.000000000000000000) AS credit,
       coalesce(sum(p.amount), 0.000000000000000000) AS balance
  FROM accounts a LEFT JOIN postings p ON p.account_id = a.id
 GROUP BY a.kind, a.currency;

CREATE VIEW billing_charges AS
SELECT c.created_at AS charged_at, c.reference AS job_id, g.name AS gateway, o.name AS orchestrator,
       c.pipeline, c.model_id, c.units, c.price_per_unit, c.pixels_per_unit, c.currency,
       c.amount, c.platform_fee, c.orchestrator_payment, c.refunded,
       h.limit_price_per_unit, h.limit_pixels_per_unit, c.entry_id, c.hold_id
  FROM charges c
  JOIN holds h ON h.id = c.hold_id
  JOIN gateways g ON g.id = c.gateway_id
  JOIN orchestrators o ON o.id = c.orchestrator_id;
"""


def upgrade() -> None:
    for tables in (PARTIES, PRICES, BOOKS):
        op.execute(tables)
    for name, function in FUNCTIONS.items():
        op.execute(function)
        # Else a temporary table called `entries` would be looked at in place of the real one.
        op.execute(f"ALTER FUNCTION {name}() SET search_path = public, pg_temp")
    op.execute(TRIGGERS)
    for table in WRITTEN_ONCE:
        op.execute(
            f"CREATE TRIGGER written_once BEFORE UPDATE ON {table} FOR EACH ROW "
            "EXECUTE FUNCTION ledger_refuse('it is written once')"
        )
    for table in WRITTEN_NOW:
        op.execute(
            f"CREATE TRIGGER written_now BEFORE INSERT ON {table} FOR EACH ROW "
            "WHEN (NEW.created_at <> now()) "
            "EXECUTE FUNCTION ledger_refuse('it is dated by the database')"
        )
    for table in NEVER_DELETED:
        op.execute(
            f"CREATE TRIGGER never_deleted BEFORE DELETE ON {table} FOR EACH ROW "
            "EXECUTE FUNCTION ledger_refuse('it is kept for good')"
        )
        op.execute(
            f"CREATE TRIGGER never_emptied BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION ledger_refuse('it is kept for good')"
        )
    op.execute(VIEWS)


def downgrade() -> None:
    op.execute("DROP VIEW billing_charges, ledger_trial_balance, ledger_balances")
    op.execute(
        "DROP TABLE refunds, charges, postings, entries, holds, price_limits, offers, accounts, "
        "orchestrators, gateways"
    )
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}()")
