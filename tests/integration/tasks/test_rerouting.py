"""Jobs of an orchestrator that has gone silent: they run elsewhere, for no more than was held."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from ledger import accounts, budgets, limits, rates
from ledger.limits import Limit
from ledger.money import UnitPrice, unit_price
from ledger.offers import Capability
from ledger.tables import Hold
from tasks import claims, rerouting, sweeps, workers
from tasks import jobs as tasks_jobs
from tasks.jobs import Bell
from tasks.rerouting import Rerouter
from tasks.results import Task
from tasks.routing import DEFAULT_WEIGHTS
from tasks.scheduler import Sweeper
from tasks.storage import ObjectStore
from tasks.tables import Job
from tests import stage as stages
from tests.databases import as_owner
from tests.fakes import FakeEngine
from tests.invariants import assert_sound
from tests.stage import OTHER, OWNER, PRICE, SMALL, TEXT, Stage, queue

AFTER_S = 60.0
CHEAPER, DEARER = unit_price("1e-08"), unit_price("3e-08")
IN_ETHER = unit_price("1e-11", 1, "ETH")


def join(stage: Stage, name: str, price: UnitPrice = CHEAPER, speed: float = 1e6) -> UUID:
    """Let another orchestrator offer the capability, with a live worker."""
    with stage.sessions.begin() as session:
        owner = accounts.create_orchestrator(session, name, "USD", Decimal("0.20"))
        stages.offer(session, owner.id, Capability(TEXT, SMALL), price)
    to = queue(owner=name)
    stage.heartbeat(name, owner=owner.id, queues=[to], loaded=[SMALL], speeds={to: speed})
    return owner.id


def strand(stage: Stage, count: int = 1, **asked: object) -> list[Job]:
    """Queue jobs for the only orchestrator there is, as if a good while ago."""
    made = [stage.submit(f"cat {number}", **asked) for number in range(count)]
    stage.execute("UPDATE jobs SET created_at = created_at - interval '2 minutes'")
    return made


def rerouter(stage: Stage) -> Rerouter:
    return Rerouter(stage.sessions, AFTER_S, DEFAULT_WEIGHTS, timedelta(days=1))


def rerouted(stage: Stage) -> list[Bell]:
    return rerouter(stage).reroute()


def owner_of(stage: Stage, job: Job) -> str:
    return stage.job(job.id).orchestrator.name


def test_jobs_of_a_silent_orchestrator_run_at_another_for_its_price(
    stage: Stage, store: ObjectStore
) -> None:
    stage.heartbeat(queues=[queue()], loaded=[SMALL])
    north = join(stage, "north", DEARER)
    jobs = [stage.submit(f"cat {number}") for number in range(2)]
    assert {owner_of(stage, job) for job in jobs} == {OWNER, "north"}
    [stranded] = [job for job in jobs if owner_of(stage, job) == "north"]

    stage.execute("UPDATE jobs SET created_at = created_at - interval '2 minutes'")
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '61 s' WHERE id = 'north'")
    rung: list[Bell] = []
    Sweeper(stage.sessions, store, rung.append, stage.settings).reroute()

    moved = stage.job(stranded.id)
    assert rung == [Bell(stranded.id, queue(), SMALL)]
    assert (moved.queue, moved.orchestrator.name, moved.state) == (queue(), OWNER, "queued")
    assert moved.hold.price == PRICE
    assert moved.hold.supersedes == stranded.hold_id
    runner, _ = stage.runner(FakeEngine(), store)
    runner.serve()
    assert stage.states(jobs) == ["succeeded", "succeeded"]
    query = "SELECT amount FROM billing_charges WHERE job_id = :id"
    assert stage.scalar(query, id=str(stranded.id)) == moved.hold.amount
    assert moved.hold.amount < stranded.hold.amount
    with stage.sessions.begin() as session:
        assert accounts.owed(session, north) == 0
    assert_sound(stage.sessions, store)


def test_a_task_of_an_orchestrators_runtime_stays_with_it(stage: Stage) -> None:
    task = Task("t-1", "sdruntime", "bucket", "tasks/t-1", orchestrator=OWNER)
    free = Task("t-2", "sdruntime", "bucket", "tasks/t-2")
    bound, other = (strand(stage, callback={"task": one.to_json()})[0] for one in (task, free))
    join(stage, "north")
    assert [bell.job_id for bell in rerouted(stage)] == [other.id]
    assert owner_of(stage, bound) == OWNER


def test_a_queue_is_silent_only_after_a_while(stage: Stage) -> None:
    [job] = strand(stage)
    stage.heartbeat(queues=[queue()])
    join(stage, "north")
    assert rerouted(stage) == [], "it is served"
    with stage.sessions.begin() as session:
        workers.leave(session, "w", is_done=True)
    assert rerouted(stage) == [], "it was served a moment ago"
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '59 s' WHERE id = 'w'")
    assert rerouted(stage) == []
    stage.execute("UPDATE workers SET heartbeat_at = now() - interval '61 s' WHERE id = 'w'")
    assert [bell.job_id for bell in rerouted(stage)] == [job.id]
    assert rerouted(stage) == [], "it is where somebody lives now"


def test_a_job_waits_for_a_queue_that_was_never_served_too(stage: Stage) -> None:
    job = stage.submit("just now")
    join(stage, "north")
    assert rerouted(stage) == []
    stage.execute("UPDATE jobs SET created_at = created_at - interval '61 s'")
    assert [bell.job_id for bell in rerouted(stage)] == [job.id]


def test_a_running_job_and_one_of_another_model_stay(stage: Stage) -> None:
    strand(stage)
    stage.claim()
    [other] = strand(stage, model_id=OTHER)
    join(stage, "north")
    assert rerouted(stage) == []
    assert owner_of(stage, other) == OWNER


@pytest.mark.parametrize("why", ["dearer", "silent", "withdrawn"])
def test_where_nobody_better_lives_a_job_stays(stage: Stage, why: str) -> None:
    [job] = strand(stage)
    join(stage, "north", DEARER if why == "dearer" else CHEAPER)
    if why == "silent":
        stage.execute("UPDATE workers SET heartbeat_at = now() - interval '16 s'")
    if why == "withdrawn":
        stage.execute(
            """INSERT INTO offers (orchestrator_id, pipeline, model_id, price_per_unit,
                                   pixels_per_unit, currency, withdrawn)
               SELECT orchestrator_id, pipeline, model_id, price_per_unit, pixels_per_unit,
                      currency, true FROM offers ORDER BY id DESC LIMIT 1"""
        )
    assert rerouted(stage) == []
    assert stage.job(job.id).hold_id == job.hold_id


def strand_under(stage: Stage, price: UnitPrice) -> Job:
    """Strand a job that was held under a limit, and lift the limit."""
    with stage.sessions.begin() as session:
        limits.replace_limits(session, stage.gateway_id, [Limit(None, None, price)], "USD")
    [job] = strand(stage)
    with stage.sessions.begin() as session:
        limits.replace_limits(session, stage.gateway_id, [Limit(None, None, None)], "USD")
    return job


def test_the_limit_that_the_hold_recorded_stands(stage: Stage) -> None:
    """The price is not above what is held, which was for a dearer offer, but above the limit."""
    job = strand_under(stage, PRICE)
    join(stage, "dear", DEARER)
    assert rerouted(stage) == []
    join(stage, "same", PRICE)
    assert [bell.job_id for bell in rerouted(stage)] == [job.id]
    assert stage.hold(stage.job(job.id)).limit_price == PRICE


def test_the_limit_that_the_hold_recorded_may_be_in_another_currency_than_todays(
    stage: Stage,
) -> None:
    """By 2,000 USD for one ETH, the limit is between the prices."""
    with stage.sessions.begin() as session:
        rates.set_rate(session, "ETH", "USD", "2000", "a test")
    job = strand_under(stage, IN_ETHER)
    join(stage, "dear", DEARER)
    assert rerouted(stage) == []
    join(stage, "north")
    assert [bell.job_id for bell in rerouted(stage)] == [job.id]
    assert stage.hold(stage.job(job.id)).limit_price == IN_ETHER
    assert_sound(stage.sessions)


def test_a_job_stays_while_the_rate_of_its_limit_is_too_old(stage: Stage) -> None:
    with stage.sessions.begin() as session:
        rates.set_rate(session, "ETH", "USD", "2000", "a test")
    job = strand_under(stage, IN_ETHER)
    join(stage, "north")
    with capture_logs() as said:
        bells = Rerouter(stage.sessions, AFTER_S, DEFAULT_WEIGHTS, timedelta(0)).reroute()
    assert bells == []
    [line] = said
    assert (line["event"], line["log_level"]) == ("job_stays", "info")
    assert "exchange rate from ETH to USD" in line["why"]
    assert owner_of(stage, job) == OWNER


def test_an_offer_that_costs_more_than_any_amount_is_in_nobodys_way(stage: Stage) -> None:
    [job] = strand(stage)
    join(stage, "absurd", unit_price("99999999999999999999"))
    join(stage, "north")
    assert [bell.job_id for bell in rerouted(stage)] == [job.id]
    assert owner_of(stage, job) == "north"


def test_a_budget_of_another_day_may_keep_a_job(stage: Stage) -> None:
    [job] = strand(stage)
    with as_owner(stage.sessions) as session:
        session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
        session.connection().exec_driver_sql(
            "UPDATE holds SET created_at = created_at - interval '1 day'"
        )
    with stage.sessions.begin() as session:
        budgets.set_budget(session, stage.gateway_id, "day", "0.000000001")
    join(stage, "north")
    assert rerouted(stage) == []
    assert owner_of(stage, job) == OWNER
    with stage.sessions.begin() as session:
        budgets.set_budget(session, stage.gateway_id, "day", "1")
    assert [bell.job_id for bell in rerouted(stage)] == [job.id]
    assert_sound(stage.sessions)


def test_a_queue_is_shared_out_by_speed_page_by_page(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerouting, "_PAGE", 4)
    jobs = strand(stage, 7)
    [urgent] = strand(stage, priority=5)
    join(stage, "fast", speed=3e6)
    join(stage, "slow", speed=1e6)
    sweeps = rerouter(stage)
    first = sweeps.reroute()
    assert first[0].job_id == urgent.id
    assert [len(first), len(sweeps.reroute()), len(sweeps.reroute())] == [4, 4, 0]
    assert Counter(owner_of(stage, job) for job in [urgent, *jobs]) == {"fast": 6, "slow": 2}
    assert_sound(stage.sessions)


def test_jobs_with_nowhere_to_go_keep_no_others_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerouting, "_PAGE", 2)
    jobs = strand(stage, 5)
    stage.execute("UPDATE jobs SET created_at = now() WHERE id = :id", id=jobs[0].id)
    join(stage, "north", DEARER)
    sweeps = rerouter(stage)
    assert [sweeps.reroute() for _ in range(2)] == [[], []], "two pages of jobs that must stay"
    with stage.sessions.begin() as session:
        owner = accounts.find_orchestrator(session, "north")
        stages.offer(session, owner.id, Capability(TEXT, SMALL), CHEAPER)
    assert [bell.job_id for bell in sweeps.reroute()] == [jobs[4].id]
    assert [len(sweeps.reroute()) for _ in range(3)] == [1, 2, 0]


def test_a_job_that_is_claimed_meanwhile_stays(stage: Stage) -> None:
    [job] = strand(stage)
    join(stage, "north")
    with stage.sessions.begin() as session:
        assert claims.claim(session, queue(), "w", 4, 30)
        assert rerouted(stage) == [], "it is locked"
    assert rerouted(stage) == [], "it runs"
    assert stage.job(job.id).hold_id == job.hold_id


def test_a_job_that_is_canceled_or_overdue_meanwhile_does_not_move(stage: Stage) -> None:
    canceled, overdue = strand(stage, 2)
    join(stage, "north")
    with stage.sessions.begin() as session:
        tasks_jobs.cancel(session, stage.gateway_id, canceled.id)
        session.execute(update(Job).where(Job.id == overdue.id).values(deadline=Job.created_at))
        assert sweeps.expire_overdue(session) == 1
        assert rerouted(stage) == [], "they are locked"
    assert rerouted(stage) == []
    assert stage.states([canceled, overdue]) == ["canceled", "expired"]
    assert stage.balance().available == stages.FUNDS
    assert_sound(stage.sessions)


def test_a_job_that_has_moved_is_canceled_and_expires_as_any_other(stage: Stage) -> None:
    canceled, overdue = strand(stage, 2)
    join(stage, "north")
    assert len(rerouted(stage)) == 2
    stage.cancel(canceled)
    stage.execute("UPDATE jobs SET deadline = created_at WHERE id = :id", id=overdue.id)
    with stage.sessions.begin() as session:
        assert sweeps.expire_overdue(session) == 1
    assert stage.balance().available == stages.FUNDS
    assert stage.balance().held == 0
    assert_sound(stage.sessions)


def test_moves_claims_and_cancelations_at_once_leave_each_job_one_hold(stage: Stage) -> None:
    """Whoever comes first to a job has it, and nobody waits in a circle."""
    jobs = strand(stage, 24)
    join(stage, "north")
    gate = threading.Barrier(4)

    def take() -> None:
        with stage.sessions.begin() as session:
            claims.claim(session, queue(), "w", 6, 30)

    def cancel() -> None:
        for job in jobs[::-2]:
            stage.cancel(job)

    def together(act: Callable[[], object]) -> None:
        gate.wait()
        act()

    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(together, act)
            for act in (lambda: rerouted(stage), lambda: rerouted(stage), take, cancel)
        ]
        for one in done:
            one.result()

    states = Counter(stage.states(jobs))
    assert states["canceled"] == 12
    assert states["running"] + states["queued"] == 12
    open_holds = "SELECT count(*) FROM holds WHERE state = 'open'"
    assert stage.scalar(open_holds) == 12
    assert_sound(stage.sessions)


@pytest.mark.parametrize("refused_by", ["the ledger", "the database"])
def test_what_the_books_refuse_to_one_job_is_no_matter_to_the_others(
    stage: Stage, refused_by: str
) -> None:
    jobs = strand(stage, 3)
    if refused_by == "the ledger":
        stage.execute("UPDATE jobs SET units = units - 1 WHERE id = :id", id=jobs[1].id)
    else:
        with as_owner(stage.sessions) as session:
            session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
            other = update(Hold).where(Hold.id == jobs[1].hold_id).values(pipeline="another")
            session.execute(other)
    join(stage, "north")
    assert [bell.job_id for bell in rerouted(stage)] == [jobs[0].id, jobs[2].id]
