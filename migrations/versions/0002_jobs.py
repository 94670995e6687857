"""Jobs, their outputs, and the workers that run them."""

from alembic import op

revision = "0002_jobs"
down_revision = "0001_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE jobs (
    id uuid NOT NULL CONSTRAINT pk_jobs PRIMARY KEY,
    gateway_id uuid NOT NULL CONSTRAINT fk_jobs_gateway_id_gateways REFERENCES gateways,
    orchestrator_id uuid NOT NULL
        CONSTRAINT fk_jobs_orchestrator_id_orchestrators REFERENCES orchestrators,
    hold_id uuid NOT NULL CONSTRAINT uq_jobs_hold_id UNIQUE
        CONSTRAINT fk_jobs_hold_id_holds REFERENCES holds,
    idempotency_key varchar,
    request_hash bytea NOT NULL,
    pipeline varchar NOT NULL,
    model_id varchar NOT NULL,
    queue varchar NOT NULL,
    batch_key varchar NOT NULL,
    params jsonb NOT NULL,
    input_key varchar,
    num_images integer NOT NULL CONSTRAINT ck_jobs_num_images CHECK (num_images > 0),
    units bigint NOT NULL CONSTRAINT ck_jobs_units CHECK (units > 0),
    priority smallint NOT NULL DEFAULT 0,
    state varchar NOT NULL DEFAULT 'queued' CONSTRAINT ck_jobs_state
        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled', 'expired')),
    attempt integer NOT NULL DEFAULT 0,
    worker_id varchar,
    lease_expires_at timestamptz,
    available_at timestamptz NOT NULL DEFAULT now(),
    rung_at timestamptz NOT NULL DEFAULT now(),
    deadline timestamptz NOT NULL,
    step integer NOT NULL DEFAULT 0,
    steps integer NOT NULL DEFAULT 0,
    error_code varchar,
    error_message varchar,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    swept boolean NOT NULL DEFAULT true,
    CONSTRAINT ck_jobs_leased CHECK ((state = 'running') = (lease_expires_at IS NOT NULL)),
    CONSTRAINT ck_jobs_finished CHECK ((state IN ('queued', 'running')) = (finished_at IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX ix_jobs_queue_head ON jobs (queue, priority DESC, id) WHERE state = 'queued';
CREATE INDEX ix_jobs_batch ON jobs (queue, batch_key, priority DESC, id) WHERE state = 'queued';
CREATE INDEX ix_jobs_lease ON jobs (lease_expires_at) WHERE state = 'running';
CREATE INDEX ix_jobs_deadline ON jobs (deadline) WHERE state IN ('queued', 'running');
CREATE INDEX ix_jobs_unswept ON jobs (finished_at) WHERE NOT swept;
CREATE INDEX ix_jobs_gateway_id_id ON jobs (gateway_id, id DESC);
CREATE UNIQUE INDEX uq_jobs_idempotency ON jobs (gateway_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE outputs (
    job_id uuid NOT NULL CONSTRAINT fk_outputs_job_id_jobs REFERENCES jobs,
    index integer NOT NULL,
    name varchar NOT NULL,
    key varchar NOT NULL CONSTRAINT uq_outputs_key UNIQUE,
    seed bigint NOT NULL,
    nsfw boolean,
    width integer NOT NULL,
    height integer NOT NULL,
    content_type varchar NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 bytea NOT NULL,
    CONSTRAINT pk_outputs PRIMARY KEY (job_id, index)
);

CREATE TABLE workers (
    id varchar NOT NULL CONSTRAINT pk_workers PRIMARY KEY,
    queues varchar[] NOT NULL,
    loaded varchar[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
""")


def downgrade() -> None:
    op.execute("DROP TABLE workers, outputs, jobs")
