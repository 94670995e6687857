"""Signatures of the Standard Webhooks specification, version v1: HMAC-SHA256. Pure.

https://www.standardwebhooks.com says how a receiver verifies them; there are libraries for that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def make_secret() -> str:
    """Return a new secret, as its receiver keeps it."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def headers(message_id: str, timestamp: int, body: bytes, known: Sequence[str]) -> dict[str, str]:
    """Return the headers of a message, signed with each of the secrets that a receiver may know."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in known),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
