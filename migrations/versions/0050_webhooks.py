"""Who is told that a job has ended, and what was told.

A job's end writes a row for each webhook that listens to it, in the transaction that ends the job:
there is no end without its message, and no message without the end. A gateway of no webhooks costs
one look-up.
"""

from alembic import op

revision = "0050_webhooks"
down_revision = "0042_gateway_policies"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE jobs ADD COLUMN callback jsonb;

CREATE TABLE webhooks (
    id uuid NOT NULL CONSTRAINT pk_webhooks PRIMARY KEY,
    gateway_id uuid CONSTRAINT fk_webhooks_gateway_id_gateways REFERENCES gateways,
    kind varchar NOT NULL CONSTRAINT ck_webhooks_kind CHECK (kind IN ('http', 'sns')),
    target varchar NOT NULL,
    events varchar[] NOT NULL CONSTRAINT ck_webhooks_events CHECK (cardinality(events) > 0),
    secret varchar,
    old_secret varchar,
    old_secret_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    turn_at timestamptz NOT NULL DEFAULT now(),
    failing_since timestamptz,
    disabled_at timestamptz,
    disabled_why varchar,
    CONSTRAINT ck_webhooks_owned CHECK ((kind = 'http') = (gateway_id IS NOT NULL)),
    CONSTRAINT ck_webhooks_signed CHECK ((kind = 'http') = (secret IS NOT NULL)),
    CONSTRAINT ck_webhooks_disabled CHECK ((disabled_at IS NULL) = (disabled_why IS NULL))
);
CREATE INDEX ix_webhooks_gateway_id ON webhooks (gateway_id);
CREATE UNIQUE INDEX uq_webhooks_topic ON webhooks (target) WHERE kind = 'sns';

CREATE TABLE webhook_deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_webhook_deliveries PRIMARY KEY,
    webhook_id uuid NOT NULL
        CONSTRAINT fk_webhook_deliveries_webhook_id_webhooks REFERENCES webhooks ON DELETE CASCADE,
    job_id uuid NOT NULL CONSTRAINT fk_webhook_deliveries_job_id_jobs REFERENCES jobs,
    event varchar NOT NULL,
    state varchar NOT NULL DEFAULT 'pending' CONSTRAINT ck_webhook_deliveries_state
        CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    wanted_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz,
    tried_at timestamptz,
    status integer,
    error varchar,
    CONSTRAINT uq_webhook_deliveries_job_id_webhook_id UNIQUE (job_id, webhook_id)
) WITH (fillfactor = 80);
CREATE INDEX ix_webhook_deliveries_due ON webhook_deliveries (webhook_id, next_at)
    WHERE state = 'pending';
CREATE INDEX ix_webhook_deliveries_leased ON webhook_deliveries (webhook_id)
    WHERE leased_until IS NOT NULL;
CREATE INDEX ix_webhook_deliveries_webhook_id_id ON webhook_deliveries (webhook_id, id DESC);
CREATE INDEX ix_webhook_deliveries_ended ON webhook_deliveries (tried_at)
    WHERE state <> 'pending';
"""

# Locked, so that a webhook that is deleted at this moment is passed over, and a job's end never
# fails for it.
TRIGGER = """
CREATE FUNCTION jobs_tell_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (webhook_id, job_id, event)
    SELECT w.id, NEW.id, 'job.' || NEW.state
      FROM webhooks w
     WHERE (w.gateway_id = NEW.gateway_id OR w.gateway_id IS NULL)
       AND w.disabled_at IS NULL AND 'job.' || NEW.state = ANY (w.events)
       FOR KEY SHARE OF w
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER tell_ended AFTER UPDATE OF state ON jobs FOR EACH ROW
    WHEN (OLD.state IN ('queued', 'running') AND NEW.state NOT IN ('queued', 'running'))
    EXECUTE FUNCTION jobs_tell_ended();
-- Firing a trigger needs no right, and nobody else has a use for it.
REVOKE EXECUTE ON FUNCTION jobs_tell_ended() FROM PUBLIC;
"""


def upgrade() -> None:
    """Add the tables, and let jobs write to them."""
    op.execute(TABLES)
    op.execute(TRIGGER)


def downgrade() -> None:
    """Take both away."""
    op.execute("DROP TRIGGER tell_ended ON jobs")
    op.execute("DROP FUNCTION jobs_tell_ended()")
    op.execute("DROP TABLE webhook_deliveries, webhooks")
    op.execute("ALTER TABLE jobs DROP COLUMN callback")
