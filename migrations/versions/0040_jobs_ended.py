"""Who waits for a job is told when it ends."""

from alembic import op

revision = "0040_jobs_ended"
down_revision = "0037_own_functions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let a job that ends notify, once its transaction is committed."""
    op.execute("""
        CREATE FUNCTION jobs_notify_ended() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('jobs_ended', NEW.id::text);
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER notify_ended AFTER UPDATE OF state ON jobs FOR EACH ROW
            WHEN (NEW.state NOT IN ('queued', 'running') AND OLD.state <> NEW.state)
            EXECUTE FUNCTION jobs_notify_ended()
    """)
    # Firing a trigger needs no right, and nobody else has a use for it.
    op.execute("REVOKE EXECUTE ON FUNCTION jobs_notify_ended() FROM PUBLIC")


def downgrade() -> None:
    """Let it end in silence."""
    op.execute("DROP TRIGGER notify_ended ON jobs")
    op.execute("DROP FUNCTION jobs_notify_ended()")
