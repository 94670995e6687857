"""Submitting: quote, hold and job come to be together or not at all, and once for each key."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from psycopg.pq.abc import PGconn
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, limits
from ledger.errors import InsufficientFunds, NoPriceLimit, OverPriceLimit, Refused
from ledger.limits import Limit
from ledger.money import unit_price
from ledger.offers import Capability
from ledger.tables import Hold
from tasks import jobs, waiting, workers
from tasks.errors import IdempotencyConflict, JobNotFound, NoOffer
from tasks.tables import Job
from tasks.waiting import Wait
from tests import stage as stages
from tests.invariants import assert_sound
from tests.stage import FUNDS, IMAGE, OTHER, OWNER, PRICE, SMALL, TEXT, Stage


def count(stage: Stage, table: type[Job | Hold]) -> int:
    with stage.sessions.begin() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def set_limits(stage: Stage, *some: Limit) -> None:
    with stage.sessions.begin() as session:
        limits.replace_limits(session, stage.gateway_id, some, "USD")


def test_a_job_is_queued_and_its_amount_held(stage: Stage) -> None:
    job = stage.submit("a cat", width=256, height=256, num_images_per_prompt=2, priority=3)
    assert (job.state, job.attempt, job.step, job.outputs) == ("queued", 0, 0, [])
    assert (job.units, job.num_images, job.priority) == (131072, 2, 3)
    assert job.queue == "text-to-image.acme-small.rig"
    assert job.orchestrator.name == OWNER
    assert job.hold.state == "open"
    assert job.hold.amount == Decimal("0.002499999694848")
    assert job.hold.reference == str(job.id)
    assert (stage.balance().available, stage.balance().held) == (
        FUNDS - job.hold.amount,
        job.hold.amount,
    )
    assert_sound(stage.sessions)


def test_the_answer_is_what_find_would_say(stage: Stage) -> None:
    def facts(job: Job) -> dict[str, object]:
        return {name: getattr(job, name) for name in Job.__mapper__.column_attrs.keys()}  # noqa: SIM118  no dict

    made = stage.submit("a cat", priority=2, idempotency_key="k", input_key="inputs/x")
    found = stage.job(made.id)
    assert facts(made) == facts(found)
    assert made.hold.id == found.hold.id
    assert made.orchestrator.id == found.orchestrator.id


def test_the_deadline_is_counted_by_the_databases_clock_and_ends_the_hold_too(
    stage: Stage,
) -> None:
    job = stage.submit("a cat", deadline_s=90.5)
    assert job.deadline == job.created_at + timedelta(seconds=90.5)
    assert job.hold.expires_at == job.deadline


@contextmanager
def traced(sessions: sessionmaker[Session], tmp_path: Path) -> Iterator[tuple[Session, Path]]:
    """A session that commits each statement, on a connection whose messages are written down."""
    engine: Engine = sessions.kw["bind"].execution_options(isolation_level="AUTOCOMMIT")
    trace = tmp_path / "trace"
    with engine.connect() as connection, Session(connection, expire_on_commit=False) as session:
        session.execute(text("SELECT 1"))
        link: PGconn = connection.connection.driver_connection.pgconn  # type: ignore[union-attr]
        with trace.open("w") as file:
            link.trace(file.fileno())
            yield session, trace
            session.close()
            link.untrace()


def round_trips(trace: Path) -> int:
    """Count the messages to the server after which an answer is waited for."""
    return len(re.findall(r"^.+\tF\t\d+\t(?:Sync|Query)\b", trace.read_text(), re.MULTILINE))


@pytest.mark.parametrize("key", [None, "k"])
def test_a_job_is_held_and_queued_in_one_round_trip_after_a_look_at_the_market(
    stage: Stage, tmp_path: Path, key: str | None
) -> None:
    order = stage.order("a cat", idempotency_key=key)
    with traced(stage.sessions, tmp_path) as (session, trace):
        job, wait = jobs.submit(session, order)
    assert round_trips(trace) == 2, trace.read_text()
    assert wait == Wait(0, live=False)
    assert stage.job(job.id).state == "queued"
    assert_sound(stage.sessions)


def test_where_each_statement_commits_a_key_makes_one_job_too(stage: Stage, tmp_path: Path) -> None:
    with traced(stage.sessions, tmp_path) as (session, _):
        first, _ = jobs.submit(session, stage.order("a cat", idempotency_key="k"))
        again, wait = jobs.submit(session, stage.order("a cat", idempotency_key="k"))
        with pytest.raises(IdempotencyConflict):
            jobs.submit(session, stage.order("a dog", idempotency_key="k"))
        other, _ = jobs.submit(session, stage.order("a dog"))
    assert (again.id, wait) == (first.id, None)
    assert other.id != first.id
    assert (count(stage, Job), count(stage, Hold)) == (2, 2)
    assert_sound(stage.sessions)


def test_a_twin_that_took_the_last_funds_is_the_answer(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        capability = Capability(TEXT, SMALL)
        stages.offer(session, stage.orchestrator_id, capability, unit_price("0.00244140625"))
    first = stage.submit("a cat", idempotency_key="k")
    assert stage.balance().available == 0
    assert stage.submit("a cat", idempotency_key="k").id == first.id
    with pytest.raises(InsufficientFunds):
        stage.submit("a dog", idempotency_key="another")


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "asked", "refusal"),
    [
        ([], {}, NoPriceLimit),
        ([Limit(IMAGE, None, None)], {}, NoPriceLimit),
        ([Limit(None, None, unit_price("1e-08"))], {}, OverPriceLimit),
        ([Limit(None, None, None)], {"max_price": unit_price("1e-08")}, OverPriceLimit),
        # A request's price is the caller's word; consent is the owner's.
        ([], {"max_price": unit_price("1")}, NoPriceLimit),
    ],
)
def test_a_refused_job_leaves_nothing(
    stage: Stage, limit: list[Limit], asked: dict[str, object], refusal: type[Refused]
) -> None:
    set_limits(stage, *limit)
    with pytest.raises(refusal):
        stage.submit("a cat", **asked)
    assert (count(stage, Job), count(stage, Hold)) == (0, 0)
    assert stage.balance().available == FUNDS


def test_a_price_above_the_limit_is_told_with_the_best_one(stage: Stage) -> None:
    with pytest.raises(OverPriceLimit) as refused:
        stage.submit("a cat", max_price=unit_price("1e-08"))
    assert (refused.value.best, refused.value.orchestrator) == (PRICE, OWNER)
    assert refused.value.limit == unit_price("1e-08")


def test_missing_funds_are_told_and_nothing_is_left(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        capability = Capability(TEXT, SMALL)
        stages.offer(session, stage.orchestrator_id, capability, unit_price("0.01"))
    with pytest.raises(InsufficientFunds) as refused:
        stage.submit("a cat")
    assert refused.value.missing == Decimal("40.96") - FUNDS
    assert (count(stage, Job), count(stage, Hold)) == (0, 0)


def test_a_capability_that_nobody_offers_is_told_with_those_that_are(stage: Stage) -> None:
    unknown = replace(stage.generation(), model_id="acme/nothing")
    with stage.sessions.begin() as session, pytest.raises(NoOffer) as refused:
        jobs.estimate(session, stage.gateway_id, unknown, None)
    assert refused.value.offered == ("acme/other", "acme/small", "acme/unloadable")


# --- once for each key ------------------------------------------------------------------------


def test_a_key_seen_before_answers_with_the_job_it_made(stage: Stage) -> None:
    first = stage.submit("a cat", idempotency_key="k")
    with stage.sessions.begin() as session:
        again, wait = jobs.submit(session, stage.order("a cat", idempotency_key="k"))
        assert (again.id, wait) == (first.id, None)
        assert again.hold.id == first.hold.id
    assert (count(stage, Job), count(stage, Hold)) == (1, 1)


def test_a_replay_is_answered_even_when_a_new_job_would_be_refused(stage: Stage) -> None:
    first = stage.submit("a cat", idempotency_key="k")
    set_limits(stage)
    assert stage.submit("a cat", idempotency_key="k").id == first.id


def test_a_replay_shows_the_job_as_it_is_now(stage: Stage) -> None:
    first = stage.submit("a cat", idempotency_key="k")
    stage.cancel(first)
    assert stage.submit("a cat", idempotency_key="k").state == "canceled"


def test_a_key_with_another_request_is_a_conflict(stage: Stage) -> None:
    first = stage.submit("a cat", idempotency_key="k")
    with pytest.raises(IdempotencyConflict) as refused:
        stage.submit("a dog", idempotency_key="k")
    assert refused.value.job_id == first.id
    assert count(stage, Hold) == 1


def test_a_refused_request_does_not_use_up_its_key(stage: Stage) -> None:
    set_limits(stage)
    with pytest.raises(NoPriceLimit):
        stage.submit("a cat", idempotency_key="k")
    set_limits(stage, Limit(None, None, None))
    assert stage.submit("a dog", idempotency_key="k").state == "queued"


def test_gateways_have_keys_of_their_own(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        other = accounts.create_gateway(session, "other", "USD")
        accounts.top_up(session, other.id, FUNDS, "other")
        limits.set_limit(session, other.id, Limit(None, None, None), "USD")
    first = stage.submit("a cat", idempotency_key="k")
    assert replace(stage, gateway_id=other.id).submit("a dog", idempotency_key="k").id != first.id


@pytest.mark.parametrize("level", ["READ COMMITTED", "AUTOCOMMIT"])
def test_twenty_threads_with_one_key_make_one_job(stage: Stage, level: str) -> None:
    start = threading.Barrier(20)
    sessions = sessionmaker(stage.sessions.kw["bind"].execution_options(isolation_level=level))

    def submit(_: int) -> tuple[UUID, Wait | None]:
        start.wait(30)
        with sessions.begin() as session:
            job, wait = jobs.submit(session, stage.order("a cat", idempotency_key="k"))
            return job.id, wait

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(submit, range(20)))
    assert len({job_id for job_id, _ in answers}) == 1
    assert [wait for _, wait in answers].count(None) == 19
    assert (count(stage, Job), count(stage, Hold)) == (1, 1)
    assert_sound(stage.sessions)


def test_threads_submit_no_more_than_the_funds_cover(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        capability = Capability(TEXT, SMALL)
        stages.offer(session, stage.orchestrator_id, capability, unit_price("0.000244140625"))
    # One dollar each, and ten dollars to spend.
    start = threading.Barrier(15)

    def submit(number: int) -> bool:
        start.wait(30)
        try:
            stage.submit(f"cat {number}")
        except InsufficientFunds:
            return False
        return True

    with ThreadPoolExecutor(15) as pool:
        accepted = list(pool.map(submit, range(15)))
    assert accepted.count(True) == count(stage, Job) == 10
    assert stage.balance().available == 0
    assert_sound(stage.sessions)


# --- looking ----------------------------------------------------------------------------------


def test_another_gateways_job_is_not_found(stage: Stage) -> None:
    job = stage.submit("a cat")
    stranger = replace(stage, gateway_id=uuid4())
    with pytest.raises(JobNotFound):
        stranger.job(job.id)
    with pytest.raises(JobNotFound):
        stranger.cancel(job)
    assert stage.job(job.id).state == "queued"


def test_pages_are_newest_first_and_go_on_where_the_last_one_ended(stage: Stage) -> None:
    made = [stage.submit(f"cat {number}").id for number in range(5)]
    with stage.sessions.begin() as session:
        page = partial(jobs.list_jobs, session, stage.gateway_id, limit=2)
        seen = [job.id for job in page()]
        while more := page(before=seen[-1]):
            seen += [job.id for job in more]
    assert seen == made[::-1]


def test_a_place_in_the_queue_counts_those_that_go_first(stage: Stage) -> None:
    first, second = stage.submit("1"), stage.submit("2")
    urgent = stage.submit("3", priority=1)
    stage.submit("elsewhere", model_id=OTHER, priority=9)
    with stage.sessions.begin() as session:
        found = [waiting.look(session, job) for job in (urgent, first, second)]
        assert found == [Wait(place, live=False) for place in range(3)]
    stage.claim(most=1)
    with stage.sessions.begin() as session:
        assert waiting.look(session, stage.job(urgent.id)) is None
        workers.heartbeat(session, "w", stage.orchestrator_id, [second.queue], [])
        assert waiting.look(session, second) == Wait(1, live=True)
