"""Balances of busy accounts as a snapshot and the postings after it.

A posting carries the id of the transaction that wrote it. A snapshot sums up what transactions
below its horizon wrote, and the horizon is the oldest transaction that was still running: nothing
below it can be added any more, in whatever order transactions commit.
"""

from alembic import context, op

revision = "0007_snapshots"
down_revision = "0006_budgets"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE postings
    ADD COLUMN xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint);
CREATE INDEX ix_postings_account_id_xid_id ON postings (account_id, xid, id);
DROP INDEX ix_postings_account_id_id;
CREATE TRIGGER written_now BEFORE INSERT ON postings FOR EACH ROW
    WHEN (NEW.xid <> pg_current_xact_id()::text::bigint)
    EXECUTE FUNCTION ledger_refuse('it names the transaction that writes it');

CREATE TABLE balance_snapshots (
    account_id bigint NOT NULL CONSTRAINT pk_balance_snapshots PRIMARY KEY
        CONSTRAINT fk_balance_snapshots_account_id_accounts REFERENCES accounts,
    horizon bigint NOT NULL,
    debit numeric NOT NULL,
    credit numeric NOT NULL,
    postings bigint NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);
"""

# Books that were restored from a dump may carry ids that this server has not reached yet: such
# snapshots say nothing here. Readers pass over them, too.
TAKE = """
CREATE FUNCTION ledger_take_snapshots(min_tail bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    taken bigint;
BEGIN
    DELETE FROM balance_snapshots
     WHERE horizon > pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    INSERT INTO balance_snapshots AS s (account_id, horizon, debit, credit, postings, taken_at)
    SELECT a.id, now_at.horizon, coalesce(b.debit, 0) + tail.debit,
           coalesce(b.credit, 0) + tail.credit, coalesce(b.postings, 0) + tail.postings, now()
      FROM accounts a
      CROSS JOIN (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon) AS now_at
      LEFT JOIN balance_snapshots b ON b.account_id = a.id
      CROSS JOIN LATERAL (
        SELECT count(*) AS postings,
               coalesce(sum(-p.amount) FILTER (WHERE p.amount < 0), 0) AS debit,
               coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0) AS credit
          FROM postings p
         WHERE p.account_id = a.id AND p.xid >= coalesce(b.horizon, 0) AND p.xid < now_at.horizon
      ) AS tail
     WHERE tail.postings >= greatest(min_tail, 1)
    ON CONFLICT (account_id) DO UPDATE
       SET horizon = excluded.horizon, debit = excluded.debit, credit = excluded.credit,
           postings = excluded.postings, taken_at = excluded.taken_at;
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN taken;
END $$;
"""

VIEWS = """
CREATE OR REPLACE VIEW ledger_balances AS
SELECT a.id AS account_id, a.kind AS account, coalesce(g.name, o.name, 'platform') AS owner,
       a.currency,
       coalesce(a.balance,
                coalesce(s.credit - s.debit, 0.000000000000000000)
                + (SELECT coalesce(sum(p.amount), 0.000000000000000000) FROM postings p
                    WHERE p.account_id = a.id AND p.xid >= coalesce(s.horizon, 0))) AS balance
  FROM accounts a
  LEFT JOIN balance_snapshots s
         ON s.account_id = a.id
        AND s.horizon <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
  LEFT JOIN gateways g ON g.id = a.gateway_id
  LEFT JOIN orchestrators o ON o.id = a.orchestrator_id;

CREATE OR REPLACE VIEW ledger_trial_balance AS
SELECT a.kind AS account, a.currency, sum(posted.debit) AS debit, sum(posted.credit) AS credit,
       sum(posted.credit - posted.debit) AS balance
  FROM accounts a
  LEFT JOIN balance_snapshots s
         ON s.account_id = a.id
        AND s.horizon <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
  CROSS JOIN LATERAL (
    SELECT coalesce(s.debit, 0) + coalesce(sum(-p.amount) FILTER (WHERE p.amount < 0),
                                           0.000000000000000000) AS debit,
           coalesce(s.credit, 0) + coalesce(sum(p.amount) FILTER (WHERE p.amount > 0),
                                            0.000000000000000000) AS credit
      FROM postings p WHERE p.account_id = a.id AND p.xid >= coalesce(s.horizon, 0)
  ) AS posted
 GROUP BY a.kind, a.currency;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(TAKE)
    op.execute(VIEWS)
    op.execute("REVOKE INSERT, UPDATE, DELETE ON balance_snapshots FROM pixeltoll_app")


def downgrade() -> None:
    op.execute("DROP FUNCTION ledger_take_snapshots(bigint)")
    first = context.script.get_revision("0001_ledger").module
    for view in first.VIEWS.split(";"):
        if "billing_charges" not in view and view.strip():
            op.execute(view.replace("CREATE VIEW", "CREATE OR REPLACE VIEW"))
    op.execute("DROP TABLE balance_snapshots")
    op.execute("DROP TRIGGER written_now ON postings")
    op.execute("CREATE INDEX ix_postings_account_id_id ON postings (account_id, id)")
    op.execute("DROP INDEX ix_postings_account_id_xid_id")
    op.execute("ALTER TABLE postings DROP COLUMN xid")
