"""Whom an address speaks of: a gateway or an orchestrator by id or name, a gateway's key."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from api import auth
from api.errors import UnknownKey
from api.tables import ApiKey
from ledger import accounts
from ledger.errors import UnknownGateway, UnknownOrchestrator
from ledger.tables import Gateway, Orchestrator


def find_gateway(session: Session, name: str) -> Gateway:
    """Return a gateway by its id or name.

    Raises:
        UnknownGateway: There is none.
    """
    return accounts.find_gateway(session, _id_or_name(name, UnknownGateway(name)))


def find_orchestrator(session: Session, name: str) -> Orchestrator:
    """Return an orchestrator by its id or name.

    Raises:
        UnknownOrchestrator: There is none.
    """
    return accounts.find_orchestrator(session, _id_or_name(name, UnknownOrchestrator(name)))


def find_key(session: Session, gateway_id: UUID, key_id: str) -> ApiKey:
    """Return a gateway's API key, which may be revoked.

    Raises:
        UnknownKey: The gateway has no such key.
    """
    for row in auth.list_keys(session, gateway_id):
        if row.id == key_id:
            return row
    raise UnknownKey(key_id)


def _id_or_name(text: str, unknown: Exception) -> UUID | str:
    try:
        return UUID(text)
    except ValueError:
        if not text.isprintable():  # PostgreSQL would not even compare it
            raise unknown from None
        return text
