"""Traces: one for each job, through the API, a real Celery message, and a worker."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tasks import tracing
from tasks.app import make_celery
from tasks.errors import NoTracing
from tasks.worker import answer
from tests.fakes import SPOILS, FakeEngine
from tests.integration.api.working import working
from tests.integration.api.world import GOOD, World
from tests.stage import eventually
from tests.web import serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
PHASES = {"queue", "load", "denoise", "encode", "upload", "settle"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What this process sends from now on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.stop()


def of_trace(exporter: InMemorySpanExporter, trace: str) -> list[ReadableSpan]:
    found = exporter.get_finished_spans()
    return [one for one in found if one.context and f"{one.context.trace_id:032x}" == trace]


def named(found: Sequence[ReadableSpan]) -> Mapping[str, ReadableSpan]:
    return {one.name: one for one in found}


def parent(one: ReadableSpan) -> str:
    return "" if one.parent is None else f"{one.parent.span_id:016x}"


def own(one: ReadableSpan) -> str:
    assert one.context is not None
    return f"{one.context.span_id:016x}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_trace_leads_from_the_request_through_the_message_to_the_worker(
    world: World, spans: InMemorySpanExporter
) -> None:
    app = make_celery(world.runtime.task_settings)
    heard = threading.Event()
    answer(app, heard.set)
    world.wake()
    with (
        start_worker(
            app, pool="solo", perform_ping_check=False, queues=[world.queue], loglevel="WARNING"
        ),
        working(world, FakeEngine()),
    ):
        job = world.client().post("/v1/jobs", json=GOOD, headers=CLIENT).json
        assert heard.wait(30)
        eventually(lambda: world.client().get(f"/v1/jobs/{job['id']}").json["state"] == "succeeded")
        eventually(lambda: {"settle", "heard"} <= {*named(of_trace(spans, TRACE))})
    found = named(of_trace(spans, TRACE))
    assert set(found) == {"POST /v1/jobs", "ring", "heard", *PHASES}
    request = found["POST /v1/jobs"]
    assert (parent(request), request.kind) == (SPAN, SpanKind.SERVER)
    assert {parent(found[name]) for name in ("ring", *PHASES)} == {own(request)}
    assert (parent(found["heard"]), found["heard"].kind) == (own(found["ring"]), SpanKind.CONSUMER)
    for name in PHASES:
        facts = dict(found[name].attributes or {})
        assert facts["job_id"] == job["id"]
        assert facts["attempt"] == "1"
    everything = json.dumps([json.loads(one.to_json()) for one in spans.get_finished_spans()])
    assert GOOD["prompt"] not in everything
    assert world.key not in everything


def test_each_job_has_a_trace_of_its_own_where_its_client_has_none(
    world: World, spans: InMemorySpanExporter
) -> None:
    some = [world.submit(prompt=prompt) for prompt in ("one", "two")]
    with working(world, FakeEngine()):
        eventually(lambda: sum(one.name == "settle" for one in spans.get_finished_spans()) == 2)
    denoised = [one for one in spans.get_finished_spans() if one.name == "denoise"]
    assert {dict(one.attributes or {})["job_id"] for one in denoised} == {job["id"] for job in some}
    assert len({one.context.trace_id for one in denoised if one.context}) == 2


def test_what_fails_says_so(world: World, spans: InMemorySpanExporter) -> None:
    world.submit(prompt=SPOILS)
    with working(world, FakeEngine()):
        eventually(lambda: "denoise" in named(spans.get_finished_spans()))
    assert named(spans.get_finished_spans())["denoise"].status.status_code is StatusCode.ERROR


def test_what_fails_does_not_say_more_than_that(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="a prompt"), tracing.span("heard", "consumer", None):
        raise ValueError("a prompt")
    [one] = spans.get_finished_spans()
    assert one.status.status_code is StatusCode.ERROR
    assert "a prompt" not in one.to_json()


def test_a_job_that_was_submitted_without_a_trace_has_none(
    world: World, spans: InMemorySpanExporter
) -> None:
    tracing.use(None)
    world.submit()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracing.use(provider)
    with working(world, FakeEngine()):
        eventually(lambda: world.client().get("/v1/jobs").json["data"][0]["state"] == "succeeded")
    assert not PHASES & set(named(spans.get_finished_spans()))


def test_spans_are_sent_to_the_endpoint_when_the_process_leaves() -> None:
    with serving(lambda handler, _: handler.give(200)) as collector:
        tracing.start("pixeltoll-test", collector.url("/v1/traces"))
        with tracing.span("heard", "consumer", CLIENT["traceparent"]):
            pass
        tracing.stop()
    [visit] = collector.visits
    assert visit.path == "/v1/traces"
    assert b"pixeltoll-test" in visit.body
    assert bytes.fromhex(TRACE) in visit.body


def test_without_the_libraries_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NoTracing, match=r"pip install 'pixeltoll\[otel\]'"):
        tracing.start("pixeltoll-test", "http://127.0.0.1:1/v1/traces")
