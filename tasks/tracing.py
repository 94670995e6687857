"""Traces, where they are asked for: one for each job, through API, Celery and worker.

A job's row carries where its trace goes on (`traceparent`, as W3C writes it), because a bell may be
lost and one bell may start many jobs. Off, nothing of OpenTelemetry is imported, and everything
here costs a comparison. What is in a span is what may be in a log line about the job.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks import telemetry
from tasks.errors import NoTracing

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

    from tasks.tables import Job

Kind: TypeAlias = Literal["server", "producer", "consumer"]

_HEADER = "traceparent"
_NS = 1_000_000_000
_provider: TracerProvider | None = None


def start(service: str, endpoint: str) -> None:
    """Send this process's spans to an OTLP endpoint from now on; without one, do nothing.

    Its threads do not survive a fork, so it is called in the process that does the work.

    Raises:
        NoTracing: The libraries for it are not installed.
    """
    if not endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise NoTracing from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Give spans to this provider from now on; None: to nobody."""
    global _provider  # noqa: PLW0603  one for a process, as its log is
    _provider = provider


def stop() -> None:
    """Send what is left, and no more: before a process ends by `os._exit`."""
    if _provider is not None:
        _provider.shutdown()
        use(None)


def carried() -> str | None:
    """Return where the trace goes on that this thread is in."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_HEADER)


@contextmanager
def span(
    name: str, kind: Kind, parent: str | None, about: Mapping[str, object] | None = None
) -> Iterator[None]:
    """Let what the block does be a span, below a parent that came from somewhere else."""
    if _provider is None:
        yield
        return
    from opentelemetry.trace import SpanKind, StatusCode

    with _provider.get_tracer(__name__).start_as_current_span(
        name,
        context=_context(parent),
        kind=SpanKind[kind.upper()],
        attributes=_texts(about or {}),
        # Of an error, that there was one: its words may quote what the job is about.
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield
        except BaseException:
            made.set_status(StatusCode.ERROR)
            raise


@contextmanager
def phase(name: str, jobs: Iterable[Job]) -> Iterator[None]:
    """Let what the block does be a span in the trace of each of these jobs."""
    if _provider is None:
        yield
        return
    began_ns = time.time_ns()
    failed = True
    try:
        yield
        failed = False
    finally:
        ended_ns = time.time_ns()
        for job in jobs:
            _note(name, job, began_ns, ended_ns, failed=failed)


def note_queued(jobs: Iterable[Job]) -> None:
    """Let the time that claimed jobs waited be spans; the database's clock measured it."""
    if _provider is None:
        return
    for job in jobs:
        if job.started_at is not None:
            began, ended = job.available_at.timestamp(), job.started_at.timestamp()
            _note("queue", job, int(began * _NS), int(ended * _NS), failed=False)


def _note(name: str, job: Job, began_ns: int, ended_ns: int, *, failed: bool) -> None:
    from opentelemetry.trace import StatusCode

    if _provider is None or job.traceparent is None:
        return  # it was submitted where traces were off
    made = _provider.get_tracer(__name__).start_span(
        name,
        context=_context(job.traceparent),
        start_time=began_ns,
        attributes=_texts({**telemetry.of(job), "model_id": job.model_id}),
    )
    if failed:
        made.set_status(StatusCode.ERROR)
    made.end(ended_ns)


def _context(parent: str | None) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # An empty one and not the current: what a thread happens to be in is not the parent.
    carrier = {} if parent is None else {_HEADER: parent}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _texts(about: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in about.items()}
