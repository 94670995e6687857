"""What a statement moves is looked up by key, whatever the statistics say: accounts, and budgets.

Both unique indexes of accounts end in the kind, and one of them says nothing about the owner that
is asked for. On books that were analyzed while they had a few accounts, a capture read that index,
and with it the accounts of all gateways; and the rule that moves balances went through all accounts
to find those of its postings. As each index holds the rows that have such an owner, and no others,
neither can be read for the other's sake; and the rule asks for one account, and for one budget's
period, after the other.
"""

from alembic import context, op

revision = "0102_own_accounts"
down_revision = "0101_sure_lookups"
branch_labels = None
depends_on = None

OWNERS = ("gateway_id", "orchestrator_id")

# What leaves `available` for a hold is used of a budget; what comes back from it is not. The
# accounts are locked before the budgets, and in id order, so that two entries over the same
# accounts cannot deadlock.
MOVE_BALANCES = """
DECLARE
    moved record;
    spent record;
    total numeric;
BEGIN
    SELECT array_agg(own.id) AS ids, array_agg(change.amount) AS amounts
      INTO moved
      FROM (SELECT account_id, sum(amount) AS amount
              FROM new_postings GROUP BY account_id ORDER BY account_id) AS change,
           LATERAL (SELECT id FROM accounts
                     WHERE id = change.account_id AND balance IS NOT NULL
                    OFFSET 0 FOR NO KEY UPDATE) AS own;
    IF moved.ids IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE accounts SET balance = balance + moved.amounts[array_position(moved.ids, id)]
     WHERE id = ANY (moved.ids);
    IF NOT EXISTS (SELECT 1 FROM budgets) THEN
        RETURN NULL;
    END IF;
    FOR spent IN
        SELECT b.id, b.period, b.api_key_id, b.amount AS budget,
               date_trunc(b.period, h.created_at, 'UTC') AS starts, -sum(p.amount) AS amount
          FROM new_postings p,
               LATERAL (SELECT hold_id FROM entries WHERE id = p.entry_id OFFSET 0) AS e,
               LATERAL (SELECT gateway_id, api_key_id, created_at
                          FROM holds WHERE id = e.hold_id OFFSET 0) AS h,
               LATERAL (SELECT * FROM budgets
                         WHERE gateway_id = h.gateway_id
                           AND (api_key_id IS NULL OR api_key_id = h.api_key_id) OFFSET 0) AS b
         WHERE p.account_id = ANY (moved.ids)
         GROUP BY 1, 2, 3, 4, 5 HAVING sum(p.amount) <> 0 ORDER BY b.id, starts
    LOOP
        IF spent.amount < 0 THEN
            UPDATE budget_usage SET used = used + spent.amount
             WHERE budget_id = spent.id AND starts = spent.starts;
            CONTINUE;
        END IF;
        INSERT INTO budget_usage AS u (budget_id, starts, used)
        VALUES (spent.id, spent.starts, spent.amount)
        ON CONFLICT (budget_id, starts) DO UPDATE SET used = u.used + excluded.used
        RETURNING used INTO total;
        IF total > spent.budget THEN
            RAISE EXCEPTION 'the budget for the % is % and % of it is used; % more is too much',
                spent.period, spent.budget, total - spent.amount, spent.amount
                USING ERRCODE = 'check_violation', CONSTRAINT = 'budgets_kept',
                      DETAIL = json_build_object(
                          'period', spent.period, 'api_key_id', spent.api_key_id,
                          'budget', spent.budget::text, 'used', (total - spent.amount)::text,
                          'needed', spent.amount::text)::text;
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
"""


def upgrade() -> None:
    """Let each index hold the accounts of its own owners, and replace the rule."""
    for owner in OWNERS:
        name = f"uq_accounts_{owner}_kind"
        op.execute(f"ALTER TABLE accounts DROP CONSTRAINT {name}")
        op.execute(
            f"CREATE UNIQUE INDEX {name} ON accounts ({owner}, kind) WHERE {owner} IS NOT NULL"
        )
    head = context.script.get_revision("0101_sure_lookups").module.HEAD
    op.execute(head.format(function="ledger_move_balances") + MOVE_BALANCES)


def downgrade() -> None:
    """Bring the rule back as it was, and let both indexes hold all accounts again."""
    sixth, fewer, sure = (
        context.script.get_revision(name).module
        for name in ("0006_budgets", "0071_fewer_questions", "0101_sure_lookups")
    )
    _, budgets = sixth.USE_BUDGETS.split("BEGIN\n", maxsplit=1)
    budgets, _ = budgets.split("CREATE TRIGGER")
    op.execute(fewer.MOVE_BALANCES.format(budgets=budgets))
    for name, value in sure.MOVE_BALANCES.items():
        op.execute(f"ALTER FUNCTION ledger_move_balances() SET {name} = {value}")
    for owner in OWNERS:
        name = f"uq_accounts_{owner}_kind"
        op.execute(f"DROP INDEX {name}")
        op.execute(f"ALTER TABLE accounts ADD CONSTRAINT {name} UNIQUE ({owner}, kind)")
