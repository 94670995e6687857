"""The keys by which an orchestrator's workers prove whose they are.

A key serves all of an orchestrator's offers and nothing else; what a key looks like is `keys`'
word. The caller owns the transaction.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from ledger import names
from ledger.tables import Orchestrator
from tasks import keys
from tasks.errors import NotRegistered, UnknownOrchestratorKey
from tasks.tables import OrchestratorKey

_PREFIX = "po"


def create_key(session: Session, orchestrator_id: UUID, name: str) -> tuple[OrchestratorKey, str]:
    """Make a key; returns its row, and the key itself, which cannot be had again.

    Raises:
        InvalidName: The name is empty, too long or has unprintable characters.
    """
    key = keys.make()
    row = OrchestratorKey(
        id=key.id,
        orchestrator_id=orchestrator_id,
        name=names.checked("name", name),
        secret_hash=key.secret_hash,
    )
    session.add(row)
    session.flush()
    return row, key.written(_PREFIX)


def list_keys(session: Session, orchestrator_id: UUID) -> list[OrchestratorKey]:
    """Return an orchestrator's keys, revoked ones too, newest first."""
    rows = select(OrchestratorKey).where(OrchestratorKey.orchestrator_id == orchestrator_id)
    newest_first = rows.order_by(OrchestratorKey.created_at.desc(), OrchestratorKey.id)
    return list(session.scalars(newest_first))


def revoke_key(session: Session, orchestrator_id: UUID, key_id: str) -> OrchestratorKey:
    """Revoke a key: workers that registered with it end at their next heartbeat. Twice is no error.

    Raises:
        UnknownOrchestratorKey: The orchestrator has no such key.
    """
    if not keys.can_be(key_id):
        raise UnknownOrchestratorKey(key_id)
    row: OrchestratorKey | None = session.scalar(
        update(OrchestratorKey)
        .where(OrchestratorKey.id == key_id, OrchestratorKey.orchestrator_id == orchestrator_id)
        .values(revoked_at=func.coalesce(OrchestratorKey.revoked_at, func.now()))
        .returning(OrchestratorKey)
    )
    if row is None:
        raise UnknownOrchestratorKey(key_id)
    return row


def authenticate(session: Session, key: str) -> Orchestrator:
    """Return the orchestrator whose key this is.

    Raises:
        NotRegistered: There is no key, or it is malformed, unknown or revoked.
    """
    if not key:
        raise NotRegistered("A worker needs a key of its orchestrator.")
    given = keys.read(_PREFIX, key)
    if given is None:
        raise NotRegistered("This is not an orchestrator's key, which begins with po_.")
    row = session.get(OrchestratorKey, given.id)
    known = given.opens(row.secret_hash if row else None)
    if row is None or not known or row.revoked_at is not None:
        raise NotRegistered("This orchestrator's key is unknown or revoked.")
    return session.get_one(Orchestrator, row.orchestrator_id)
