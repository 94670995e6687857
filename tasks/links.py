"""Pictures behind links: http, https and s3, fetched for a gateway that has named them.

Owns which links are followed, how far, and how much is taken. How an exchange is kept out of the
inside is `tasks.outbound`'s, and whether what came is a picture is for `tasks.inputs` to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urljoin
from uuid import UUID

from tasks.errors import (
    BadLink,
    InvalidImage,
    LinkError,
    LinkFailed,
    LinkLimit,
    LinksBusy,
    ObjectNotFound,
)
from tasks.outbound import Deadline, Outbound, Resolve, system_resolve
from tasks.places import Place, Rules, place_of
from tasks.settings import TaskSettings
from tasks.slots import Slots
from tasks.storage import ObjectStore

_SCHEMES = ("http:", "https:", "s3:")
_S3 = re.compile(r"[sS]3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 3
_MAX_KEY_BYTES = 1024
_OK = 200
_ACCEPT = {"Accept": "image/*, application/octet-stream;q=0.5"}
_INSTEAD = "Or send the picture itself, as a file or as base64."


def is_link(text: str) -> bool:
    """Tell whether a text is a link that may be fetched, rather than a picture in base64."""
    return text.strip().lower().startswith(_SCHEMES)


@dataclass(frozen=True)
class Buckets:
    """The buckets, or folders of buckets, that pictures may be read from."""

    names: frozenset[str] = frozenset()

    @classmethod
    def written(cls, text: str) -> Buckets:
        """Read names that commas divide."""
        return cls(frozenset(part.strip().strip("/") for part in text.split(",") if part.strip()))

    def hold(self, bucket: str, key: str) -> bool:
        """Tell whether an object may be read."""
        whole = f"{bucket}/{key}"
        return any(whole.startswith(f"{name}/") for name in self.names)


@dataclass(frozen=True)
class Bounds:
    """How much is taken of what is behind a link, and how long it may last in all."""

    max_bytes: int
    timeout_s: float
    at_once: int = 32
    at_once_each: int = 4


@dataclass
class Links:
    """Fetches what links lead to. Thread-safe."""

    outbound: Outbound
    buckets: Buckets
    bounds: Bounds
    open_store: Callable[[], ObjectStore]
    slots: Slots = field(init=False)

    def __post_init__(self) -> None:
        """Bound how many fetches of this process run at once: each of them keeps a thread."""
        most, most_each = self.bounds.at_once, self.bounds.at_once_each
        self.slots = Slots(most, most_each, partial(LinkLimit, most_each), partial(LinksBusy, most))

    @classmethod
    def from_settings(
        cls,
        settings: TaskSettings,
        open_store: Callable[[], ObjectStore],
        resolve: Resolve = system_resolve,
    ) -> Links:
        """Return what the settings describe; connects to nothing.

        Raises:
            ValueError: A setting cannot be read.
        """
        return cls(
            Outbound(Rules.written(settings.link_ports, settings.link_hosts), resolve),
            Buckets.written(settings.link_buckets),
            Bounds(
                settings.max_input_bytes,
                settings.link_timeout_s,
                settings.link_slots,
                settings.link_slots_each,
            ),
            open_store,
        )

    def fetch(self, link: str, gateway_id: UUID) -> bytes:
        """Return what a gateway's link leads to.

        Raises:
            InvalidImage: The link may not be followed, or nothing that may be had is behind it;
                says what to do.
            LinksBusy, LinkLimit: This process fetches as many as it may already, or as many of
                this gateway's.
            StorageError: The object store does not answer.
        """
        try:
            with self.slots.place(gateway_id):
                return self._fetch(link.strip(), Deadline(self.bounds.timeout_s))
        except LinkError as error:
            raise InvalidImage(f"The link cannot be used. {error} {_INSTEAD}") from error

    def _fetch(self, link: str, deadline: Deadline) -> bytes:
        if link[:3].lower() == "s3:":
            return self._object(link, deadline)
        place = place_of(link, self.outbound.rules)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self.outbound.get(
                place, headers=_ACCEPT, max_bytes=self.bounds.max_bytes, deadline=deadline
            )
            if answer.status == _OK:
                return answer.body
            if answer.status not in _REDIRECTS:
                raise LinkFailed(f"Its host answers with status {answer.status}.")
            place = self._next(place, answer.headers.get("location", ""))
        raise LinkFailed(f"It leads on more than {_MAX_REDIRECTS} times.")

    def _next(self, place: Place, location: str) -> Place:
        """Return where a redirect leads, by the rules that the link itself had to meet."""
        if not location:
            raise LinkFailed("Its host sends us on, but not where to.")
        try:
            there = urljoin(f"{place.scheme}://{place.authority}{place.target}", location)
        except ValueError:
            raise BadLink("It leads on to what is not a link.") from None
        return place_of(there, self.outbound.rules)

    def _object(self, link: str, deadline: Deadline) -> bytes:
        found = _S3.fullmatch(link)
        if found is None or not _is_plain(found[2]):
            raise BadLink("An s3 link reads s3://bucket/key, without empty or dotted parts.")
        bucket, key = found.groups()
        if not self.buckets.hold(bucket, key):
            raise BadLink("Pictures are not read from this bucket.")
        try:
            return self.open_store().fetch(bucket, key, self.bounds.max_bytes, deadline.left)
        except ObjectNotFound:
            raise LinkFailed("There is no such object.") from None


def _is_plain(key: str) -> bool:
    """Tell whether a key means the same to every store: some are folders, where dots lead away."""
    parts = key.split("/")
    dotted = any(part in ("", ".", "..") for part in parts)
    return (
        key.isprintable() and len(key.encode()) <= _MAX_KEY_BYTES and not dotted and "\\" not in key
    )
