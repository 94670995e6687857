"""Every way in which work can be refused or fail, as one tree.

    TasksError
    |-- UnknownModel            a model id that the catalog does not have
    |-- UnknownRuntime          a name of a set of models that the catalog does not have
    |-- InvalidParams           one or more request fields are wrong
    |-- InvalidImage            the input picture cannot be used
    |-- LinksBusy               as many links are being fetched as may be
    |-- LinkLimit               as many of one gateway's links are
    |-- LinkError               what somebody else has named cannot be reached
    |   |-- BadLink             it may not be followed
    |   `-- LinkFailed          it does not lead to an answer
    |-- UnknownWebhook          a webhook that the gateway does not have
    |-- UnknownDelivery         a delivery that the webhook's log does not have
    |-- TooManyWebhooks
    |-- PublishFailed           a topic does not take a message
    |-- NoOffer                 nobody sells the capability
    |-- NotRegistered           a worker without a key of an orchestrator
    |-- UnknownOrchestratorKey  a key that the orchestrator does not have
    |-- NoTracing               traces are asked for without the libraries that send them
    |-- NotListening            the port for metrics cannot be had
    |-- JobNotFound             no such job for this gateway
    |-- JobNotCancelable        the job has already ended
    |-- IdempotencyConflict     a key used again with another request
    |-- CatalogError            a catalog file that cannot be read
    |-- StorageError            the object store did not do its work
    |   `-- ObjectNotFound
    `-- EngineError             inference did not deliver
        |-- ModelLoadError
        |-- LoraError
        |   |-- LoraNotFound
        |   |-- LoraNotAllowed
        |   `-- LoraIncompatible
        |-- OutOfMemory
        |-- InferenceError
        |-- Withheld            what was made is not to be shown
        |-- Unchecked           what was made should have been looked at, and nobody could
        `-- Interrupted

The classes carry facts. HTTP statuses and wording of responses belong to the floor above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


class TasksError(Exception):
    """Base of every error that this floor raises on purpose."""

    code = "tasks_error"


class UnknownModel(TasksError):
    """Raised when a model id is not in the catalog; names the ones that are."""

    code = "unknown_model"

    def __init__(self, model_id: str, known: Sequence[str]) -> None:
        self.model_id = model_id
        self.known = tuple(known)
        super().__init__(
            f"There is no model {model_id!r} here. Models: {', '.join(known) or 'none'}."
        )


class UnknownRuntime(TasksError):
    """Raised when a runtime is not in the catalog; names the ones that are."""

    code = "unknown_runtime"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(
            f"There is no runtime {name!r} here. Runtimes: {', '.join(known) or 'none'}."
        )


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one request field, in a sentence that says what to do."""

    field: str
    message: str


class InvalidParams(TasksError):
    """Raised when request fields do not fit the model; carries one `FieldError` for each."""

    code = "invalid_params"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))


class InvalidImage(TasksError):
    """Raised when an input picture cannot be decoded, or is larger than allowed."""

    code = "invalid_image"


class LinksBusy(TasksError):
    """Raised when a process already fetches as many links as it may."""

    code = "links_busy"

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        super().__init__(
            f"{at_once} other links are being fetched. Try again in a moment, or send the picture "
            "itself."
        )


class LinkLimit(TasksError):
    """Raised when a process already fetches as many links of a gateway as one gateway may have."""

    code = "link_limit"

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        super().__init__(
            f"{at_once} links of this gateway are being fetched here, which is as many as one "
            "gateway may have. Wait for an answer before you send more, or send the picture itself."
        )


class LinkError(TasksError):
    """Base of what can be wrong with an address that somebody else has named.

    Its words are for whoever has named it, and say nothing of the network that we are in.
    """

    code = "link_error"


class BadLink(LinkError):
    """Raised when an address may not be followed, whatever is there."""

    code = "bad_link"


class LinkFailed(LinkError):
    """Raised when nothing that may be had is at an address."""

    code = "link_failed"


class UnknownWebhook(TasksError):
    """Raised when a webhook is not one of the gateway's."""

    code = "unknown_webhook"

    def __init__(self, webhook_id: UUID | str) -> None:
        self.webhook_id = str(webhook_id)
        super().__init__(f"This gateway has no webhook {webhook_id}.")


class UnknownDelivery(TasksError):
    """Raised when a webhook's log has no such delivery, or none any more."""

    code = "unknown_delivery"

    def __init__(self, delivery_id: int | str) -> None:
        self.delivery_id = str(delivery_id)
        super().__init__(f"The log of this webhook has no delivery {delivery_id}.")


class TooManyWebhooks(TasksError):
    """Raised when a gateway has as many webhooks as it may."""

    code = "too_many_webhooks"

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(f"A gateway has {most} webhooks at most. Delete one first.")


class PublishFailed(TasksError):
    """Raised when a topic does not take a message."""

    code = "publish_failed"


class NoOffer(TasksError):
    """Raised when no orchestrator, or not the one asked, offers a capability.

    Names the models that are offered.
    """

    code = "no_offer"

    def __init__(
        self,
        pipeline: str,
        model_id: str,
        offered: Sequence[str],
        orchestrator: str | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.model_id = model_id
        self.offered = tuple(offered)
        self.orchestrator = orchestrator
        who = "No orchestrator offers"
        if orchestrator is not None:
            who = f"The orchestrator {orchestrator!r} of this runtime does not offer"
        super().__init__(
            f"{who} {pipeline} with {model_id!r}. "
            f"Offered for {pipeline}: {', '.join(offered) or 'nothing'}."
        )


class NotRegistered(TasksError):
    """Raised when a worker's key is missing, malformed, unknown or revoked."""

    code = "not_registered"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"{why} Make a key for the orchestrator, with `pixeltoll orchestrator key create`, "
            "and give it to the worker as PIXELTOLL_ORCHESTRATOR_KEY."
        )


class UnknownOrchestratorKey(TasksError):
    """Raised when a key is to be revoked that is not one of the orchestrator's."""

    code = "unknown_orchestrator_key"

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(
            f"This orchestrator has no key {key_id!r}; `pixeltoll orchestrator key list` shows "
            "those that it has."
        )


class NoTracing(TasksError):
    """Raised when a process is to send traces, and the libraries for it are not installed."""

    code = "no_tracing"

    def __init__(self) -> None:
        super().__init__(
            "PIXELTOLL_TRACES needs OpenTelemetry: `pip install 'pixeltoll[otel]'`, or unset it."
        )


class NotListening(TasksError):
    """Raised when a process cannot have the port that its health and metrics are to be on."""

    code = "not_listening"

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(
            f"Port {port} of {host} cannot be listened on: {why}. Give this process another by "
            "PIXELTOLL_METRICS_HOST and PIXELTOLL_METRICS_PORT."
        )


class JobNotFound(TasksError):
    """Raised when a gateway asks for a job that is not its own, or that does not exist."""

    code = "job_not_found"

    def __init__(self, job_id: UUID | str) -> None:
        self.job_id = str(job_id)
        super().__init__(f"There is no job {job_id}.")


class JobNotCancelable(TasksError):
    """Raised when a job that has already ended is to be canceled."""

    code = "job_not_cancelable"

    def __init__(self, job_id: UUID, state: str) -> None:
        self.job_id = job_id
        self.state = state
        super().__init__(
            f"Job {job_id} has already {state}; only queued and running jobs can be canceled."
        )


class IdempotencyConflict(TasksError):
    """Raised when an idempotency key comes again with a different request."""

    code = "idempotency_key_reused"

    def __init__(self, key: str, job_id: UUID) -> None:
        self.key = key
        self.job_id = job_id
        super().__init__(
            f"Idempotency key {key!r} was used for job {job_id} with another request. "
            "Send the same request again, or take a new key."
        )


class CatalogError(TasksError):
    """Raised when a catalog file does not parse or describes an impossible model."""

    code = "catalog_error"


class StorageError(TasksError):
    """Raised when the object store refuses or does not answer, after the retries."""

    code = "storage_error"


class ObjectNotFound(StorageError):
    """Raised when the object store has nothing under a key."""

    code = "object_not_found"


class EngineError(TasksError):
    """Base of what can go wrong while a model makes pictures."""

    code = "engine_error"


class ModelLoadError(EngineError):
    """Raised when a model cannot be loaded: missing, pickled weights, or a broken layout."""

    code = "model_load_failed"


class LoraError(EngineError):
    """Raised when a LoRA adapter cannot be had or read: pickled, broken, or a hub that is away."""

    code = "lora_load_failed"


class LoraNotFound(LoraError):
    """Raised when there is nothing where a LoRA adapter should be."""

    code = "lora_not_found"


class LoraNotAllowed(LoraError):
    """Raised when this orchestrator does not run a LoRA adapter."""

    code = "lora_not_allowed"


class LoraIncompatible(LoraError):
    """Raised when a LoRA adapter changes layers that the base model does not have."""

    code = "lora_incompatible"


class OutOfMemory(EngineError):
    """Raised when a batch does not fit into the device's memory."""

    code = "out_of_memory"


class InferenceError(EngineError):
    """Raised when a pipeline call fails or makes a picture that is not finite."""

    code = "inference_failed"


class Withheld(EngineError):
    """Raised when the safety checker flags pictures, and the gateway's policy withholds them."""

    code = "withheld"

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(
            f"The safety checker flagged {count} of the pictures, and the gateway's policy "
            "withholds such pictures. They are not charged."
        )


class Unchecked(EngineError):
    """Raised when a gateway's policy needs a verdict on pictures, and there is no checker."""

    code = "unchecked"

    def __init__(self, policy: str) -> None:
        self.policy = policy
        super().__init__(
            f"The gateway's policy for flagged pictures is {policy!r}, and no safety checker is "
            "installed where this ran, so nothing was delivered or charged. Have the orchestrator "
            "set PIXELTOLL_SAFETY_CHECKER, let the policy be 'flag', or send safety_check=false."
        )


class Interrupted(EngineError):
    """Raised when a pipeline call was asked to stop and did."""

    code = "interrupted"
