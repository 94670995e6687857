"""An offer begins when it is made, or later: one that has not begun can be withdrawn by itself.

The journal's view shows references as they were given, without what keeps those of each kind apart.
"""

from alembic import op

revision = "0035_planned_offers"
down_revision = "0034_supersede"
branch_labels = None
depends_on = None

# A withdrawal of an offer that holds supersedes it; one of an offer that is planned names it.
OFFERS = """
ALTER TABLE offers
    ADD COLUMN withdraws bigint
        CONSTRAINT fk_offers_withdraws_offers REFERENCES offers,
    ADD CONSTRAINT ck_offers_withdraws_is_withdrawn CHECK (withdraws IS NULL OR withdrawn);
CREATE UNIQUE INDEX uq_offers_withdraws ON offers (withdraws) WHERE withdraws IS NOT NULL;
CREATE TRIGGER written_now BEFORE INSERT ON offers FOR EACH ROW
    WHEN (NEW.created_at <> now() OR NEW.valid_from < now())
    EXECUTE FUNCTION ledger_refuse('it is not dated back');
"""

UNDO_OFFERS = """
DROP TRIGGER written_now ON offers;
DROP INDEX uq_offers_withdraws;
ALTER TABLE offers
    DROP CONSTRAINT ck_offers_withdraws_is_withdrawn,
    DROP COLUMN withdraws;
"""

JOURNAL = """
CREATE OR REPLACE VIEW ledger_journal AS
SELECT p.id AS posting_id, p.entry_id, e.created_at AS posted_at, e.kind,
       coalesce({reference}, h.reference, b.reference) AS reference, a.kind AS account,
       coalesce(g.name, o.name, 'platform') AS owner, e.currency,
       CASE WHEN p.amount < 0 THEN -p.amount END AS debit,
       CASE WHEN p.amount > 0 THEN p.amount END AS credit
  FROM postings p
  JOIN entries e ON e.id = p.entry_id
  JOIN accounts a ON a.id = p.account_id
  LEFT JOIN holds h ON h.id = e.hold_id
  LEFT JOIN payouts y ON y.id = e.payout_id
  LEFT JOIN payout_batches b ON b.id = y.batch_id
  LEFT JOIN gateways g ON g.id = a.gateway_id
  LEFT JOIN orchestrators o ON o.id = a.orchestrator_id;
"""
GIVEN = "CAST(substr(e.reference, strpos(e.reference, ':') + 1) AS varchar)"


def upgrade() -> None:
    op.execute(OFFERS)
    op.execute(JOURNAL.format(reference=GIVEN))


def downgrade() -> None:
    op.execute(JOURNAL.format(reference="e.reference"))
    op.execute(UNDO_OFFERS)
