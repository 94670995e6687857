"""The books' rules look up by index, whatever the statistics say, and say each thing once.

A rule is planned once for each connection, often while the books are nearly empty, and then a plan
that reads a whole table is the best. Kept until the next ANALYZE, it made a batch of a hundred
captures take ten times as long. A foreign key plans in the same way, and cannot be told; those of
entries and charges say only what the statement's checks prove, so they go, as those of postings
never came.
"""

from alembic import op

revision = "0036_sure_plans"
down_revision = "0035_planned_offers"
branch_labels = None
depends_on = None

# Whoever replaces one of these functions later has to say it again.
FUNCTIONS = (
    "ledger_check_holds",
    "ledger_check_entries",
    "ledger_check_postings",
    "ledger_check_charges",
    "ledger_move_balances",
    "ledger_use_budgets",
)
PLANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")

KEYS = (
    ("entries", "hold_id", "holds"),
    ("charges", "hold_id", "holds"),
    ("charges", "entry_id", "entries"),
    ("charges", "gateway_id", "gateways"),
    ("charges", "orchestrator_id", "orchestrators"),
)


def upgrade() -> None:
    for function in FUNCTIONS:
        for plan in PLANS:
            op.execute(f"ALTER FUNCTION {function}() SET {plan} = off")
    for table, column, parent in KEYS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_{column}_{parent}")


def downgrade() -> None:
    for table, column, parent in KEYS:
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_{column}_{parent} "
            f"FOREIGN KEY ({column}) REFERENCES {parent}"
        )
    for function in FUNCTIONS:
        for plan in PLANS:
            op.execute(f"ALTER FUNCTION {function}() RESET {plan}")
