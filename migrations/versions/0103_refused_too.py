"""The database refuses what only the programs refused, and at every isolation level.

A price of more than 18 decimals was rounded by its column's type before any rule saw it, and a
limit could thereby rise. A day that never comes, or always was, cannot be read by the programs. A
batch of no payouts pays nobody under a reference that is used up.

A transaction that sees an older state fails where a row that it locks was changed since, but not
where it was only locked. So the rules of payouts and of new budgets change the account's row.
"""

from alembic import context, op

revision = "0103_refused_too"
down_revision = "0102_own_accounts"
branch_labels = None
depends_on = None

PRICED = ("offers", "price_limits")

PRICES = """
ALTER TABLE {table}
    ALTER COLUMN price_per_unit TYPE numeric,
    ADD CONSTRAINT ck_{table}_price_exact CHECK (
        price_per_unit = round(price_per_unit, 18) AND price_per_unit < 100000000000000000000)
"""

TIMES = """
ALTER TABLE offers ADD CONSTRAINT ck_offers_valid_from CHECK (isfinite(valid_from));
ALTER TABLE exchange_rates
    ADD CONSTRAINT ck_exchange_rates_observed_at CHECK (isfinite(observed_at))
"""

BATCHES = """
ALTER TABLE payout_batches ADD CONSTRAINT ck_payout_batches_reference_prints
    CHECK (reference !~ '[[:cntrl:]]');
CREATE FUNCTION ledger_check_payout_batches() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    SELECT reference INTO bad FROM new_batches b
     WHERE NOT EXISTS (SELECT 1 FROM payouts y WHERE y.batch_id = b.id) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'batch % pays nobody: its payouts belong to the same statement',
            bad.reference USING ERRCODE = 'check_violation', CONSTRAINT = 'payout_batches_pay';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_payout_batches AFTER INSERT ON payout_batches
    REFERENCING NEW TABLE AS new_batches
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_payout_batches();
REVOKE EXECUTE ON FUNCTION ledger_check_payout_batches() FROM PUBLIC
"""

LOCKS = {
    "ledger_check_payouts": (
        """      WHERE a.kind = 'payable' ORDER BY a.id FOR NO KEY UPDATE OF a;
""",
        """    UPDATE accounts SET kind = kind
     WHERE kind = 'payable' AND orchestrator_id IN (SELECT orchestrator_id FROM new_payouts);
""",
    ),
    "ledger_open_budget": (
        """        FOR NO KEY UPDATE;
""",
        """    UPDATE accounts SET kind = kind
     WHERE gateway_id = NEW.gateway_id AND kind = 'available';
""",
    ),
}


def upgrade() -> None:
    """Refuse, and change the rows that are locked."""
    for table in PRICED:
        op.execute(PRICES.format(table=table))
    op.execute(TIMES)
    op.execute(BATCHES)
    for function, (lock, change) in LOCKS.items():
        op.execute(_as_made(function).replace(lock, f"{lock}{change}"))


def downgrade() -> None:
    """Refuse less."""
    for function in LOCKS:
        op.execute(_as_made(function))
    op.execute("DROP TRIGGER check_payout_batches ON payout_batches")
    op.execute("DROP FUNCTION ledger_check_payout_batches()")
    op.execute("ALTER TABLE payout_batches DROP CONSTRAINT ck_payout_batches_reference_prints")
    op.execute("ALTER TABLE exchange_rates DROP CONSTRAINT ck_exchange_rates_observed_at")
    op.execute("ALTER TABLE offers DROP CONSTRAINT ck_offers_valid_from")
    for table in PRICED:
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_price_exact,"
            " ALTER COLUMN price_per_unit TYPE numeric(38,18)"
        )


def _as_made(function: str) -> str:
    """Return the statement that makes a function as it was until now."""
    sixth, eighth = (
        context.script.get_revision(name).module for name in ("0006_budgets", "0008_payouts")
    )
    made = {
        "ledger_check_payouts": eighth.CHECK_PAYOUTS,
        "ledger_open_budget": sixth.OPEN_BUDGET,
    }[function]
    function_only, _ = made.split("$$;", maxsplit=1)
    return f"{function_only}$$;".replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
