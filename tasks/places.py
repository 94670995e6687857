"""Where a link leads, read once, and where links may lead at all. Pure.

What is read here is what is connected to: no other reading of the link takes place. Which addresses
a host may have is for `tasks.addresses` to say, once it has been resolved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import idna

from tasks import addresses
from tasks.errors import BadLink

DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_CHARS = 2048
_MAX_HOST_CHARS = 253
# Letters, digits and hyphens, as DNS has them; underscores are seen in the wild.
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True)
class Place:
    """Where a link leads: what is connected to, and what is asked for there."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The host as the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Rules:
    """Where links may lead.

    `trusted` names hosts, or hosts with a port, of the operator's own network.
    """

    ports: frozenset[int] = frozenset(DEFAULT_PORTS.values())
    trusted: frozenset[str] = frozenset()

    @classmethod
    def written(cls, ports: str, trusted: str) -> Rules:
        """Read rules that commas divide.

        Raises:
            ValueError: A port is no number.
        """
        hosts = frozenset(part.strip().lower() for part in trusted.split(",") if part.strip())
        return cls(frozenset(int(part) for part in ports.split(",") if part.strip()), hosts)

    def trusts(self, place: Place) -> bool:
        """Tell whether the operator has named a place's host."""
        return bool({place.host, f"{place.host}:{place.port}"} & self.trusted)

    def opens(self, place: Place) -> bool:
        """Tell whether a place's port may be connected to."""
        return place.port in self.ports or f"{place.host}:{place.port}" in self.trusted


def place_of(url: str, rules: Rules) -> Place:
    """Read an http or https link, which may lead to no port but those of the rules.

    Raises:
        BadLink: It is none, or may not be followed.
    """
    if len(url) > _MAX_CHARS or _FORBIDDEN.search(url):
        raise BadLink(f"A link has at most {_MAX_CHARS} characters, and no spaces among them.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadLink("This is not a link.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise BadLink("Only http and https links are followed.")
    if "@" in parts.netloc:
        raise BadLink("A link must not carry a user name or a password.")
    if not parts.hostname:
        raise BadLink("The link names no host.")
    host = _host(parts)
    number = DEFAULT_PORTS[parts.scheme] if port is None else port
    place = Place(parts.scheme, host, number, _target(parts))
    if not rules.opens(place):
        raise BadLink(f"Links to port {place.port} are not followed.")
    return place


def _host(parts: SplitResult) -> str:
    """Return the host as DNS has it, in one spelling only."""
    name = parts.hostname or ""
    if "[" in parts.netloc:
        try:
            address = addresses.read(name)
        except ValueError:
            raise BadLink("The link's host is not an address.") from None
        if "%" in name:
            raise BadLink("The link's host is an address of one network only.")
        return str(address)
    try:
        host = idna.encode(name, uts46=True).decode() if not name.isascii() else name.lower()
    except idna.IDNAError:
        host = ""
    host = host.removesuffix(".")
    if len(host) > _MAX_HOST_CHARS or not _HOST.fullmatch(host):
        raise BadLink("The link's host is not a name that DNS can have.")
    if _NUMERIC.fullmatch(host.rpartition(".")[2]):
        # What resolvers would make an address of is written as one, or not at all.
        try:
            return str(addresses.read(host))
        except ValueError:
            raise BadLink("Write an address as four decimal numbers.") from None
    return host


def _target(parts: SplitResult) -> str:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii():
        raise BadLink("The link's path has letters that are not percent-encoded.")
    return target
