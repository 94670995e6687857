"""docs/reference/errors.md: the codes of refused requests and of failed jobs, and what to do.

Codes, statuses and titles come from the code; what to do is written here, for every code there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from api.problems import HTTP_PROBLEMS, PROBLEMS
from tasks.errors import EngineError, Interrupted, InvalidImage, ObjectNotFound, StorageError
from tools.reference.markdown import NOTICE, table

_REQUESTS = """\
A refused request is an RFC 9457 problem with a stable `code`; [the API's
guide](../how-to/api.md#errors) shows one. The Livepeer, AWS and WebUI routes answer in their own
shapes, with the same codes. What is refused holds, queues and stores nothing. A 503 or 429 has
`Retry-After`; every 5xx but those of a dialect has a `request_id`, which is in the server's log,
too.
"""
_JOBS = """\
A job that does not succeed has one of these in `error.code`, beside a `message` that names the
particulars. It costs nothing. One that succeeds with some of its pictures has `partial_result`,
and is charged for those.
"""

# What a client, or whoever runs the installation, does about each code of a request.
_REMEDIES: Mapping[str, str] = {
    "bad_request": "Send HTTP as the guide shows it; the detail says what could not be read.",
    "malformed_body": "Send one JSON object, or a complete form; the detail says where it breaks.",
    "not_authenticated": "Send `Authorization: Bearer` with a key that is not revoked; make one "
    "with `pixeltoll key create GATEWAY`.",
    "insufficient_funds": "Top the gateway up by what `missing` says, or ask for fewer pixels.",
    "no_price_limit": "Set a limit with `PUT /v1/limits`, at or above `best_price`.",
    "over_budget": "Wait for the next `period`, or have the budget raised.",
    "over_price_limit": "Raise the limit to `best_price`, or wait for a lower price.",
    "admin_disabled": "Start the API with `PIXELTOLL_ADMIN_KEY`.",
    "job_not_found": "Check the id, and that the key is of the gateway that submitted the job.",
    "no_offer": "Ask for one of `models`, or have an orchestrator publish an offer.",
    "not_found": "Check the address against [the HTTP API](http.md).",
    "object_not_found": "Take the address from the job's `outputs`, whole.",
    "unknown_charge": "Check the job's id; only what was charged can be refunded.",
    "unknown_delivery": "List the deliveries; the log keeps them for 30 days.",
    "unknown_gateway": "Check the name or id against `pixeltoll gateway list`.",
    "unknown_hold": "Check the job's id; only jobs that were submitted here have a hold.",
    "unknown_key": "Check the id against `pixeltoll key list GATEWAY`.",
    "unknown_model": "Ask for one of `models`, or add the model to the catalog.",
    "unknown_offer": "List the orchestrator's offers; withdrawn ones are not there any more.",
    "unknown_orchestrator": "Check the name or id against `pixeltoll orchestrator list`.",
    "unknown_orchestrator_key": "Check the id against `pixeltoll orchestrator key list NAME`.",
    "unknown_payout": "Check the reference against `pixeltoll payout list`.",
    "unknown_runtime": "Name a `[[runtime]]` of the catalog, or add one.",
    "unknown_webhook": "List the gateway's webhooks; a deleted one is gone.",
    "method_not_allowed": "Use a method that `Allow` names.",
    "hold_already_resolved": "Nothing: the job was charged or given back before.",
    "idempotency_key_reused": "Repeat the first request as it was, or take a new key.",
    "job_not_cancelable": "Nothing: the job has ended, as `state` says.",
    "name_taken": "Choose another name.",
    "nothing_owed": "Wait until something is earned; `pixeltoll payout owed` shows what is.",
    "offer_not_editable": "Publish a new offer, which supersedes this one, or withdraw it.",
    "payout_reversed": "Make a new payout: what was reversed is owed again.",
    "reference_reused": "Take a new reference, or repeat the first request with the same facts.",
    "too_many_webhooks": "Delete one first.",
    "picture_expired": "Submit again, and fetch the picture sooner.",
    "body_too_large": "Send the picture as a file of a form, or a smaller one.",
    "unsupported_content_type": "Send a content type that `Accept-Post` names.",
    "range_not_satisfiable": "Ask for bytes below the size in `Content-Range`.",
    "currency_mismatch": "Use a currency that the message names.",
    "invalid_amount": "Mend the field in `errors`, which can be read but not be taken, such as an "
    "amount of zero, an unknown `currency`, or a `valid_from` that is past.",
    "invalid_image": "Send a PNG, JPEG, WebP or GIF within the size that the message names.",
    "invalid_month": "Send a month such as `2026-11` that is not in the future.",
    "invalid_name": "Choose a name within the bounds that the message names.",
    "invalid_params": "Mend each field in `errors`. An amount is an exact decimal of at most 18 "
    "places.",
    "waiting_limit": "Wait for an answer before sending more, or send `Prefer: respond-async` and "
    "poll.",
    "link_limit": "Wait for an answer before sending more, or send the picture itself.",
    "internal_error": "Repeat once; then tell whoever runs this the `request_id`.",
    "database_unavailable": "Repeat with the same `Idempotency-Key`; see `/readyz`.",
    "links_busy": "Repeat in a moment, or send the picture itself.",
    "rate_error": "Have the exchange rate set: `pixeltoll rates set`.",
    "storage_error": "Repeat with the same `Idempotency-Key`; see `/readyz`.",
    "too_many_waiting": "Repeat in a moment, or send `Prefer: respond-async` and poll.",
}

# The codes that a job's end can have, in the order of the table.
_ENDS: Mapping[str, str] = {
    "partial_result": "Submit again for the missing pictures: picture k has the job's seed plus k.",
    "deadline_passed": "Submit with a later `deadline`, or have more workers: the job `expired`.",
    "worker_lost": "Submit again; if it happens again, look at the worker's log: the job may end "
    "its process.",
    "out_of_memory": "Ask for a smaller picture or fewer, or have a larger GPU.",
    "inference_failed": "Submit again with other parameters; the worker's log has the traceback.",
    "model_load_failed": "Have the model's catalog entry mended; the message says what is wrong.",
    "lora_not_found": "Check the adapter's address.",
    "lora_not_allowed": "Use an adapter that `PIXELTOLL_LORAS` of the orchestrator allows.",
    "lora_incompatible": "Use an adapter that was made for the base model.",
    "lora_load_failed": "Use a safetensors adapter, or submit again if the hub was away.",
    "withheld": "Change the prompt: the checker flagged every picture, and the gateway's policy "
    "withholds those.",
    "unchecked": "Have a safety checker installed, or change the gateway's policy.",
    "invalid_image": "Submit again: the stored input could not be read.",
    "object_not_found": "Submit again: the stored input is gone.",
    "storage_error": "Submit again when the object store answers.",
    "internal_error": "Submit again; the worker's log has the traceback.",
}
_BASES = (EngineError, Interrupted)
_BESIDE_ENGINES = (InvalidImage, ObjectNotFound, StorageError)
_WITHOUT_A_CLASS = {"partial_result", "deadline_passed", "worker_lost", "internal_error"}


def page() -> str:
    """Return the page.

    Raises:
        LookupError: A code has no words about what to do, or there are words for no code.
    """
    requests = {problem.code: problem for problem in (*PROBLEMS.values(), *HTTP_PROBLEMS.values())}
    _match(set(requests), set(_REMEDIES))
    _match({*_codes_of_ends(), *_WITHOUT_A_CLASS}, set(_ENDS))
    ordered = sorted(requests.values(), key=lambda problem: (problem.status, problem.code))
    rows = ((f"`{one.code}`", str(one.status), one.title, _REMEDIES[one.code]) for one in ordered)
    ends = ((f"`{code}`", remedy) for code, remedy in _ENDS.items())
    return "\n\n".join(
        (
            *(NOTICE, "# Errors", "## Requests", _REQUESTS.strip()),
            table(("code", "status", "means", "what to do"), rows).rstrip(),
            *("## Jobs", _JOBS.strip(), table(("code", "what to do"), ends)),
        )
    )


def _codes_of_ends() -> Iterator[str]:
    """Yield the code of every error that can end a job."""
    waiting: list[type[EngineError]] = [EngineError]
    while waiting:
        kind = waiting.pop()
        # Ours only: whoever imports this may have made others.
        waiting += [one for one in kind.__subclasses__() if one.__module__ == kind.__module__]
        if kind not in _BASES:
            yield kind.code
    for beside in _BESIDE_ENGINES:
        yield beside.code


def _match(there_are: set[str], said_of: set[str]) -> None:
    if there_are != said_of:
        raise LookupError(f"in one of code and words only: {sorted(there_are ^ said_of)}")
