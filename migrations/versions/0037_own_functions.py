"""The books' functions are for the books' own triggers, and for nobody else.

They write with the owner's rights what no role may. Whoever may execute such a function may have a
trigger on a temporary table call it, with rows of his own making; firing a trigger needs no right.
"""

from alembic import op

revision = "0037_own_functions"
down_revision = "0036_sure_plans"
branch_labels = None
depends_on = None

EACH = """
DO $$ DECLARE it record; BEGIN
    FOR it IN SELECT oid::regprocedure AS name FROM pg_proc
               WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'ledger\\_%'
    LOOP EXECUTE format('{verb} EXECUTE ON FUNCTION %s {whom} PUBLIC', it.name); END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(EACH.format(verb="REVOKE", whom="FROM"))
    # The one that is called by name.
    op.execute("GRANT EXECUTE ON FUNCTION ledger_take_snapshots(bigint) TO pixeltoll_app")


def downgrade() -> None:
    op.execute("REVOKE EXECUTE ON FUNCTION ledger_take_snapshots(bigint) FROM pixeltoll_app")
    op.execute(EACH.format(verb="GRANT", whom="TO"))
