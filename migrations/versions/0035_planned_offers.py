"""An offer begins when it is made, or later: one that has not begun can be withdrawn by itself.

The journal's view shows references as they were given, without what keeps those of each kind apart.
"""

from alembic import context, op

revision = "0035_planned_offers"
down_revision = "0034_supersede"
branch_labels = None
depends_on = None

# A withdrawal of an offer that holds supersedes it; one of an offer that is planned names it.
OFFERS = """
ALTER TABLE offers
    ADD COLUMN withdraws bigint CONSTRAINT fk_offers_withdraws_offers REFERENCES offers,
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

KEPT = "coalesce(e.reference, h.reference, b.reference)"
GIVEN = """coalesce(substr(e.reference, strpos(e.reference, ':') + 1), h.reference,
                b.reference)"""


def upgrade() -> None:
    op.execute(OFFERS)
    op.execute(_journal().replace(KEPT, GIVEN))


def downgrade() -> None:
    op.execute(_journal())
    op.execute(UNDO_OFFERS)


def _journal() -> str:
    view: str = context.script.get_revision("0008_payouts").module.JOURNAL
    return view
