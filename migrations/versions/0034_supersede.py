"""A hold may take the place of another one, when a job moves to another orchestrator.

The chain of a reference is a line: its first hold supersedes nothing, each other one a hold that no
other supersedes, that was voided, and that was for the same job and at least as much. Undoing this
is refused once there is such a chain: the books keep it for good.
"""

from alembic import op

revision = "0034_supersede"
down_revision = "0031_market"
branch_labels = None
depends_on = None

# Partial, because almost no hold supersedes another.
COLUMN = """
ALTER TABLE holds
    ADD COLUMN supersedes uuid CONSTRAINT fk_holds_supersedes_holds REFERENCES holds,
    DROP CONSTRAINT uq_holds_reference;
CREATE UNIQUE INDEX uq_holds_reference ON holds (reference) WHERE supersedes IS NULL;
CREATE UNIQUE INDEX uq_holds_supersedes ON holds (supersedes) WHERE supersedes IS NOT NULL;
"""

# That it was voided is read off its entries: its state follows them in the same statement, but in
# an order of triggers that nothing here should rest on.
CHECK = """
CREATE FUNCTION ledger_check_superseding() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM holds before
         WHERE before.id = NEW.supersedes AND before.amount >= NEW.amount
           AND (before.reference, before.gateway_id, before.pipeline, before.model_id,
                before.units, before.currency, before.expires_at)
             = (NEW.reference, NEW.gateway_id, NEW.pipeline, NEW.model_id, NEW.units, NEW.currency,
                NEW.expires_at)
           AND (before.api_key_id, before.limit_price_per_unit, before.limit_pixels_per_unit,
                before.limit_currency)
               IS NOT DISTINCT FROM
               (NEW.api_key_id, NEW.limit_price_per_unit, NEW.limit_pixels_per_unit,
                NEW.limit_currency)) THEN
        RAISE EXCEPTION 'hold % is for something else, or for more, than hold % before it',
            NEW.id, NEW.supersedes
            USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_superseded_alike';
    ELSIF NOT EXISTS (
        SELECT 1 FROM entries WHERE hold_id = NEW.supersedes AND kind = 'void') THEN
        RAISE EXCEPTION 'hold % supersedes hold %, which was not voided', NEW.id, NEW.supersedes
            USING ERRCODE = 'check_violation', CONSTRAINT = 'holds_superseded_voided';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_superseding AFTER INSERT ON holds FOR EACH ROW
    WHEN (NEW.supersedes IS NOT NULL) EXECUTE FUNCTION ledger_check_superseding();
"""


def upgrade() -> None:
    op.execute(COLUMN)
    op.execute(CHECK)


def downgrade() -> None:
    op.execute("DROP TRIGGER check_superseding ON holds")
    op.execute("DROP FUNCTION ledger_check_superseding()")
    op.execute("DROP INDEX uq_holds_reference")
    op.execute("""
        ALTER TABLE holds
            DROP COLUMN supersedes,
            ADD CONSTRAINT uq_holds_reference UNIQUE (reference)
    """)
