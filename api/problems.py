"""What HTTP says about an error: one table for this floor and those below it.

`PROBLEMS` gives each error its status, code and title; `respond` turns an error into an RFC 9457
body. Codes are stable; what a person reads may change.
"""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy.exc
from flask import Flask, Response, g, request
from uuid_utils.compat import uuid7
from werkzeug.exceptions import HTTPException

from api.errors import (
    AdminDisabled,
    MalformedBody,
    NotAuthenticated,
    OfferNotEditable,
    PictureExpired,
    RangeNotSatisfiable,
    TooManyWaiting,
    UnknownKey,
    UnsupportedContentType,
    WaitingLimit,
)
from api.views import ProblemBody
from ledger import errors as ledger
from ledger.money import UnitPrice, plain
from tasks import errors as tasks
from tasks import metrics, telemetry

_log = telemetry.get_logger()
_SERVER_ERROR = 500
_PASSING = (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE)
RETRY_AFTER_S = "1"


@dataclass(frozen=True)
class Problem:
    """How one kind of error is told: HTTP status, stable code, title.

    `detail` takes the place of the error's own words where those would show our inside.
    """

    status: int
    code: str
    title: str
    detail: str | None = None


_BROKEN = "This failed on our side and was logged; the request id finds it."
_DATABASE_AWAY = Problem(
    503, "database_unavailable", "The database does not answer", "Try again in a moment."
)
_NO_RATE = Problem(
    503,
    ledger.RateError.code,
    "No good exchange rate",
    "What is offered is priced in another currency, and its exchange rate is missing or too old.",
)

PROBLEMS: Mapping[type[Exception], Problem] = {
    MalformedBody: Problem(400, MalformedBody.code, "The body cannot be read"),
    NotAuthenticated: Problem(401, NotAuthenticated.code, "No valid API key"),
    ledger.NoPriceLimit: Problem(402, ledger.NoPriceLimit.code, "No price limit is set"),
    ledger.OverPriceLimit: Problem(402, ledger.OverPriceLimit.code, "Every price is too high"),
    ledger.OverBudget: Problem(402, ledger.OverBudget.code, "The budget is used up"),
    ledger.InsufficientFunds: Problem(402, ledger.InsufficientFunds.code, "Not enough funds"),
    AdminDisabled: Problem(403, AdminDisabled.code, "Administration is off"),
    tasks.UnknownModel: Problem(404, tasks.UnknownModel.code, "Unknown model"),
    tasks.UnknownRuntime: Problem(404, tasks.UnknownRuntime.code, "Unknown runtime"),
    tasks.NoOffer: Problem(404, tasks.NoOffer.code, "Nobody offers this"),
    tasks.JobNotFound: Problem(404, tasks.JobNotFound.code, "No such job"),
    tasks.ObjectNotFound: Problem(
        404, tasks.ObjectNotFound.code, "No such picture", "There is no picture at this address."
    ),
    ledger.UnknownGateway: Problem(404, ledger.UnknownGateway.code, "No such gateway"),
    ledger.UnknownOrchestrator: Problem(
        404, ledger.UnknownOrchestrator.code, "No such orchestrator"
    ),
    ledger.UnknownHold: Problem(404, ledger.UnknownHold.code, "No such hold"),
    ledger.UnknownCharge: Problem(404, ledger.UnknownCharge.code, "No such charge"),
    ledger.UnknownPayout: Problem(404, ledger.UnknownPayout.code, "No such payout"),
    tasks.UnknownWebhook: Problem(404, tasks.UnknownWebhook.code, "No such webhook"),
    tasks.UnknownDelivery: Problem(404, tasks.UnknownDelivery.code, "No such delivery"),
    UnknownKey: Problem(404, UnknownKey.code, "No such API key"),
    ledger.UnknownOffer: Problem(404, ledger.UnknownOffer.code, "No such offer"),
    tasks.UnknownOrchestratorKey: Problem(
        404, tasks.UnknownOrchestratorKey.code, "No such orchestrator key"
    ),
    tasks.JobNotCancelable: Problem(409, tasks.JobNotCancelable.code, "The job has ended"),
    tasks.IdempotencyConflict: Problem(
        409, tasks.IdempotencyConflict.code, "Idempotency key used for another request"
    ),
    tasks.TooManyWebhooks: Problem(409, tasks.TooManyWebhooks.code, "Too many webhooks"),
    OfferNotEditable: Problem(409, OfferNotEditable.code, "Offers are not edited"),
    ledger.NameTaken: Problem(409, ledger.NameTaken.code, "The name is taken"),
    ledger.ReferenceReused: Problem(
        409, ledger.ReferenceReused.code, "Reference used for another operation"
    ),
    ledger.NothingOwed: Problem(409, ledger.NothingOwed.code, "Nothing to pay out"),
    ledger.PayoutReversed: Problem(
        409, ledger.PayoutReversed.code, "All of the payout is reversed"
    ),
    ledger.HoldAlreadyResolved: Problem(
        409, ledger.HoldAlreadyResolved.code, "The hold is resolved"
    ),
    PictureExpired: Problem(
        410, PictureExpired.code, "The picture is gone", "Its time is over, and it was deleted."
    ),
    UnsupportedContentType: Problem(
        415, UnsupportedContentType.code, "The content type is not read here"
    ),
    RangeNotSatisfiable: Problem(416, RangeNotSatisfiable.code, "No such bytes"),
    WaitingLimit: Problem(429, WaitingLimit.code, "Too many of your requests wait"),
    tasks.LinkLimit: Problem(429, tasks.LinkLimit.code, "Too many of your links at once"),
    tasks.InvalidParams: Problem(422, tasks.InvalidParams.code, "Some fields are not valid"),
    tasks.InvalidImage: Problem(422, tasks.InvalidImage.code, "The picture cannot be used"),
    ledger.InvalidAmount: Problem(422, ledger.InvalidAmount.code, "A value that is not allowed"),
    ledger.InvalidName: Problem(422, ledger.InvalidName.code, "The name cannot be used"),
    ledger.InvalidMonth: Problem(422, ledger.InvalidMonth.code, "No such month"),
    ledger.CurrencyMismatch: Problem(422, ledger.CurrencyMismatch.code, "Wrong currency"),
    # What follows is not a client's fault. Engine errors end a job, and a missing registration a
    # worker, never a request; they are here so that none can slip through unnamed.
    tasks.NotRegistered: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.NoTracing: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.NotListening: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.EngineError: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.ModelLoadError: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LoraError: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LoraNotFound: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LoraNotAllowed: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LoraIncompatible: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.OutOfMemory: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.InferenceError: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.Withheld: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.Unchecked: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.Interrupted: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.CatalogError: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.PublishFailed: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LinkError: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.BadLink: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LinkFailed: Problem(500, "internal_error", "Internal error", _BROKEN),
    tasks.LinksBusy: Problem(
        503, tasks.LinksBusy.code, "Too many links at once", "Try again in a moment."
    ),
    tasks.StorageError: Problem(
        503, tasks.StorageError.code, "The object store does not answer", "Try again in a moment."
    ),
    TooManyWaiting: Problem(
        503,
        TooManyWaiting.code,
        "Too many requests wait",
        "Too many requests wait for their pictures here. Nothing was submitted. Try again in a "
        "moment, or send `Prefer: respond-async` and poll the job.",
    ),
    ledger.RateError: _NO_RATE,
    ledger.NoRate: _NO_RATE,
    ledger.StaleRate: _NO_RATE,
    ledger.FeedError: Problem(500, "internal_error", "Internal error", _BROKEN),
    ledger.InvalidFile: Problem(500, "internal_error", "Internal error", _BROKEN),
    sqlalchemy.exc.OperationalError: _DATABASE_AWAY,
    sqlalchemy.exc.InterfaceError: _DATABASE_AWAY,
    sqlalchemy.exc.TimeoutError: _DATABASE_AWAY,
    # Any other exception at all.
    Exception: Problem(500, "internal_error", "Internal error", _BROKEN),
}

# What the HTTP machinery itself refuses; any other status gets its own phrase as a code.
HTTP_PROBLEMS: Mapping[int, Problem] = {
    400: Problem(400, "bad_request", "The request cannot be read"),
    404: Problem(404, "not_found", "Nothing is at this address"),
    405: Problem(405, "method_not_allowed", "The address does not take this method"),
    413: Problem(
        413,
        "body_too_large",
        "The body is too large",
        "The body, or one of its form's fields, is larger than is taken here. Pictures take the "
        "least room as the file of a form.",
    ),
}


def problem_of(kind: type[Exception]) -> Problem:
    """Return how a kind of error is told: by its own row, else by its nearest parent's."""
    if issubclass(kind, HTTPException):
        status = kind.code or _SERVER_ERROR
        phrase = http.HTTPStatus(status).phrase
        code = re.sub(r"[^a-z]+", "_", phrase.lower())
        return HTTP_PROBLEMS.get(status, Problem(status, code, phrase))
    return next(PROBLEMS[parent] for parent in kind.__mro__ if parent in PROBLEMS)


# --- facts: the members of a problem beyond those of RFC 9457 ---------------------------------


def price_facts(price: UnitPrice) -> dict[str, object]:
    """Return a price as it stands in every body."""
    return {
        "price_per_unit": plain(price.price_per_unit),
        "pixels_per_unit": price.pixels_per_unit,
        "currency": price.currency,
    }


def _no_limit(error: ledger.NoPriceLimit) -> dict[str, object]:
    best = {} if error.best is None else {"best_price": price_facts(error.best)}
    return {"orchestrator": error.orchestrator, **best}


def _named(said: str) -> dict[str, str]:
    """Return which field a message is about: the one that it begins with, else the name."""
    found = re.match(r"([\w.]+): (.+)", said, re.DOTALL)
    return dict(zip(("field", "message"), found.groups() if found else ("name", said), strict=True))


_FACTS: Mapping[type[Exception], Callable[[Any], dict[str, object]]] = {
    ledger.NoPriceLimit: _no_limit,
    ledger.OverPriceLimit: lambda error: {
        "limit": price_facts(error.limit),
        "best_price": price_facts(error.best),
        "orchestrator": error.orchestrator,
    },
    ledger.OverBudget: lambda error: {
        "needed": plain(error.needed),
        "available": plain(error.remaining),
        "currency": error.currency,
        "period": error.period,
        "api_key_id": error.api_key_id,
        "budget": plain(error.budget),
        "used": plain(error.used),
    },
    ledger.InsufficientFunds: lambda error: {
        "needed": plain(error.needed),
        "available": plain(error.available),
        "missing": plain(error.missing),
        "currency": error.currency,
    },
    ledger.InvalidAmount: lambda error: {
        "errors": [{"field": error.field, "message": error.reason}]
    },
    ledger.InvalidName: lambda error: {"errors": [_named(str(error))]},
    ledger.InvalidMonth: lambda error: {"errors": [_named(str(error))]},
    ledger.NothingOwed: lambda error: {"errors": [_named(str(error))]},
    OfferNotEditable: lambda error: {
        "errors": [{"field": field, "message": "cannot be changed"} for field in error.fields]
    },
    ledger.CurrencyMismatch: lambda error: {
        "errors": [{"field": "currency", "message": str(error)}]
    },
    tasks.InvalidParams: lambda error: {"errors": [vars(one) for one in error.errors]},
    tasks.InvalidImage: lambda error: {"errors": [{"field": "image", "message": str(error)}]},
    tasks.UnknownModel: lambda error: {"models": list(error.known)},
    tasks.NoOffer: lambda error: {"models": list(error.offered)},
    tasks.IdempotencyConflict: lambda error: {"job_id": str(error.job_id)},
    tasks.JobNotCancelable: lambda error: {"job_id": str(error.job_id), "state": error.state},
}


def _headers(error: Exception, status: int) -> dict[str, str]:
    if isinstance(error, HTTPException):
        return {name: value for name, value in error.get_headers() if name != "Content-Type"}
    if isinstance(error, NotAuthenticated):
        return {"WWW-Authenticate": 'Bearer realm="pixeltoll"'}
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size}"}
    if isinstance(error, UnsupportedContentType):
        return {"Accept-Post": ", ".join(error.accepted)}
    return {"Retry-After": RETRY_AFTER_S} if status in _PASSING else {}


@dataclass(frozen=True)
class Told:
    """All that is said of one error, whatever the body that says it looks like."""

    problem: Problem
    detail: str
    facts: Mapping[str, object]
    headers: Mapping[str, str]


def tell(error: Exception) -> Told:
    """Return what is to be said of any error; count it of a submission, log what is our fault."""
    problem = problem_of(type(error))
    if g.get("submits"):
        metrics.REFUSALS.labels(problem.code).inc()
    facts = _FACTS.get(type(error), lambda _: {})(error)
    if problem.status >= _SERVER_ERROR:
        facts = {"request_id": _logged(error, problem.code)}
    said = error.description if isinstance(error, HTTPException) else str(error)
    detail = problem.detail or said or problem.title
    return Told(problem, detail, facts, _headers(error, problem.status))


def respond(error: Exception) -> Response:
    """Turn any error into an `application/problem+json` answer."""
    told = tell(error)
    body = ProblemBody.model_validate(
        {
            "type": f"urn:pixeltoll:error:{told.problem.code}",
            "title": told.problem.title,
            "status": told.problem.status,
            "detail": told.detail,
            "instance": request.path,
            "code": told.problem.code,
            **told.facts,
        }
    )
    return Response(
        body.model_dump_json(exclude_unset=True),
        told.problem.status,
        told.headers,
        mimetype="application/problem+json",
    )


def _logged(error: Exception, code: str) -> str:
    """Log an error of ours, without what the request carried, and return the id to find it by."""
    request_id = uuid7().hex
    if isinstance(error, sqlalchemy.exc.StatementError):
        error.hide_parameters = True  # prompts are among them
    _log.error(
        "request_failed",
        request_id=request_id,
        code=code,
        method=request.method,
        rule=str(request.url_rule),
        exc_info=error,
    )
    return request_id


def install(app: Flask) -> None:
    """Let every error of an app leave as a problem."""
    app.register_error_handler(Exception, respond)
