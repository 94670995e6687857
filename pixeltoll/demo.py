"""Two jobs through a running stack, as a client sees them; then what they cost, as the books say.

Whatever is not as it should be ends the demo with an error: a job, or a sum by its last decimal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from ledger import accounts, db, reports
from ledger.money import EXACT, plain, unit_price
from pixeltoll.bootstrap import DEMO
from pixeltoll.client import Client, Facts, body_of
from pixeltoll.console import bars, say
from pixeltoll.errors import DemoFailed
from pixeltoll.stack import Stack

_JOB_TIMEOUT_S = 180.0
_TEXT_TO_IMAGE = {
    "pipeline": "text-to-image",
    "model_id": "pixeltoll/shapes",
    "prompt": "a red heart on a white background",
    "num_images_per_prompt": 2,
    "seed": 7,
}
_IMAGE_TO_IMAGE = {
    "pipeline": "image-to-image",
    "model_id": "pixeltoll/shapes-edit",
    "prompt": "make it blue",
    "seed": 7,
}


@dataclass(frozen=True)
class _Books:
    """What the ledger says at one moment."""

    gateway: Decimal
    held: Decimal
    orchestrator: Decimal


def run(stack: Stack, output: Path) -> None:
    """Run the two jobs, save their pictures, and show and check the sums.

    Raises:
        DemoFailed: A job did not end well, or a sum is off.
        Refused, NotReached, NotWritten: As `Client`.
    """
    connection = stack.connection
    engine = db.make_engine(connection.database_url, pool_size=2)
    sessions = db.session_factory(engine)
    before = _books(sessions)
    with Client(connection.url, connection.api_key) as client:
        first = _finish(stack, client, client.post("/v1/jobs", json=_TEXT_TO_IMAGE))
        pictures = _save(client, first, output)
        edit = body_of(_IMAGE_TO_IMAGE, str(pictures[0]))
        second = _finish(stack, client, client.post("/v1/jobs", **edit))
        _save(client, second, output)
    after = _books(sessions)
    for job in (first, second):
        _show_job(job)
    _show_books(before, after, [first, second])
    _show_trial_balance(sessions)
    engine.dispose()


def _finish(stack: Stack, client: Client, job: Facts) -> Facts:
    """Follow a job to its end and return it."""
    give_up_at = time.monotonic() + _JOB_TIMEOUT_S
    with bars(as_json=False) as shown:
        bar = shown.add_task(_doing(job), total=1.0)
        for now in client.watch(job):
            shown.update(bar, completed=now["progress"], description=_doing(now))
            stack.tend()
            if time.monotonic() > give_up_at:
                message = f"Job {job['id']} is still {now['state']} after {_JOB_TIMEOUT_S:g} s."
                raise DemoFailed(message)
            job = now
    if job["state"] != "succeeded":
        message = f"Job {job['id']} {job['state']}: {job['error']}"
        raise DemoFailed(message)
    return job


def _doing(job: Facts) -> str:
    return f"{job['pipeline']:<15} {job['state']:<10}"


def _save(client: Client, job: Facts, output: Path) -> list[Path]:
    saved = client.save(job, output, job["pipeline"])
    for path, picture in zip(saved, job["outputs"], strict=True):
        say(f"saved {path} ({picture['width']} x {picture['height']}, seed {picture['seed']})")
    return saved


def _books(sessions: sessionmaker[Session]) -> _Books:
    with sessions.begin() as session:
        balance = accounts.balance(session, accounts.find_gateway(session, DEMO).id)
        owed = accounts.owed(session, accounts.find_orchestrator(session, DEMO).id)
    return _Books(balance.available, balance.held, owed)


def _show_job(job: Facts) -> None:
    price = unit_price(job["price_per_unit"], job["pixels_per_unit"], job["currency"])
    say(f"""
{job["pipeline"]} with {job["model_id"]}
  units            {job["units"]} pixels
  price            {price}
  amount           {job["amount"]} {job["currency"]}""")
    if Fraction(job["amount"]) != job["units"] * price.fraction:
        message = f"{job['units']} pixels at {price} are not {job['amount']}."
        raise DemoFailed(message)


def _show_books(before: _Books, after: _Books, jobs: list[Facts]) -> None:
    spent = EXACT.subtract(before.gateway, after.gateway)
    earned = EXACT.subtract(after.orchestrator, before.orchestrator)
    say(f"""
gateway {DEMO}
  balance before   {plain(before.gateway)}
  balance after    {plain(after.gateway)}
  spent            {plain(spent)}
orchestrator {DEMO}
  earned           {plain(earned)}
  platform's fee   {plain(EXACT.subtract(spent, earned))}""")
    if spent != _sum(Decimal(job["amount"]) for job in jobs) or after.held != before.held:
        message = "The gateway's balance did not fall by exactly the two amounts."
        raise DemoFailed(message)
    if not 0 < earned <= spent:
        message = "The orchestrator did not earn its part of the two amounts."
        raise DemoFailed(message)


def _show_trial_balance(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        rows = reports.rows(session, "trial-balance")
    say("\ntrial balance")
    for row in rows:
        say(f"  {row['account']:<15}  {plain(row['balance'])} {row['currency']}")
    total = _sum(row["balance"] for row in rows)
    say(f"  {'sum':<15}  {plain(total)}")
    if total != 0:
        message = f"The trial balance is {total}, not zero."
        raise DemoFailed(message)


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, amounts, Decimal(0))
