"""The commands that move a gateway's money by hand: topping up, and giving back."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import accounts, money, refunds
from ledger.tables import Charge
from pixeltoll.commands.common import SIGNED, Amount, GatewayName, books
from pixeltoll.console import show
from pixeltoll.errors import BadArgument
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from tasks.errors import JobNotFound
from tasks.tables import Job


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.command("top-up", context_settings=SIGNED)(top_up)
    app.command("refund", context_settings=SIGNED)(refund)


def top_up(
    gateway: GatewayName,
    amount: Amount,
    reference: Annotated[
        str, typer.Option(help="The payment's own number: the same one again adds nothing.")
    ] = "",
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Add funds to a gateway."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        accounts.top_up(session, owner.id, money.amount(amount), reference or str(uuid4()))
        show(vars(accounts.balance(session, owner.id)), as_json=as_json)


def refund(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job that was charged.")],
    amount: Amount,
    reference: Annotated[
        str, typer.Option(help="The refund's own number: the same one again gives back nothing.")
    ],
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Give back a part of what a job was charged, or all of it."""
    exact = money.amount(amount)
    with books(data_dir) as session:
        hold_id = _hold_of(session, job_id)
        refunds.refund(session, hold_id, exact, reference)
        charge = session.scalars(select(Charge).where(Charge.hold_id == hold_id)).one()
        facts = {"job_id": job_id, "reference": reference, "amount": exact}
        state = {"charged": charge.amount, "refunded": charge.refunded}
        show({**facts, **state, "currency": charge.currency}, as_json=as_json)


def _hold_of(session: Session, job_id: str) -> UUID:
    try:
        number = UUID(job_id)
    except ValueError:
        message = f"job_id: {job_id!r} is not a job's id."
        raise BadArgument(message) from None
    hold_id = session.scalar(select(Job.hold_id).where(Job.id == number))
    if hold_id is None:
        raise JobNotFound(number)
    return hold_id
