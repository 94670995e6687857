"""What is refused, how it is told, and that a refusal leaves nothing behind.

Each case is one sentence of what the API promises about bad input. After them the rows, the held
funds, the stored objects and the queued bells are counted again.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import traceback
import zlib
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse

from api import orders
from api.app import create_app
from tasks.errors import StorageError
from tasks.storage import ObjectStore
from tests.databases import as_owner
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import (
    EDITOR,
    FROM_IMAGE,
    GOOD,
    LANCZOS,
    MAX_BODY_BYTES,
    MODEL,
    ORCHESTRATOR,
    PRICE,
    UNSOLD,
    UPSCALER,
    World,
    png,
    problem,
)


def bomb() -> bytes:
    """A PNG of ten kilobytes that decodes to 243 megabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 9000, 9000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((9000 // 8 + 1) * 9000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def image(data: bytes) -> dict[str, Any]:
    return {**FROM_IMAGE, "image": base64.b64encode(data).decode()}


def job(**changes: Any) -> dict[str, Any]:
    return {"json": {**GOOD, **changes}}


def raw(body: bytes | str, content_type: str = "application/json") -> dict[str, Any]:
    return {"data": body, "content_type": content_type}


def form(*parts: tuple[str, Any]) -> dict[str, Any]:
    """A form of the good job and these parts, which may repeat names."""
    return {"data": MultiDict([*GOOD.items(), *parts]), "content_type": "multipart/form-data"}


@dataclass(frozen=True)
class Case:
    """A request, and how it is refused; `names` is the field that is found wrong."""

    name: str
    request: dict[str, Any]
    status: int
    code: str
    names: str | None = None
    says: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def wrong(name: str, request: dict[str, Any], names: str, says: str = "") -> Case:
    return Case(name, request, 422, "invalid_params", names, says)


def malformed(name: str, body: bytes | str, says: str = "") -> Case:
    return Case(name, raw(body), 400, "malformed_body", says=says)


GOOD_TEXT = json.dumps(GOOD)
DEEP = "[" * 100_000
HALF_FORM = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhalf'

CASES = [
    # models and offers
    Case(
        "unknown model",
        job(model_id="no/such"),
        404,
        "unknown_model",
        says=MODEL,
        facts={"models": [MODEL, UNSOLD, EDITOR, UPSCALER, LANCZOS]},
    ),
    Case("no offer", job(model_id=UNSOLD), 404, "no_offer", says=MODEL, facts={"models": [MODEL]}),
    wrong("a pipeline of other models", job(model_id=EDITOR), "pipeline", "does image-to-image"),
    wrong("unknown pipeline", job(pipeline="text-to-video"), "pipeline", "text-to-image"),
    # bounds of the catalog
    wrong("too wide", job(width=520), "width", "64 to 512"),
    wrong("too low", job(height=8), "height", "64 to 512"),
    wrong("no steps", job(num_inference_steps=0), "num_inference_steps", "1 to 100"),
    wrong("too many steps", job(num_inference_steps=101), "num_inference_steps", "1 to 100"),
    wrong("too many images", job(num_images_per_prompt=17), "num_images_per_prompt", "1 to 16"),
    wrong("no images", job(num_images_per_prompt=0), "num_images_per_prompt", "1 to 16"),
    wrong("empty prompt", job(prompt=""), "prompt", "empty"),
    wrong("blank prompt", job(prompt=" \n"), "prompt", "empty"),
    wrong("long prompt", job(prompt="x" * 201), "prompt", "200"),
    wrong("long negative prompt", job(negative_prompt="x" * 201), "negative_prompt", "200"),
    wrong("NUL in a prompt", job(prompt="a\x00b"), "prompt", "NUL"),
    wrong("NUL in a model id", job(model_id="a\x00b"), "model_id", "control"),
    wrong("negative seed", job(seed=-1), "seed"),
    wrong("huge seed", job(seed=2**63), "seed"),
    wrong("huge width", raw(GOOD_TEXT[:-1] + ', "width": ' + "9" * 4000 + "}"), "width"),
    wrong("strength above one", {"json": {**image(png()), "strength": 1.1}}, "strength"),
    wrong("LoRAs", job(loras='{"a": 1.0}'), "loras"),
    wrong("priority", job(priority=10), "priority"),
    # numbers that are none
    malformed("NaN", GOOD_TEXT[:-1] + ', "guidance_scale": NaN}', "NaN"),
    malformed("Infinity", GOOD_TEXT[:-1] + ', "guidance_scale": -Infinity}', "Infinity"),
    wrong(
        "a number past all floats",
        raw(GOOD_TEXT[:-1] + ', "guidance_scale": 1e999}'),
        "guidance_scale",
    ),
    wrong(
        "a price past all decimals", raw(GOOD_TEXT[:-1] + ', "max_price": 1e999999}'), "max_price"
    ),
    malformed(
        "an exponent past all decimals", GOOD_TEXT[:-1] + ', "max_price": 1e' + "9" * 30 + "}"
    ),
    malformed(
        "a number of ten thousand digits", GOOD_TEXT[:-1] + ', "seed": ' + "9" * 10_000 + "}"
    ),
    wrong("NaN as text", job(max_price="NaN"), "max_price", "decimal number"),
    wrong("text for a number", job(width="256"), "width", "whole number"),
    wrong("a boolean for a number", job(num_images_per_prompt=True), "num_images_per_prompt"),
    wrong("text for a boolean", job(safety_check="true"), "safety_check", "true or false"),
    wrong("a fraction for a count", job(width=256.5), "width", "whole number"),
    wrong("a number for text", job(prompt=7), "prompt", "string"),
    wrong("null for what must be there", job(prompt=None), "prompt"),
    Case(
        "a price of nothing",
        job(max_price="0"),
        422,
        "invalid_amount",
        "max_price",
        "greater than zero",
    ),
    wrong(
        "a price of 19 decimals", job(max_price="0.0000000000000000001"), "max_price", "18 decimals"
    ),
    # fields
    wrong("an unknown field", job(promt="a fox"), "promt", "not a field"),
    wrong(
        "a missing field",
        {"json": {"pipeline": "text-to-image", "model_id": MODEL}},
        "prompt",
        "must not be empty",
    ),
    wrong("a past deadline", job(deadline="2020-01-01T00:00:00Z"), "deadline", "future"),
    wrong("a far deadline", job(deadline="2999-01-01T00:00:00Z"), "deadline", "604800 seconds"),
    wrong("a deadline without offset", job(deadline="2030-01-01T00:00:00"), "deadline", "RFC 3339"),
    wrong(
        "a deadline that is no date", job(deadline="2030-02-30T00:00:00Z"), "deadline", "RFC 3339"
    ),
    wrong("a deadline in seconds", job(deadline=60), "deadline", "RFC 3339"),
    # bodies
    malformed("no body", "", "not JSON"),
    malformed("half a body", GOOD_TEXT[:-5], "line 1"),
    malformed("not UTF-8", GOOD_TEXT.encode().replace(b"a fox", b"\xff"), "UTF-8"),
    malformed("half a character", GOOD_TEXT.replace("a fox", r"\ud83d"), "surrogate"),
    malformed("a name twice", GOOD_TEXT[:-1] + ', "prompt": "b"}', "twice"),
    malformed("too deep", DEEP, "deep"),
    wrong("a list", raw("[]"), "body", "object"),
    wrong("null", raw("null"), "body", "object"),
    Case(
        "wrong content type",
        raw(GOOD_TEXT, "text/plain"),
        415,
        "unsupported_content_type",
        says="text/plain",
    ),
    Case("no content type", {"data": GOOD_TEXT}, 415, "unsupported_content_type"),
    Case(
        "a url-encoded form",
        raw("a=b", "application/x-www-form-urlencoded"),
        415,
        "unsupported_content_type",
    ),
    Case("too large a body", job(prompt="x" * MAX_BODY_BYTES), 413, "body_too_large"),
    # forms
    wrong("an unknown field in a form", form(("promt", "x")), "promt", "not a field"),
    wrong(
        "an unknown file in a form",
        form(("mask", (io.BytesIO(b"x"), "a.png"))),
        "mask",
        "not a field",
    ),
    wrong("a field twice in a form", form(("prompt", "x")), "prompt", "more than once"),
    wrong(
        "two files",
        form(("image", (io.BytesIO(b"x"), "a")), ("image", (io.BytesIO(b"x"), "b"))),
        "image",
    ),
    wrong("text that is no number in a form", form(("width", "wide")), "width", "whole number"),
    wrong("NaN in a form", form(("guidance_scale", "NaN")), "guidance_scale", "number"),
    wrong("a picture as a form's text", form(("image", "aGVsbG8=")), "image", "as a file"),
    Case(
        "a form's field too long", form(("negative_prompt", "x" * 300_000)), 413, "body_too_large"
    ),
    Case(
        "a form of a thousand fields",
        form(*((f"f{n}", "x") for n in range(1000))),
        413,
        "body_too_large",
    ),
    Case("a form without a boundary", raw("x", "multipart/form-data"), 400, "malformed_body"),
    Case("half a form", raw(HALF_FORM, "multipart/form-data; boundary=b"), 400, "malformed_body"),
    # pictures
    Case("no picture", {"json": image(b"hello")}, 422, "invalid_image", "image", "not a picture"),
    Case("an empty picture", {"json": image(b"")}, 422, "invalid_image", "image", "empty"),
    Case("half a picture", {"json": image(png()[:60])}, 422, "invalid_image", "image"),
    Case("a bomb", {"json": image(bomb())}, 422, "invalid_image", "image", "pixels"),
    Case(
        "no base64",
        {"json": {**FROM_IMAGE, "image": "~~~"}},
        422,
        "invalid_image",
        "image",
        "base64",
    ),
    Case(
        "a link",
        {"json": {**FROM_IMAGE, "image": "http://169.254.169.254/"}},
        422,
        "invalid_image",
        "image",
        "public",
    ),
    wrong("a picture too small", {"json": image(png(32, 32))}, "image", "64 to 512"),
    wrong("no picture where one is needed", {"json": FROM_IMAGE}, "image"),
    wrong("a picture where none is wanted", {"json": {**image(png()), **GOOD}}, "image"),
    wrong("a size with a picture", {"json": {**image(png()), "width": 64}}, "width"),
    # prices
    Case(
        "above the request's own price",
        job(max_price="0.00000001"),
        *(402, "over_price_limit", None, ORCHESTRATOR),
        {
            "limit": {"price_per_unit": "0.00000001", "pixels_per_unit": 1, "currency": "USD"},
            "best_price": {"price_per_unit": PRICE, "pixels_per_unit": 1, "currency": "USD"},
            "orchestrator": ORCHESTRATOR,
        },
    ),
]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/quotes"])
def test_bad_input_is_refused_and_leaves_nothing(
    world: World, path: str, subtests: pytest.Subtests
) -> None:
    before = world.traces()
    for case in CASES:
        with subtests.test(case.name):
            _check(world.client().post(path, **_fresh(case.request)), case)
    assert world.traces() == before


def _fresh(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request whose files can be read again."""
    data = request.get("data")
    if not isinstance(data, MultiDict):
        return request
    copied = [
        (name, (io.BytesIO(part[0].getvalue()), part[1]) if isinstance(part, tuple) else part)
        for name, part in data.items(multi=True)
    ]
    return {**request, "data": MultiDict(copied)}


def _check(response: TestResponse, case: Case) -> None:
    body = problem(response, case.status, case.code)
    assert case.says in json.dumps(body)
    for name, value in case.facts.items():
        assert body[name] == value
    if case.names is not None:
        assert case.names in {error["field"] for error in body["errors"]}


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/limits"])
def test_a_body_of_unsaid_length_is_bounded_too(world: World, path: str, content_type: str) -> None:
    fitting = json.dumps(GOOD).encode()
    if "form" in content_type:
        fitting = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b--\r\n'
    response = world.client().open(
        path,
        method="PUT" if "limits" in path else "POST",
        input_stream=io.BytesIO(fitting + b" " * MAX_BODY_BYTES),
        content_type=content_type,
        environ_overrides={"wsgi.input_terminated": True},
    )
    if path == "/v1/limits" and "form" in content_type:
        problem(response, 415, "unsupported_content_type")
    else:
        problem(response, 413, "body_too_large")


def test_all_wrong_fields_are_named_at_once(world: World) -> None:
    response = world.client().post("/v1/jobs", **job(width=1, height=1, prompt="", seed=-1))

    body = problem(response, 422, "invalid_params")
    assert [error["field"] for error in body["errors"]] == ["prompt", "width", "height", "seed"]


NOT_PAID: dict[str, dict[str, Any]] = {
    "no_price_limit": {
        "orchestrator": ORCHESTRATOR,
        "best_price": {"price_per_unit": PRICE, "pixels_per_unit": 1, "currency": "USD"},
    },
    "over_price_limit": {
        "limit": {"price_per_unit": "0.00000001", "pixels_per_unit": 1, "currency": "USD"},
        "best_price": {"price_per_unit": PRICE, "pixels_per_unit": 1, "currency": "USD"},
        "orchestrator": ORCHESTRATOR,
    },
    "insufficient_funds": {
        "needed": "0.001249999847424",
        "available": "0.001",
        "missing": "0.000249999847424",
        "currency": "USD",
    },
}


@pytest.mark.parametrize("with_picture", [False, True])
@pytest.mark.parametrize("code", NOT_PAID)
def test_what_is_not_paid_is_refused_and_leaves_nothing(
    world: World, code: str, with_picture: bool
) -> None:
    body = image(png(256, 256)) if with_picture else dict(GOOD)
    key = world.poor_key if code == "insufficient_funds" else world.key
    if code == "no_price_limit":
        world.client(key).put("/v1/limits", json={"data": []})
    elif code == "over_price_limit":
        world.set_limit("0.00000001")
    before = world.traces()

    found = problem(world.client(key).post("/v1/jobs", json=body), 402, code)

    assert {name: found[name] for name in NOT_PAID[code]} == NOT_PAID[code]
    assert world.traces() == before


def test_when_many_pictures_meet_funds_for_one_only_that_one_is_kept(world: World) -> None:
    body = image(png(224, 224))
    assert world.traces()["objects"] == []
    start = threading.Barrier(8)
    statuses = []

    def post() -> None:
        client = world.client(world.poor_key)
        start.wait()
        statuses.append(client.post("/v1/jobs", json=body).status_code)

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [202] + [402] * 7
    traces = world.traces()
    assert (traces["jobs"], traces["holds"]) == (1, 1)
    assert len(traces["objects"]) == 1  # type: ignore[arg-type]


def test_no_limit_says_how_to_set_one(world: World) -> None:
    response = world.client(world.other_key).post("/v1/jobs", json=GOOD)
    assert "PUT /v1/limits" in problem(response, 402, "no_price_limit")["detail"]


def test_a_quote_needs_no_funds(world: World) -> None:
    assert world.client(world.poor_key).post("/v1/quotes", json=GOOD).status_code == 200


def test_a_key_reused_for_another_request_is_a_conflict(world: World) -> None:
    client, headers = world.client(), {"Idempotency-Key": "k"}
    first = client.post("/v1/jobs", json=GOOD, headers=headers).json
    before = world.traces()

    others = ({**GOOD, "prompt": "an owl"}, {**GOOD, "seed": 1}, image(png()))
    for other in others:
        response = client.post("/v1/jobs", json=other, headers=headers)
        body = problem(response, 409, "idempotency_key_reused")
        assert body["job_id"] == first["id"]

    assert {**world.traces(), "bells": 0} == {**before, "bells": 0}


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ké"])
def test_an_idempotency_key_is_visible_ascii(world: World, key: str) -> None:
    response = world.client().post("/v1/jobs", json=GOOD, headers={"Idempotency-Key": key})
    body = problem(response, 422, "invalid_params")
    assert body["errors"][0]["field"] == "Idempotency-Key"


QUERIES = [
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=ten", "limit"),
    ("limit=1&limit=2", "limit"),
    ("cursor=nonsense", "cursor"),
    ("cursor=", "cursor"),
    ("cursor=AAAAAAAAAAAAAAAAAAAAA%C3%A9", "cursor"),
    ("state=done", "state"),
    ("created_after=yesterday", "created_after"),
    ("created_before=2030-01-01T00:00:00", "created_before"),
    ("model_id=%00", "model_id"),
    ("order=asc", "order"),
]


def test_queries_are_checked(world: World, subtests: pytest.Subtests) -> None:
    for query, named in QUERIES:
        with subtests.test(query):
            body = problem(world.client().get(f"/v1/jobs?{query}"), 422, "invalid_params")
            assert body["errors"][0]["field"] == named


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long"])
def test_a_wait_is_bounded(world: World, wait: str) -> None:
    response = world.client().get(f"/v1/jobs/{'0' * 32}?wait={wait}")
    assert problem(response, 422, "invalid_params")["errors"][0]["field"] == "wait"


# --- the machinery of HTTP --------------------------------------------------------------------


def test_what_is_not_there_is_a_problem_too(world: World) -> None:
    client = world.client()
    problem(client.get("/v1/nothing"), 404, "not_found")
    problem(client.get("/v1/jobs/not-a-uuid"), 404, "job_not_found")
    problem(client.get("/v1/jobs/00000000-0000-0000-0000-000000000000"), 404, "job_not_found")
    response = client.put("/v1/jobs", json=GOOD)
    problem(response, 405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path", "shape"),
    [
        ("GET", "/text-to-image", {"detail", "code"}),
        ("GET", "/v1alpha2", {"message", "code"}),
        ("PUT", "/v1alpha1", {"message", "code"}),
        ("GET", "/sdapi/v1/txt2img", {"error", "detail", "body", "errors", "code"}),
        ("POST", "/sdapi/v1/progress", {"error", "detail", "body", "errors", "code"}),
    ],
)
def test_another_method_is_refused_in_the_shape_of_its_address(
    shared_world: World, method: str, path: str, shape: set[str]
) -> None:
    # The tests' own client wants a problem wherever no operation is documented.
    response = FlaskClient(shared_world.app, TestResponse).open(path, method=method)
    assert (response.status_code, response.mimetype) == (405, "application/json")
    assert (set(response.get_json()), response.get_json()["code"]) == (shape, "method_not_allowed")
    assert ("GET" if method == "POST" else "POST") in response.headers["Allow"]


def test_our_own_failure_says_nothing_of_our_inside(world: World) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    world.app.before_request_funcs.setdefault(None, []).append(broken)
    with capture_logs() as logs:
        body = problem(world.client().get("/v1/balance"), 500, "internal_error")

    said = json.dumps(body)
    assert "hunter2" not in said
    assert "RuntimeError" not in said
    assert [line["request_id"] for line in logs] == [body["request_id"]]


@pytest.mark.parametrize("named", [str(UUID(int=7)), "a-prompt-that-nobody-may-read"])
def test_a_failure_is_logged_with_the_job_that_the_request_names(world: World, named: str) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    world.app.before_request_funcs.setdefault(None, []).append(broken)
    with capture_logs(processors=[merge_contextvars]) as logs:
        problem(world.client().get(f"/v1/jobs/{named}"), 500, "internal_error")

    [line] = logs
    assert line["gateway_id"] == str(world.gateway_id)
    assert line.get("job_id") == (named if named[0] == "0" else None)
    assert "nobody-may-read" not in repr(line)


def test_a_failure_after_a_submission_is_logged_with_its_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(type(world.runtime.ringer), "ring", broken)
    with capture_logs(processors=[merge_contextvars]) as logs:
        problem(world.client().post("/v1/jobs", **job()), 500, "internal_error")

    submitted, failed = logs
    assert submitted["event"] == "job_submitted"
    assert (failed["job_id"], failed["attempt"]) == (submitted["job_id"], 0)


def test_prompts_do_not_reach_the_log_of_a_failed_statement(world: World) -> None:
    with as_owner(world.sessions) as session:
        session.execute(text("DROP TABLE webhook_deliveries, outputs, result_stems, jobs"))
    with capture_logs() as logs:
        body = problem(
            world.client().post("/v1/jobs", **job(prompt="top secret")), 500, "internal_error"
        )

    [line] = logs
    assert line["request_id"] == body["request_id"]
    logged = "".join(traceback.format_exception(line["exc_info"]))
    assert "UndefinedTable" in logged
    assert "top secret" not in logged


def test_a_database_that_is_away_is_a_503(world: World) -> None:
    url = world.sessions.kw["bind"].url.set(query={"host": "/nowhere"})
    away = create_engine(url)
    runtime = replace(world.runtime, sessions=sessionmaker(away), reads=sessionmaker(away))
    app = create_app(runtime)
    with capture_logs():
        response = app.test_client().get(
            "/v1/balance", headers={"Authorization": f"Bearer {world.key}"}
        )
    body = problem(response, 503, "database_unavailable")
    assert "/nowhere" not in json.dumps(body)
    assert response.headers["Retry-After"]


class Away(ObjectStore):
    """A store that does not answer."""

    def delete(self, *_: object) -> None:
        raise StorageError("The object store did not answer.")

    def put(self, *_: object, **__: object) -> None:
        raise StorageError("The object store did not answer for 'secret-key'.")


def test_a_store_that_is_away_refuses_the_picture_and_holds_nothing(
    make_world: MakeWorld, store: ObjectStore
) -> None:
    world = make_world(store=Away(store._client, store._bucket))
    before = world.traces()

    response = world.client().post("/v1/jobs", json=image(png()))

    assert "secret-key" not in problem(response, 503, "storage_error")["detail"]
    assert world.traces() == before


def test_what_cannot_be_deleted_is_logged_and_fails_nobody(
    world: World, store: ObjectStore
) -> None:
    runtime = replace(world.runtime, open_store=lambda: Away(store._client, store._bucket))
    with capture_logs() as logs:
        orders._discard(runtime, "inputs/x.png", {"gateway_id": "7"})
    [line] = logs
    assert (line["event"], line["key"]) == ("input_left_behind", "inputs/x.png")
    assert line["gateway_id"] == "7"


def test_no_answer_is_guessed_at_or_kept(world: World) -> None:
    for response in (world.client().get("/v1/balance"), world.client("").get("/v1/balance")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
