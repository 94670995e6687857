"""HTTP to addresses that somebody else has named, without being led inside.

A host is resolved once, every address that it has is judged, and the connection is made to one of
those that were judged: what its name means a moment later does not matter. Redirects are not
followed here, proxies and credentials of the environment are not used, and all of an exchange is
over by its deadline, however slowly the other side drips. What is asked for, and what an answer
means, is for `tasks.links` and `tasks.delivery`.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, TypeVar

import httpcore
from httpcore import NetworkBackend, NetworkStream

from tasks import addresses
from tasks.errors import LinkFailed
from tasks.places import Place, Rules

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
Found = TypeVar("Found")

_AGENT = b"pixeltoll"
_MAX_TRIED = 3
# One message for whatever is wrong with where a link leads: which names our network knows, and at
# which addresses, is nobody's business.
_NOWHERE = "Its host has no address that is public. Use a link that everybody can open."


@dataclass(frozen=True)
class Exchange:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Deadline:
    """A moment after which nothing is waited for any more."""

    def __init__(self, seconds: float) -> None:
        """Begin to count."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            LinkFailed: There are none.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise LinkFailed("Its host took too long to answer.")
        return seconds


def system_resolve(host: str, port: int) -> list[str]:
    """Return the addresses that the system knows a host by.

    Raises:
        OSError, UnicodeError: There are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class Outbound:
    """Makes guarded exchanges. Thread-safe."""

    def __init__(self, rules: Rules, resolve: Resolve = system_resolve) -> None:
        """Take the rules, and how names are resolved."""
        self.rules = rules
        self._resolve = resolve

    def get(
        self, place: Place, *, headers: Mapping[str, str], max_bytes: int, deadline: Deadline
    ) -> Exchange:
        """Ask for what is at a place.

        Raises:
            LinkFailed: It cannot be had: no public address, no answer, too many bytes, no time.
        """
        return self._exchange("GET", place, headers, b"", max_bytes, deadline)

    def post(
        self, place: Place, body: bytes, *, headers: Mapping[str, str], deadline: Deadline
    ) -> int:
        """Send a body to a place; returns the answer's status. What else it says is not read.

        Raises:
            LinkFailed: It did not come to an answer.
        """
        return self._exchange("POST", place, headers, body, None, deadline).status

    def _exchange(
        self,
        method: str,
        place: Place,
        headers: Mapping[str, str],
        body: bytes,
        max_bytes: int | None,
        deadline: Deadline,
    ) -> Exchange:
        backend = _Pinned(self._judged(place, deadline), deadline)
        request = httpcore.Request(
            method,
            httpcore.URL(
                scheme=place.scheme.encode(),
                host=place.host.encode(),
                port=place.port,
                target=place.target.encode(),
            ),
            headers=_headers(place, headers, body),
            content=body,
        )
        try:
            with httpcore.ConnectionPool(
                ssl_context=self._tls if place.scheme == "https" else None,
                network_backend=backend,
                max_keepalive_connections=0,
            ) as pool:
                response = pool.handle_request(request)
                try:
                    return _received(response, max_bytes)
                finally:
                    response.close()
        except httpcore.TimeoutException as error:
            raise LinkFailed("Its host took too long to answer.") from error
        except (
            *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.ConnectionNotAvailable),
            *(ssl.SSLError, OSError),
        ) as error:
            raise LinkFailed("Its host did not answer as it should.") from error

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore.default_ssl_context()

    def _judged(self, place: Place, deadline: Deadline) -> list[str]:
        """Resolve a host, and return its addresses if every one of them may be connected to."""
        try:
            found = _within(deadline, lambda: self._resolve(place.host, place.port))
            known = [addresses.read(address) for address in dict.fromkeys(found)]
        except (OSError, UnicodeError, ValueError) as error:
            raise LinkFailed(_NOWHERE) from error
        allowed = addresses.is_tolerable if self.rules.trusts(place) else addresses.is_public
        if not known or not all(allowed(address) for address in known):
            raise LinkFailed(_NOWHERE)
        return [str(address) for address in known][:_MAX_TRIED]


def _within(deadline: Deadline, call: Callable[[], Found]) -> Found:
    """Make a call that cannot be given a time, and do not wait for it any longer than that."""
    done: queue.SimpleQueue[Found | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(call())
        except Exception as error:  # noqa: BLE001  it is raised where it is waited for
            done.put(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    try:
        found = done.get(timeout=deadline.left())
    except queue.Empty:
        raise LinkFailed("Its host took too long to answer.") from None
    if isinstance(found, Exception):
        raise found
    return found


def _headers(place: Place, given: Mapping[str, str], body: bytes) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"Host", place.authority.encode()),
        (b"User-Agent", _AGENT),
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"close"),
        *((name.encode(), value.encode()) for name, value in given.items()),
    ]
    return [*headers, (b"Content-Length", str(len(body)).encode())] if body else headers


def _received(response: httpcore.Response, max_bytes: int | None) -> Exchange:
    """Read an answer, up to a number of bytes; None reads nothing of its body.

    Raises:
        LinkFailed: It has more.
    """
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
    }
    body = bytearray()
    if max_bytes is not None:
        too_large = LinkFailed(f"What is there has more than {max_bytes} bytes.")
        said = headers.get("content-length", "")
        if said.isdecimal() and int(said) > max_bytes:
            raise too_large
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large
    return Exchange(response.status, headers, bytes(body))


class _Pinned(NetworkBackend):
    """Connects to the addresses that were judged, whatever the name means by now."""

    def __init__(self, judged: Sequence[str], deadline: Deadline) -> None:
        self._judged = judged
        self._deadline = deadline
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  it was resolved before
        port: int,
        timeout: float | None = None,  # noqa: ARG002  the deadline is what counts
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        """Connect to the first of the addresses that lets us."""
        failed: Exception | None = None
        for address in self._judged:
            try:
                stream = self._real.connect_tcp(
                    address, port, self._deadline.left(), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Hurried(stream, self._deadline)
        raise failed or httpcore.ConnectError("no address")


class _Hurried(NetworkStream):
    """A connection whose every wait ends with the whole exchange's deadline."""

    def __init__(self, stream: NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  as above
        """Read what has come."""
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  as above
        """Write all of it."""
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  as above
    ) -> NetworkStream:
        """Speak TLS from here on, to the host of the link: its certificate must be for that."""
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _Hurried(secured, self._deadline)

    def get_extra_info(self, info: str) -> object:
        """Tell something about the connection."""
        return self._stream.get_extra_info(info)
