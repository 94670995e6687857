"""The commands about budgets: what a gateway, or one of its API keys, may spend."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy.orm import Session

from api import auth
from api.errors import UnknownKey
from ledger import accounts, budgets
from ledger.tables import Gateway
from pixeltoll.commands.common import SIGNED, Amount, GatewayName, books
from pixeltoll.console import show_all, tell
from pixeltoll.errors import BadArgument
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir

budget_app = typer.Typer(no_args_is_help=True, help="What may be spent in a day or a month.")

Period = Annotated[str, typer.Argument(metavar="PERIOD", help="day or month, of UTC.")]
Key = Annotated[
    str | None, typer.Option("--key", help="For what this API key spends, by the key's id.")
]
_COLUMNS = ("period", "api_key_id", "amount", "used", "remaining", "currency", "starts")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(budget_app, name="budget")


@budget_app.command("set", context_settings=SIGNED)
def set_budget(
    gateway: GatewayName,
    period: Period,
    amount: Amount,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Set what a gateway may spend in a period, in place of an earlier budget for it."""
    with books(data_dir) as session:
        owner = _owner(session, gateway, key)
        budgets.set_budget(session, owner.id, period, amount, key)
        rows = _rows(session, owner)
    show_all(_COLUMNS, rows, as_json=as_json)


@budget_app.command("list")
def list_budgets(
    gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List a gateway's budgets, and what is used of them in the period that began then."""
    with books(data_dir) as session:
        rows = _rows(session, accounts.find_gateway(session, gateway))
    show_all(_COLUMNS, rows, as_json=as_json)


@budget_app.command("remove")
def remove_budget(
    gateway: GatewayName,
    period: Period,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Take a budget away: spending is bounded by the balance again, and by the other budgets."""
    with books(data_dir) as session:
        owner = _owner(session, gateway, key)
        if not budgets.remove_budget(session, owner.id, period, key):
            whose = f"API key {key}" if key else gateway
            message = f"period: there is no budget of {whose} by {period}."
            raise BadArgument(message)
    whose = f"API key {key} of {gateway}" if key else gateway
    facts = {"gateway": gateway, "period": period, "api_key_id": key, "removed": True}
    tell(f"The budget of {whose} by {period} is removed.", facts, as_json=as_json)


def _owner(session: Session, gateway: str, key: str | None) -> Gateway:
    """Return the gateway, whose own the key must be: to the ledger, a key is only a name.

    Raises:
        UnknownGateway: There is no such gateway.
        UnknownKey: The gateway has no such key.
    """
    owner = accounts.find_gateway(session, gateway)
    if key is not None and key not in {known.id for known in auth.list_keys(session, owner.id)}:
        raise UnknownKey(key)
    return owner


def _rows(session: Session, owner: Gateway) -> list[dict[str, object]]:
    return [vars(status) for status in budgets.list_budgets(session, owner.id)]
