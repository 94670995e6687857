"""Links: where none may lead, in every spelling, with a server inside that nobody may reach."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn
from uuid import UUID

import httpcore
import pytest
from PIL import Image
from pydantic import ValidationError

from tasks import addresses
from tasks.errors import InvalidImage, LinkLimit, LinksBusy
from tasks.inputs import checked_image
from tasks.links import Bounds, Buckets, Links, is_link
from tasks.outbound import Outbound, system_resolve
from tasks.places import Rules
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests.web import Handler, Visit, Web, serving

MAX_BYTES = 100_000
PUBLIC = "93.184.216.34"
GATEWAY, ANOTHER = UUID(int=1), UUID(int=2)


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 8), "teal").save(out, "PNG")
    return out.getvalue()


def no_store() -> ObjectStore:
    raise AssertionError("no link may reach the object store")


class Names:
    """A resolver that knows these names, and counts how often it was asked."""

    def __init__(self, known: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.known = {name: list(answers) for name, answers in known.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host in self.known:
            answers = self.known[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]
        if host.endswith(".test"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return system_resolve(host, port)


class OneGatewaysLinks(Links):
    """Links of a gateway that is always the same."""

    def fetch(self, link: str, gateway_id: UUID = GATEWAY) -> bytes:
        return super().fetch(link, gateway_id)


def links(
    *,
    ports: str = "80,443",
    trusted: str = "",
    names: Names | None = None,
    timeout_s: float = 10,
) -> OneGatewaysLinks:
    outbound = Outbound(Rules.written(ports, trusted), names or Names({}))
    return OneGatewaysLinks(outbound, Buckets(), Bounds(MAX_BYTES, timeout_s), no_store)


def endlessly(handler: Handler, piece: bytes, pause_s: float) -> None:
    while not handler.web.over.wait(pause_s):
        handler.wfile.write(piece)


def begin(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()


ENDLESS = {"endless": (begin, 10_000, 0), "drip": (begin, 1, 0.02), "headers": (id, 1, 0.02)}


def answers(handler: Handler, visit: Visit) -> None:
    """What the server inside would give away."""
    path, _, rest = visit.path.partition("?")[0].lstrip("/").partition("/")
    if path == "to":
        code, _, target = rest.partition("/")
        handler.give(int(code), Location=target)
    elif path in ENDLESS:
        start, size, pause_s = ENDLESS[path]
        start(handler)
        endlessly(handler, b"x" * size, pause_s)
    else:
        secret = b"the secret of the inside"
        bodies = {"png": png(), "long": b"x" * (MAX_BYTES + 1)}
        status = int(rest) if path == "status" else 200
        handler.give(status, bodies.get(path, secret), Content_Type="image/png")


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving(answers) as found:
        yield found


@pytest.fixture
def inside() -> Iterator[Web]:
    """A server on every address of this machine that must never be reached."""
    every = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104  that is the point
    with serving(answers, every) as found:
        yield found


INSIDE = {
    "loopback": "http://127.0.0.1:{port}/png",
    "loopback elsewhere": "http://127.8.9.1:{port}/png",
    "short": "http://127.1:{port}/png",
    "decimal": "http://2130706433:{port}/png",
    "octal": "http://0177.0.0.1:{port}/png",
    "octal in one": "http://017700000001:{port}/png",
    "hexadecimal": "http://0x7f.0.0.1:{port}/png",
    "hexadecimal in one": "http://0x7f000001:{port}/png",
    "mixed": "http://0x7f.1:{port}/png",
    "too many zeros": "http://127.000.000.001:{port}/png",
    "overflow": "http://4294967297:{port}/png",
    "overflow of each part": "http://383.256.256.257:{port}/png",
    "octal of modern spelling": "http://0o177.0.0.1:{port}/png",
    "zero": "http://0:{port}/png",
    "unspecified": "http://0.0.0.0:{port}/png",
    "trailing dot": "http://127.0.0.1.:{port}/png",
    "circled digits": "http://①②⑦.⓪.⓪.①:{port}/png",
    "full width": "http://１２７.０.０.１:{port}/png",  # noqa: RUF001
    "ideographic dots": "http://127。0。0。1:{port}/png",
    "percent encoded": "http://%31%32%37.0.0.1:{port}/png",
    "name": "http://localhost:{port}/png",
    "name in capitals": "http://LOCALHOST:{port}/png",
    "name with dot": "http://localhost.:{port}/png",
    "ipv6 loopback": "http://[::1]:{port}/png",
    "ipv6 loopback in full": "http://[0:0:0:0:0:0:0:1]:{port}/png",
    "ipv6 unspecified": "http://[::]:{port}/png",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/png",
    "mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/png",
    "compatible": "http://[::127.0.0.1]:{port}/png",
    "translated": "http://[::ffff:0:127.0.0.1]:{port}/png",
    "nat64": "http://[64:ff9b::7f00:1]:{port}/png",
    "local nat64": "http://[64:ff9b:1::7f00:1]:{port}/png",
    "6to4": "http://[2002:7f00:1::]:{port}/png",
    "teredo": "http://[2001:0:7f00:1::]:{port}/png",
    "zone": "http://[fe80::1%25eth0]:{port}/png",
    "zone of the loopback": "http://[::1%25lo]:{port}/png",
    "ipv6 without brackets": "http://0000::1:{port}/png",
    "mapped in full": "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/png",
    "decimal in three parts": "http://127.0.1:{port}/png",
    "octal with leading zeros": "http://00000177.1:{port}/png",
    "hexadecimal with a dot": "http://0x7f000001.:{port}/png",
    "hexadecimal in capitals": "http://0X7F000001:{port}/png",
    "minus": "http://-2130706433:{port}/png",
    "plus in the port": "http://127.0.0.1:+{port}/png",
    "two dots": "http://127.0.0.1..:{port}/png",
    "arabic digits": "http://١٢٧.٠.٠.١:{port}/png",  # noqa: RUF001
    "percent encoded twice": "http://%2531%2532%2537.0.0.1:{port}/png",
    "percent encoded dot": "http://127%2e0.0.1:{port}/png",
    "address of the future": "http://[v1.127.0.0.1]:{port}/png",
    "address in brackets": "http://[127.0.0.1]:{port}/png",
    "nat64 in dots": "http://[64:ff9b::127.0.0.1]:{port}/png",
    "scheme in capitals": "HTTP://127.0.0.1:{port}/png",
    "empty user": "http://@127.0.0.1:{port}/png",
    "null byte": "http://127.0.0.1\x00.example.com:{port}/png",
    "two ports": "http://127.0.0.1:{port}:80/png",
    "two users": "http://a:@@127.0.0.1:{port}/png",
    "spaces and ats": "http://1.1.1.1 &@127.0.0.1:{port}# @example.com/png",
    "fragment for a host": "http://127.0.0.1:{port}#example.com/png",
    "question for a host": "http://127.0.0.1:{port}?example.com/png",
    "carriage return": "http://example.com\r\nHost: 127.0.0.1:{port}/png",
    "soft hyphen": "http://local\u00adhost:{port}/png",
    "dotless letters": "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/png",
    "user": "http://example.com@127.0.0.1:{port}/png",
    "user and password": "http://a:b@127.0.0.1:{port}/png",
    "backslash": "http://example.com\\@127.0.0.1:{port}/png",
    "newline": "http://127.0.0.1\n:{port}/png",
    "tab in the scheme": "ht\ttp://127.0.0.1:{port}/png",
    "space": "http://127.0.0.1 :{port}/png",
    "no slashes": "http:127.0.0.1:{port}/png",
    "one slash": "http:/127.0.0.1:{port}/png",
    "three slashes": "http:///127.0.0.1:{port}/png",
    "no port": "http://127.0.0.1:/png",
    "bad port": "http://127.0.0.1:99999/png",
    "https": "https://127.0.0.1:{port}/png",
    "resolves inside": "http://inside.test:{port}/png",
    "resolves inside among others": "http://mixed.test:{port}/png",
    "resolves to mapped": "http://mapped.test:{port}/png",
    "resolves to nothing": "http://empty.test:{port}/png",
    "unknown": "http://unknown.test:{port}/png",
    "punycode": "http://xn--inside-9ta.test:{port}/png",
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1:{port}/png",
    "dict": "dict://127.0.0.1:{port}/png",
    "ldap": "ldap://127.0.0.1:{port}/png",
    "jar": "jar:http://127.0.0.1:{port}!/png",
    "url": "url:http://127.0.0.1:{port}/png",
    "protocol relative": "//127.0.0.1:{port}/png",
    "gopher": "gopher://127.0.0.1:{port}/_GET",
    "s3 of nobody": "s3://bucket/key.png",
    "s3 with a host": "s3://127.0.0.1:{port}/png",
    "s3 with dots": "s3://bucket/../other/key.png",
    "too long": "http://example.com/" + "a" * 2048,
    "no host": "http://",
    "half a bracket": "http://[::1:{port}/png",
    "label too odd": "http://-.-:{port}/png",
}
NAMES: dict[str, list[list[str]]] = {
    "inside.test": [["127.0.0.1"]],
    "mixed.test": [[PUBLIC, "127.0.0.1"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "empty.test": [[]],
}


def test_no_spelling_of_the_inside_is_reached(inside: Web) -> None:
    fetcher = links(ports=f"80,443,{inside.port}", names=Names(NAMES))
    for name, link in INSIDE.items():
        with pytest.raises(InvalidImage, match="The link cannot be used") as refused:
            fetcher.fetch(link.format(port=inside.port))
        assert "127.0.0" not in str(refused.value), name
    assert inside.connected() == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_inside(web: Web, inside: Web, status: int) -> None:
    """The server that we may reach sends us to one that we may not."""
    names = Names({**NAMES, "trusted.test": [["127.0.0.1"]]})
    fetcher = links(ports=f"80,443,{inside.port}", trusted=f"trusted.test:{web.port}", names=names)
    for name in ("loopback", "decimal", "name", "mapped", "resolves inside", "user", "file"):
        target = INSIDE[name].format(port=inside.port)
        with pytest.raises(InvalidImage):
            fetcher.fetch(web.url(f"/to/{status}/{target}", "trusted.test"))
    for target in (f"//127.0.0.1:{inside.port}/png", f"//[::1]:{inside.port}/", "s3://bucket/key"):
        with pytest.raises(InvalidImage):
            fetcher.fetch(web.url(f"/to/{status}/{target}", "trusted.test"))
    assert inside.connected() == 0


def test_a_name_is_asked_for_once_and_what_it_says_later_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connected = []

    def connect(_: object, host: str, *__: object) -> NoReturn:
        connected.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    names = Names({"moody.test": [[PUBLIC], ["127.0.0.1"]]})
    with pytest.raises(InvalidImage, match="did not answer"):
        links(names=names).fetch("http://moody.test/")
    assert (names.asked, connected) == (["moody.test"], [PUBLIC])


def test_a_redirect_asks_for_the_name_again(web: Web) -> None:
    names = Names({"moody.test": [["127.0.0.1"], ["169.254.169.254"]]})
    there = f"http://moody.test:{web.port}"
    with pytest.raises(InvalidImage, match="no address that is public"):
        links(trusted="moody.test", ports=str(web.port), names=names).fetch(
            f"{there}/to/302/{there}/png"
        )
    assert len(names.asked) == 2


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.170.2", "fe80::1", "100.100.100.200", "192.0.0.192"),
        *("168.63.129.16", "fd00:ec2::254", "224.0.0.1", "ff02::1", "0.0.0.0", "::"),  # noqa: S104
        *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
    ],
)
def test_not_even_a_trusted_host_is_a_metadata_service(address: str) -> None:
    fetcher = links(trusted="trusted.test", names=Names({"trusted.test": [[address]]}))
    with pytest.raises(InvalidImage, match="no address that is public"):
        fetcher.fetch("http://trusted.test/")


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1"),
        *("169.254.169.254", "0.1.2.3", "192.0.0.192", "192.0.0.9", "192.0.2.1", "198.18.0.1"),
        *(
            "192.88.99.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ),
        *("168.63.129.16", "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1"),
        *("64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:2::1"),
        *("2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "3fff::1", "5f00::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1"),
    ],
)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not addresses.is_public(addresses.read(address))


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", PUBLIC, "100.63.255.255", "100.128.0.1", "172.32.0.1"),
        *("2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"),
        *("2002:808:808::1", "192.167.255.255"),
    ],
)
def test_an_address_that_is_public(address: str) -> None:
    assert addresses.is_public(addresses.read(address))


def test_a_picture_is_fetched_from_a_host_of_the_operators_own(web: Web) -> None:
    fetcher = links(trusted=f"127.0.0.1:{web.port}")
    data = fetcher.fetch(f" {web.url('/png')}?size=1 ")
    assert checked_image(data, max_bytes=MAX_BYTES, max_pixels=1000).width == 16
    visit = web.visits[-1]
    assert (visit.path, visit.headers["host"]) == ("/png?size=1", f"127.0.0.1:{web.port}")
    assert visit.headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie"} & set(visit.headers)


def test_a_few_redirects_are_followed_and_no_more(web: Web) -> None:
    fetcher = links(trusted=f"127.0.0.1:{web.port}")
    assert fetcher.fetch(web.url("/to/301//to/302//to/308//png")) == png()
    with pytest.raises(InvalidImage, match="more than 3 times"):
        fetcher.fetch(web.url("/to/301//to/302//to/307//to/308//png"))
    with pytest.raises(InvalidImage, match="not where to"):
        fetcher.fetch(web.url("/to/302/"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/long", f"more than {MAX_BYTES} bytes"),
        ("/endless", f"more than {MAX_BYTES} bytes"),
        ("/status/404", "status 404"),
        ("/status/500", "status 500"),
    ],
)
def test_what_cannot_be_had_is_told_without_what_was_answered(
    web: Web, path: str, message: str
) -> None:
    with pytest.raises(InvalidImage, match=message) as refused:
        links(trusted=f"127.0.0.1:{web.port}").fetch(web.url(path))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["/drip", "/headers"])
def test_a_slow_drip_is_cut_off_by_the_whole_fetchs_deadline(web: Web, path: str) -> None:
    with pytest.raises(InvalidImage, match="took too long"):
        links(trusted=f"127.0.0.1:{web.port}", timeout_s=0.2).fetch(web.url(path))


def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    answered = threading.Event()

    def hang(*_: object) -> list[str]:
        answered.wait()
        return []

    fetcher = Links(Outbound(Rules(), hang), Buckets(), Bounds(MAX_BYTES, 0.1), no_store)
    with pytest.raises(InvalidImage, match="took too long"):
        fetcher.fetch("http://slow.test/", GATEWAY)
    answered.set()


def test_what_was_fetched_is_a_picture_only_by_its_content(web: Web) -> None:
    data = links(trusted=f"127.0.0.1:{web.port}").fetch(web.url("/text"))
    with pytest.raises(InvalidImage, match="not a picture"):
        checked_image(data, max_bytes=MAX_BYTES, max_pixels=1000)


def test_only_listed_ports_are_connected_to(inside: Web) -> None:
    for port in ("80,443", "80"):
        with pytest.raises(InvalidImage, match="port"):
            links(ports=port, names=Names({"a.test": [[PUBLIC]]})).fetch(
                f"http://a.test:{inside.port}/"
            )
    with pytest.raises(InvalidImage, match="port 443"):
        links(ports="80").fetch("https://example.com/")


def test_only_so_many_are_fetched_at_once_and_fewer_for_one_gateway() -> None:
    bounds = Bounds(MAX_BYTES, 10, at_once=3, at_once_each=2)
    slots = replace(links(), bounds=bounds).slots
    with slots.place(GATEWAY), slots.place(GATEWAY):
        with pytest.raises(LinkLimit, match="2 links of this gateway"), slots.place(GATEWAY):
            pass
        busy = pytest.raises(LinksBusy, match="3 other links")
        with slots.place(ANOTHER), busy, slots.place(ANOTHER):
            pass
        with slots.place(ANOTHER):
            pass
    with slots.place(GATEWAY):
        pass


def test_a_gateways_slow_links_leave_room_for_anothers(web: Web) -> None:
    """As many as it may have of them hang, and one more is refused; nobody else is."""
    fetcher = links(trusted=f"127.0.0.1:{web.port}")
    hanging = [fetcher.slots.place(GATEWAY) for _ in range(fetcher.bounds.at_once_each)]
    with contextlib.ExitStack() as stack:
        for place in hanging:
            stack.enter_context(place)
        with pytest.raises(LinkLimit):
            fetcher.fetch(web.url("/png"))
        assert fetcher.fetch(web.url("/png"), ANOTHER) == png()
    assert fetcher.fetch(web.url("/png")) == png()


def test_the_environments_proxy_and_credentials_are_not_used(
    web: Web, inside: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, inside.url())
    assert links(trusted=f"127.0.0.1:{web.port}").fetch(web.url("/png")) == png()
    assert inside.connected() == 0


def test_a_host_that_speaks_no_tls_is_told_so(web: Web) -> None:
    with pytest.raises(InvalidImage, match="did not answer as it should"):
        links(trusted=f"127.0.0.1:{web.port}").fetch(f"https://127.0.0.1:{web.port}/png")


def test_tls_is_for_the_name_and_not_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    secured = []

    class Stream(httpcore.NetworkStream):
        def start_tls(
            self,
            ssl_context: ssl.SSLContext,
            server_hostname: str | None = None,
            timeout: float | None = None,  # noqa: ARG002  its parent's
        ) -> NoReturn:
            secured.append((server_hostname, ssl_context.check_hostname, ssl_context.verify_mode))
            raise httpcore.ConnectError

        def close(self) -> None:
            pass

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", lambda *_: Stream())
    with pytest.raises(InvalidImage):
        links(names=Names({"pictures.test": [[PUBLIC]]})).fetch("https://pictures.test/a.png")
    assert secured == [("pictures.test", True, ssl.CERT_REQUIRED)]


@pytest.mark.parametrize(
    ("written", "bucket", "key", "held"),
    [
        ("", "pictures", "a.png", False),
        ("pictures", "pictures", "a.png", True),
        ("pictures", "pictures-of-others", "a.png", False),
        (" a , pictures/in ", "pictures", "in/a.png", True),
        ("pictures/in/", "pictures", "inside/a.png", False),
    ],
)
def test_a_bucket_or_a_folder_of_one_is_listed(
    written: str, bucket: str, key: str, held: bool
) -> None:
    assert Buckets.written(written).hold(bucket, key) is held


@pytest.mark.parametrize(
    ("text", "link"),
    [("https://a/b", True), (" S3://b/k", True), ("HTTP://a", True), ("aHR0cDovLw==", False)],
)
def test_what_is_a_link(text: str, link: bool) -> None:
    assert is_link(text) is link


@pytest.mark.parametrize(
    ("listed", "is_private"),
    [
        ("ours", True),
        ("pictures, ours/", True),
        ("ours/inputs", True),
        ("ours/outputs/01a1", True),
        (" /ours/tasks/ ", True),
        ("ours/shared", False),
        ("ours/task", False),
        ("ours-too,pictures/tasks", False),
        (" , ", False),
    ],
)
def test_the_results_of_all_cannot_be_listed_for_any(listed: str, is_private: bool) -> None:
    told = {"S3_BUCKET": "ours", "PIXELTOLL_LINK_BUCKETS": listed}
    if not is_private:
        assert TaskSettings.model_validate(told).link_buckets == listed
        return
    with pytest.raises(ValidationError, match="every gateway") as refused:
        TaskSettings.model_validate(told)
    assert refused.value.errors()[0]["loc"] == ("PIXELTOLL_LINK_BUCKETS",)
