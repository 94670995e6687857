"""A web server on the loopback that does as a test says, and remembers who came."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

_SHUTDOWN_POLL_S = 0.02


@dataclass(frozen=True)
class Visit:
    """A request, or only a connection where it has no path."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Web:
    """A server, by its port, and the requests that it has had."""

    port: int
    visits: list[Visit]
    connections: list[object]
    # Set when the test is over, for answers that last.
    over: threading.Event

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def connected(self) -> int:
        """Count the connections, once: ours comes after all others, and is not counted."""
        with socket.create_connection(("127.0.0.1", self.port)) as ours:
            ours.sendall(b"GET /marker HTTP/1.0\r\n\r\n")
            while ours.recv(4096):
                pass
        return len(self.connections) - 1


Answer = Callable[["Handler", Visit], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """What a test's answer writes with."""

    web: Web
    answer: Answer
    protocol_version = "HTTP/1.1"

    def give(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer at once; an underscore in a header's name is a hyphen."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        visit = Visit(self.path, headers, self.rfile.read(length))
        if visit.path == "/marker":
            self.give(204)
            return
        self.web.visits.append(visit)
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            type(self).answer(self, visit)

    do_POST = do_GET  # noqa: N815  the library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    connections: list[object]

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, object]:
        accepted = super().get_request()
        self.connections.append(accepted[1])
        return accepted


@contextlib.contextmanager
def serving(answer: Answer, address: str = "127.0.0.1", port: int = 0) -> Iterator[Web]:
    """Serve while a test lasts."""
    handler = type("TestHandler", (Handler,), {"answer": staticmethod(answer)})
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = type("TestServer", (_Server,), {"address_family": family})
    server = bound((address, port), handler)
    web = Web(server.server_address[1], [], [], threading.Event())
    server.connections = web.connections
    handler.web = web  # type: ignore[attr-defined]  # made just above
    thread = threading.Thread(target=server.serve_forever, args=(_SHUTDOWN_POLL_S,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
