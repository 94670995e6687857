"""The shape of a key: how it is made, read, hashed and compared. Pure but for the randomness.

A key reads `<prefix>_<id>_<secret><checksum>`. The id finds its row; of the secret, 256 random
bits, only the SHA-256 is stored, which is enough because nobody can guess it. The checksum lets a
scanner of leaked secrets, and `read`, tell a key from a typing error without asking a database.
Whose a key is, and what it opens, is for `tasks.registration` and the API to say.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_CHARS = string.digits + string.ascii_lowercase
_ID_LENGTH = 12
_ID = f"[{_ID_CHARS}]{{{_ID_LENGTH}}}"
_SECRET_CHARS = 43  # 256 bits
_CHECKSUM_CHARS = 6  # 32 bits
_KEY = re.compile(
    rf"([a-z]+)_({_ID})_([0-9A-Za-z]{{{_SECRET_CHARS}}})([0-9A-Za-z]{{{_CHECKSUM_CHARS}}})",
    re.ASCII,
)
# Compared with when there is no such key, so that an answer takes the same time.
_NOBODY = bytes(32)


@dataclass(frozen=True)
class Key:
    """A key's public id, and the secret that it is known by."""

    id: str
    secret: str

    @property
    def secret_hash(self) -> bytes:
        """What is stored of the secret."""
        return digest(self.secret)

    def written(self, prefix: str) -> str:
        """Return the key as its owner keeps it."""
        return f"{prefix}_{self.id}_{self.secret}{_checksum(self.id, self.secret)}"

    def opens(self, secret_hash: bytes | None) -> bool:
        """Tell, in a time that says nothing, whether the stored hash is this secret's."""
        return same(_NOBODY if secret_hash is None else secret_hash, self.secret_hash)


def make() -> Key:
    """Return a new key."""
    key_id = "".join(secrets.choice(_ID_CHARS) for _ in range(_ID_LENGTH))
    return Key(key_id, _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_CHARS))


def can_be(key_id: str) -> bool:
    """Tell whether a key can have this id: PostgreSQL refuses to compare some texts at all."""
    return re.fullmatch(_ID, key_id) is not None


def read(prefix: str, key: str) -> Key | None:
    """Return the parts of a written key, or None where it is none of this prefix."""
    found = _KEY.fullmatch(key)
    if found is None or found[1] != prefix:
        return None
    checksum = _checksum(found[2], found[3])
    return Key(found[2], found[3]) if same(found[4].encode(), checksum.encode()) else None


def digest(secret: str) -> bytes:
    """Return the hash that is stored in place of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def same(one: bytes, other: bytes) -> bool:
    """Compare in a time that says nothing of where they differ."""
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
