"""The only reader of the environment on this floor."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import NotRegistered
from tasks.results import FOLDERS
from tasks.routing import DEFAULT_WEIGHTS, Weights
from tasks.workers import REMEMBERED_S


class TaskSettings(BaseSettings):
    """Broker, object store, and how jobs are run."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(redis|rediss|unix)://",
        description="Broker of the Celery queues (Redis protocol).",
    )
    s3_endpoint: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="Object store endpoint; empty means AWS itself.",
    )
    s3_region: str = Field("us-east-1", description="Region that S3 requests are signed for.")
    s3_bucket: str = Field("pixeltoll", description="Bucket of inputs and outputs.")
    s3_access_key_id: str = Field("", description="Access key; empty means boto3's own chain.")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Secret of the access key.")

    catalog: Path | None = Field(
        None, validation_alias="PIXELTOLL_CATALOG", description="TOML file of models to add."
    )
    model_cache: Path = Field(
        Path.home() / ".cache" / "pixeltoll",
        validation_alias="PIXELTOLL_MODEL_CACHE",
        description="Where models from s3:// sources are kept.",
    )
    model_memory_bytes: int = Field(
        0,
        ge=0,
        validation_alias="PIXELTOLL_MODEL_MEMORY_BYTES",
        description="Memory for loaded models; 0 means a share of what the device has.",
    )

    model_waiting_bytes: int = Field(
        0,
        ge=0,
        validation_alias="PIXELTOLL_MODEL_WAITING_BYTES",
        description="CPU memory for models that had to leave the GPU, from where they come back "
        "faster than from disk; 0 means half of it beside a GPU, and none without one.",
    )
    safety_checker: str = Field(
        "",
        validation_alias="PIXELTOLL_SAFETY_CHECKER",
        description="Where the diffusers safety checker is: a folder, s3://bucket/prefix, or "
        "owner/name@commit, such as any Stable Diffusion 1 model that has one. Empty means that "
        "nobody looks at pictures.",
    )
    loras: str = Field(
        "*/*",
        validation_alias="PIXELTOLL_LORAS",
        description="LoRA adapters that jobs may use, as patterns that commas divide: of hub ids, "
        "of s3:// objects, and of absolute paths on the worker. Empty means none.",
    )

    orchestrator_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="PIXELTOLL_ORCHESTRATOR_KEY",
        description="A worker's key, which says whose offers it serves. Only workers need one.",
    )
    orchestrator_key_file: Path | None = Field(
        None,
        validation_alias="PIXELTOLL_ORCHESTRATOR_KEY_FILE",
        description="A file that holds that key, where the variable above does not.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        validation_alias="PIXELTOLL_METRICS_HOST",
        description="Address on which a worker or scheduler answers `/metrics` and `/healthz`. "
        "They ask for no key: keep them inside.",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        validation_alias="PIXELTOLL_METRICS_PORT",
        description="Port of these; 0 means that they are not answered. The API has its own, and "
        "`pixeltoll up` gives each process a free one.",
    )
    traces: str = Field(
        "",
        validation_alias="PIXELTOLL_TRACES",
        description="Where OpenTelemetry traces are sent, as the whole address of an OTLP endpoint "
        "over HTTP, such as http://collector:4318/v1/traces. Empty means that there are none.",
    )
    route_cold_s: float = Field(
        DEFAULT_WEIGHTS.cold_s,
        ge=0,
        allow_inf_nan=False,
        validation_alias="PIXELTOLL_ROUTE_COLD_S",
        description="A model that no worker of an orchestrator has in memory counts as this much "
        "waiting there. A day puts warm models first; the time that models load weighs both.",
    )
    route_price_s: float = Field(
        DEFAULT_WEIGHTS.price_s,
        ge=0,
        allow_inf_nan=False,
        validation_alias="PIXELTOLL_ROUTE_PRICE_S",
        description="A price twice the cheapest counts as this much waiting. By default, prices "
        "decide between equal waits only.",
    )
    lease_s: float = Field(
        30.0,
        gt=0,
        validation_alias="PIXELTOLL_LEASE_S",
        description="A worker's claim on a job ends this long after its last renewal. Shorter "
        "means faster recovery from a lost worker, and less patience with a slow database.",
    )
    drain_s: float = Field(
        20.0,
        gt=0,
        validation_alias="PIXELTOLL_DRAIN_S",
        description="How long a process that is told to leave goes on with what it is at. Then a "
        "worker hands its jobs back to their queues, and the API lets go of requests that still "
        "wait. What stops a process must give it some seconds more.",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        validation_alias="PIXELTOLL_MAX_ATTEMPTS",
        description="A job that was lost with its worker, or failed by no fault of its own, this "
        "many times fails.",
    )
    retry_delay_s: float = Field(
        2.0,
        ge=0,
        validation_alias="PIXELTOLL_RETRY_DELAY_S",
        description="Wait before a transiently failed job runs again; doubles each attempt.",
    )
    default_deadline_s: int = Field(
        86_400,
        gt=0,
        validation_alias="PIXELTOLL_DEFAULT_DEADLINE_S",
        description="A job without a deadline expires after this long, and its hold with it.",
    )
    keep_results_s: int = Field(
        0,
        ge=0,
        validation_alias="PIXELTOLL_KEEP_RESULTS_S",
        description="How long after its end a job's pictures are kept, its input too; then they "
        "are deleted, and their addresses answer 410. 0 means forever. The API and the scheduler "
        "must be told the same.",
    )
    ring_after_s: float = Field(
        5.0,
        gt=0,
        validation_alias="PIXELTOLL_RING_AFTER_S",
        description="A queued job whose bell nobody answered is rung again after this long.",
    )
    reroute_after_s: float = Field(
        60.0,
        gt=0,
        le=REMEMBERED_S,
        validation_alias="PIXELTOLL_REROUTE_AFTER_S",
        description="Queued jobs move to another orchestrator, within what is held for them, when "
        "no worker has served their queue for this long.",
    )
    sweep_interval_s: float = Field(
        1.0,
        gt=0,
        validation_alias="PIXELTOLL_SWEEP_INTERVAL_S",
        description="How often the scheduler looks for lost, forgotten and overdue jobs.",
    )
    worker_stall_s: float = Field(
        60.0,
        gt=0,
        validation_alias="PIXELTOLL_WORKER_STALL_S",
        description="An idle worker that leaves queued jobs unclaimed this long exits, "
        "to be restarted: its broker connection may be half open.",
    )
    batch_stall_s: float = Field(
        1800.0,
        gt=0,
        validation_alias="PIXELTOLL_BATCH_STALL_S",
        description="A worker that holds jobs and shows no progress this long, no step, no loaded "
        "model, no stored picture, exits, to be restarted: its GPU may hang.",
    )
    model_switch_wait_s: float = Field(
        20.0,
        ge=0,
        validation_alias="PIXELTOLL_MODEL_SWITCH_WAIT_S",
        description="A worker stays with its loaded models for at least this long, and then until "
        "a job of another model has waited this long.",
    )
    max_input_bytes: int = Field(
        20_000_000,
        gt=0,
        validation_alias="PIXELTOLL_MAX_INPUT_BYTES",
        description="Largest input picture accepted, as a file.",
    )
    max_input_pixels: int = Field(
        4096 * 4096,
        gt=0,
        validation_alias="PIXELTOLL_MAX_INPUT_PIXELS",
        description="Largest input picture accepted, in pixels after decoding.",
    )
    link_hosts: str = Field(
        "",
        validation_alias="PIXELTOLL_LINK_HOSTS",
        description="Hosts of your own network that links and webhooks may lead to, as names or "
        "`name:port` that commas divide. Others must be public.",
    )
    link_ports: str = Field(
        "80,443",
        pattern=r"^\s*\d{1,5}\s*(,\s*\d{1,5}\s*)*$",
        validation_alias="PIXELTOLL_LINK_PORTS",
        description="Ports that links and webhooks may lead to; commas divide them.",
    )
    link_buckets: str = Field(
        "",
        validation_alias="PIXELTOLL_LINK_BUCKETS",
        description="Buckets, or `bucket/folder`, that s3:// links of any gateway may name; commas "
        "divide them. Empty means none. Of `S3_BUCKET`, only a folder that is not one of ours.",
    )
    link_timeout_s: float = Field(
        10.0,
        gt=0,
        validation_alias="PIXELTOLL_LINK_TIMEOUT_S",
        description="How long a submission waits for a picture behind a link, in all.",
    )
    link_slots: int = Field(
        32,
        ge=1,
        validation_alias="PIXELTOLL_LINK_SLOTS",
        description="Links that one API process fetches at the same time; others are refused for "
        "a moment. Keep it below the process's threads.",
    )
    link_slots_each: int = Field(
        4,
        ge=1,
        validation_alias="PIXELTOLL_LINK_SLOTS_EACH",
        description="How many of them may be one gateway's, so that none with slow links takes "
        "every slot.",
    )

    webhook_timeout_s: float = Field(
        15.0,
        gt=0,
        validation_alias="PIXELTOLL_WEBHOOK_TIMEOUT_S",
        description="How long a webhook has to answer.",
    )
    webhook_retry_s: float = Field(
        5.0,
        gt=0,
        validation_alias="PIXELTOLL_WEBHOOK_RETRY_S",
        description="Wait before a failed delivery is tried again; doubles each attempt, up to six "
        "hours, and is shortened by up to half by chance.",
    )
    webhook_give_up_s: float = Field(
        3 * 86_400.0,
        ge=0,
        validation_alias="PIXELTOLL_WEBHOOK_GIVE_UP_S",
        description="A delivery that fails for this long is given up; it can be replayed.",
    )
    webhook_disable_s: float = Field(
        5 * 86_400.0,
        ge=0,
        validation_alias="PIXELTOLL_WEBHOOK_DISABLE_S",
        description="A webhook of which every delivery fails for this long is disabled.",
    )
    webhook_keep_s: float = Field(
        30 * 86_400.0,
        gt=0,
        validation_alias="PIXELTOLL_WEBHOOK_KEEP_S",
        description="How long the log keeps what was delivered or given up.",
    )
    sns_topic: str = Field(
        "",
        pattern=r"^(arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?)?$",
        validation_alias="PIXELTOLL_SNS_TOPIC",
        description="ARN of an SNS topic that is told of the end of every job of every gateway. "
        "Credentials are boto3's own chain. Only schedulers need it; give all of them the same.",
    )
    sns_endpoint: str = Field(
        "",
        validation_alias="PIXELTOLL_SNS_ENDPOINT",
        description="Where SNS is; empty means AWS itself.",
    )

    @field_validator("link_buckets")
    @classmethod
    def _keeps_results_private(cls, listed: str, info: ValidationInfo) -> str:
        """Refuse what would let any gateway read the pictures of all."""
        own = info.data.get("s3_bucket")
        for name in filter(None, (part.strip().strip("/") for part in listed.split(","))):
            bucket, _, folder = name.partition("/")
            if bucket == own and folder.partition("/")[0] in ("", *FOLDERS):
                raise ValueError(
                    f"{name} has the inputs and results of every gateway in it, which every other "
                    f"could read. List another bucket, or a folder of {own} that is none of "
                    f"{', '.join(FOLDERS)}."
                )
        return listed

    def with_key(self) -> TaskSettings:
        """Return these settings with the orchestrator's key that its file holds, if one is named.

        Raises:
            NotRegistered: The file cannot be read.
        """
        if self.orchestrator_key.get_secret_value() or self.orchestrator_key_file is None:
            return self
        try:
            key = self.orchestrator_key_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotRegistered(
                f"PIXELTOLL_ORCHESTRATOR_KEY_FILE: {self.orchestrator_key_file} cannot be read "
                f"({type(error).__name__}). Write a key of the orchestrator into it."
            ) from error
        return self.model_copy(update={"orchestrator_key": SecretStr(key)})

    @property
    def weights(self) -> Weights:
        """What counts in routing, in seconds of waiting."""
        return Weights(cold_s=self.route_cold_s, price_s=self.route_price_s)
