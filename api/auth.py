"""API keys: making, checking, listing and revoking them; and the admin key.

A key reads `px_<id>_<secret><checksum>`. The id finds its row; of the secret, 256 random bits, only
the SHA-256 is stored, which is enough because nobody can guess it. The checksum lets a scanner of
leaked secrets, and this module, tell a key from a typing error without asking a database.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from api.errors import AdminDisabled, NotAuthenticated, UnknownKey
from api.tables import ApiKey

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_CHARS = string.digits + string.ascii_lowercase
_ID_LENGTH = 12
_SECRET_CHARS = 43  # 256 bits
_CHECKSUM_CHARS = 6  # 32 bits
_KEY = re.compile(
    rf"px_([0-9a-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})([0-9A-Za-z]{{{_CHECKSUM_CHARS}}})",
    re.ASCII,
)
# Compared with when there is no such key, so that an answer takes the same time.
_NOBODY = bytes(32)
# Built once: it runs with every request.
_FIND = select(ApiKey.gateway_id, ApiKey.secret_hash, ApiKey.revoked_at).where(
    ApiKey.id == bindparam("key_id")
)
_WELL_FORMED = "Send one as `Authorization: Bearer px_...`."


@dataclass(frozen=True)
class Caller:
    """Who sends a request: a gateway, by one of its keys."""

    gateway_id: UUID
    api_key_id: str


def create_key(session: Session, gateway_id: UUID, name: str) -> tuple[ApiKey, str]:
    """Make a key for a gateway; returns its row, and the key itself, which cannot be had again."""
    key_id = "".join(secrets.choice(_ID_CHARS) for _ in range(_ID_LENGTH))
    secret = _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_CHARS)
    row = ApiKey(id=key_id, gateway_id=gateway_id, name=name, secret_hash=_hash(secret))
    session.add(row)
    session.flush()
    return row, f"px_{key_id}_{secret}{_checksum(key_id, secret)}"


def list_keys(session: Session, gateway_id: UUID) -> list[ApiKey]:
    """Return a gateway's keys, revoked ones too, newest first."""
    rows = select(ApiKey).where(ApiKey.gateway_id == gateway_id)
    return list(session.scalars(rows.order_by(ApiKey.created_at.desc(), ApiKey.id)))


def revoke_key(session: Session, gateway_id: UUID, key_id: str) -> ApiKey:
    """Revoke a gateway's key: once this is committed, it opens nothing. Twice is no error.

    Raises:
        UnknownKey: The gateway has no such key.
    """
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
    found = _KEY.fullmatch(_bearer(authorization))
    if found is None or not _same(found[3].encode(), _checksum(found[1], found[2]).encode()):
        raise NotAuthenticated(f"This is not an API key. {_WELL_FORMED}")
    with reads() as session:
        row = session.execute(_FIND, {"key_id": found[1]}).one_or_none()
    known = _same(row.secret_hash if row else _NOBODY, _hash(found[2]))
    if row is None or not known or row.revoked_at is not None:
        raise NotAuthenticated("This API key is unknown or revoked.")
    return Caller(row.gateway_id, found[1])


def authenticate_admin(admin_key: str, authorization: str | None) -> None:
    """Return if an `Authorization` header carries the admin key.

    Raises:
        AdminDisabled: No admin key is set.
        NotAuthenticated: It does not.
    """
    if not admin_key:
        raise AdminDisabled
    # Hashed first: then the comparison says nothing about the length either.
    if not _same(_hash(_bearer(authorization)), _hash(admin_key)):
        raise NotAuthenticated("This is not the admin key.")


def _bearer(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise NotAuthenticated(f"This needs an API key. {_WELL_FORMED}")
    return key.strip()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def _checksum(key_id: str, secret: str) -> str:
    return _base62(zlib.crc32(f"{key_id}_{secret}".encode()), _CHECKSUM_CHARS)


def _base62(number: int, length: int) -> str:
    """Write a number in `length` digits, or letters, of base 62."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
