"""API keys: making, checking, listing and revoking them; and the admin key.

What a key looks like, and what is stored of it, is `tasks.keys`' word.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from api.errors import AdminDisabled, NotAuthenticated, UnknownKey
from api.tables import ApiKey
from ledger import names
from ledger.direct import Direct
from tasks import keys

_PREFIX = "px"
_FIND = Direct(
    select(ApiKey.gateway_id, ApiKey.secret_hash, ApiKey.revoked_at).where(
        ApiKey.id == bindparam("key_id")
    )
)
# How long a key that opened is taken to open still. Long enough for those who ask all the time.
KEPT_S = 1.0
# Far more than ask within that time.
_MOST_KEPT = 10_000
_WELL_FORMED = "Send one as `Authorization: Bearer px_...`."


@dataclass(frozen=True)
class Caller:
    """Who sends a request: a gateway, by one of its keys."""

    gateway_id: UUID
    api_key_id: str


def create_key(session: Session, gateway_id: UUID, name: str) -> tuple[ApiKey, str]:
    """Make a key for a gateway; returns its row, and the key itself, which cannot be had again.

    Raises:
        InvalidName: The name is empty, too long or has unprintable characters.
    """
    key = keys.make()
    row = ApiKey(
        id=key.id,
        gateway_id=gateway_id,
        name=names.checked("name", name),
        secret_hash=key.secret_hash,
    )
    session.add(row)
    session.flush()
    return row, key.written(_PREFIX)


def list_keys(session: Session, gateway_id: UUID) -> list[ApiKey]:
    """Return a gateway's keys, revoked ones too, newest first."""
    rows = select(ApiKey).where(ApiKey.gateway_id == gateway_id)
    return list(session.scalars(rows.order_by(ApiKey.created_at.desc(), ApiKey.id)))


def revoke_key(session: Session, gateway_id: UUID, key_id: str) -> ApiKey:
    """Revoke a gateway's key: what asks the database then finds it closed. Twice is no error.

    Raises:
        UnknownKey: The gateway has no such key.
    """
    if not keys.can_be(key_id):
        raise UnknownKey(key_id)
    row: ApiKey | None = session.scalar(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.gateway_id == gateway_id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
        .returning(ApiKey)
    )
    if row is None:
        raise UnknownKey(key_id)
    return row


def authenticate(reads: sessionmaker[Session], authorization: str | None) -> Caller:
    """Return whose key an `Authorization` header carries, and which one it is.

    Raises:
        NotAuthenticated: There is no key, or it is malformed, unknown or revoked.
    """
    key = keys.read(_PREFIX, _bearer(authorization))
    if key is None:
        raise NotAuthenticated(f"This is not an API key. {_WELL_FORMED}")
    with reads() as session:
        rows = _FIND.rows(session, {"key_id": key.id})
    gateway_id, secret_hash, revoked_at = rows[0] if rows else (None, None, None)
    known = key.opens(secret_hash)
    if gateway_id is None or not known or revoked_at is not None:
        raise NotAuthenticated("This API key is unknown or revoked.")
    return Caller(gateway_id, key.id)


class Keyring:
    """The keys that have opened a moment ago, for one process, so that not every request asks.

    A key that is revoked elsewhere may open here for `KEPT_S` longer. One that does not open is
    never kept, so that a new one works at once.
    """

    def __init__(
        self, reads: sessionmaker[Session], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reads = reads
        self._clock = clock
        # By a hash, so that no key is in memory.
        self._kept: dict[bytes, tuple[Caller, float]] = {}

    def authenticate(self, authorization: str | None) -> Caller:
        """Return whose key a header carries, as `authenticate` says or has said.

        Raises:
            NotAuthenticated: As `authenticate`.
        """
        digest = keys.digest(authorization or "")
        caller, until = self._kept.get(digest, (None, 0.0))
        if caller is None or self._clock() >= until:
            self._kept.pop(digest, None)
            asked_at = self._clock()
            caller = authenticate(self._reads, authorization)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[digest] = caller, asked_at + KEPT_S
        return caller

    def forget(self, key_id: str) -> None:
        """Ask again for a key, which was revoked by this process."""
        for digest, (caller, _) in list(self._kept.items()):
            if caller.api_key_id == key_id:
                self._kept.pop(digest, None)


def from_basic(authorization: str | None) -> str | None:
    """Return a header of HTTP Basic, whose password is a key, as a bearer's; others as they are."""
    scheme, _, words = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        _, _, password = base64.b64decode(words.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "Bearer"
    return f"Bearer {password}"


def authenticate_admin(admin_key: str, authorization: str | None) -> None:
    """Return if an `Authorization` header carries the admin key.

    Raises:
        AdminDisabled: No admin key is set.
        NotAuthenticated: It does not.
    """
    if not admin_key:
        raise AdminDisabled
    # Hashed first: then the comparison says nothing about the length either.
    if not keys.same(keys.digest(_bearer(authorization)), keys.digest(admin_key)):
        raise NotAuthenticated("This is not the admin key.")


def authenticate_metrics(metrics_key: str, authorization: str | None) -> None:
    """Return if an `Authorization` header carries the key that Prometheus has.

    Raises:
        NotAuthenticated: It does not.
    """
    if not keys.same(keys.digest(_bearer(authorization)), keys.digest(metrics_key)):
        raise NotAuthenticated("This is not the metrics key.")


def _bearer(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise NotAuthenticated(f"This needs an API key. {_WELL_FORMED}")
    return key.strip()
