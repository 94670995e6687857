"""The books' rules ask only what a statement has given them reason to ask.

Every capture and every hold goes through all rules, and each question costs about as much to begin
as to answer. So what is new is looked at once: only an entry that resolves a hold changes holds,
only one of a payout looks at payouts, and only a posting to a kept balance moves balances and may
use a budget up.
"""

from alembic import context, op

revision = "0071_fewer_questions"
down_revision = "0070_captures"
branch_labels = None
depends_on = None

CHECK_ENTRIES = """
CREATE OR REPLACE FUNCTION ledger_check_entries() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    new record;
    bad bigint;
BEGIN
    SELECT min(e.id) FILTER (WHERE NOT EXISTS (SELECT 1 FROM postings p WHERE p.entry_id = e.id))
               AS unposted,
           bool_or(e.kind IN ('capture', 'void', 'expire')) AS resolving,
           bool_or(e.payout_id IS NOT NULL) AS paying
      INTO new
      FROM new_entries e;
    IF new.unposted IS NOT NULL THEN
        RAISE EXCEPTION 'entry % has no postings: they belong to the same statement', new.unposted
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_posted';
    END IF;
    IF new.resolving THEN
        UPDATE holds
           SET state = CASE e.kind WHEN 'capture' THEN 'captured'
                                   WHEN 'void' THEN 'voided' ELSE 'expired' END,
               resolved_at = now()
          FROM new_entries e
         WHERE e.hold_id = holds.id AND e.kind <> 'hold';
    END IF;
    IF new.paying IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    -- The row is updated and not only looked at, so that two who decide about it meet here.
    WITH moved AS (
        UPDATE payouts
           SET state = CASE e.kind WHEN 'payout_paid' THEN 'paid' ELSE 'reversed' END,
               paid_at = CASE e.kind WHEN 'payout_paid' THEN now() ELSE payouts.paid_at END,
               reversed_at = CASE e.kind WHEN 'payout_reversed' THEN now() END
          FROM new_entries e
         WHERE e.payout_id = payouts.id
           AND ((e.kind = 'payout_paid' AND payouts.state = 'created')
                OR (e.kind = 'payout_reversed' AND payouts.state <> 'reversed'))
        RETURNING e.id
    )
    SELECT e.id INTO bad FROM new_entries e LEFT JOIN moved ON moved.id = e.id
     WHERE e.kind IN ('payout_paid', 'payout_reversed') AND moved.id IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry % decides about a payout that is decided', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'payouts_in_order';
    END IF;
    RETURN NULL;
END $$;
"""

# What leaves `available` for a hold is used of a budget; what comes back from it is not. The
# accounts are locked before the budgets.
MOVE_BALANCES = """
CREATE OR REPLACE FUNCTION ledger_move_balances() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    over record;
BEGIN
    -- Locks are taken in id order, so that two entries over the same accounts cannot deadlock.
    PERFORM 1 FROM accounts
      WHERE balance IS NOT NULL AND id IN (SELECT account_id FROM new_postings)
      ORDER BY id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE accounts SET balance = accounts.balance + change.amount
      FROM (SELECT account_id, sum(amount) AS amount FROM new_postings GROUP BY account_id)
           AS change
     WHERE accounts.id = change.account_id AND accounts.balance IS NOT NULL;
{budgets}
"""


def upgrade() -> None:
    sixth = context.script.get_revision("0006_budgets").module
    _, budgets = sixth.USE_BUDGETS.split("BEGIN\n", maxsplit=1)
    budgets, _ = budgets.split("CREATE TRIGGER")
    op.execute(CHECK_ENTRIES)
    op.execute(MOVE_BALANCES.format(budgets=budgets))
    op.execute("DROP TRIGGER use_budgets ON postings")
    op.execute("DROP FUNCTION ledger_use_budgets()")


def downgrade() -> None:
    first, sixth, eighth, sure = (
        context.script.get_revision(name).module
        for name in ("0001_ledger", "0006_budgets", "0008_payouts", "0036_sure_plans")
    )
    op.execute(eighth.CHECK_ENTRIES)
    op.execute(first.MOVE_BALANCES.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(sixth.USE_BUDGETS)
    op.execute("REVOKE EXECUTE ON FUNCTION ledger_use_budgets() FROM PUBLIC")
    for name in ("ledger_check_entries", "ledger_move_balances"):
        op.execute(eighth.HARDEN.format(function=name))
    for name in ("ledger_check_entries", "ledger_move_balances", "ledger_use_budgets"):
        for plan in sure.PLANS:
            op.execute(f"ALTER FUNCTION {name}() SET {plan} = off")
