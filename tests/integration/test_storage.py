"""The object store, against a real S3 server, and against one that misbehaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from tasks.errors import ObjectNotFound, StorageError
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore

DATA = bytes(range(256)) * 4096  # 1 MiB, more than one chunk


def test_an_object_comes_back_as_it_was_put(store: ObjectStore) -> None:
    store.put("outputs/1/a b é.png", DATA, "image/png", {"job": "1"})
    assert store.get("outputs/1/a b é.png") == DATA
    assert store.exists("outputs/1/a b é.png")


def test_an_object_streams_in_chunks_with_its_headers(store: ObjectStore) -> None:
    store.put("k", DATA, "image/png")
    stored = store.open("k")
    chunks = list(stored.chunks)
    assert len(chunks) > 1
    assert b"".join(chunks) == DATA
    assert (stored.content_type, stored.content_length) == ("image/png", len(DATA))
    assert stored.content_range is None
    assert stored.etag.strip('"')


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=1048570-", 1048570, 1048576), ("bytes=-6", 1048570, 1048576)],
)
def test_a_range_gives_that_part(store: ObjectStore, header: str, start: int, end: int) -> None:
    store.put("k", DATA, "image/png")
    stored = store.open("k", header)
    assert b"".join(stored.chunks) == DATA[start:end]
    assert stored.content_length == end - start
    assert stored.content_range == f"bytes {start}-{end - 1}/{len(DATA)}"


@pytest.mark.parametrize(
    "header", ["bytes=0-1,5-9", "lines=1-2", "bytes=", "bytes=9-0x", "bytes=2000000-", ""]
)
def test_a_range_that_cannot_be_served_is_ignored(store: ObjectStore, header: str) -> None:
    store.put("k", DATA, "image/png")
    stored = store.open("k", header)
    assert b"".join(stored.chunks) == DATA
    assert stored.content_range is None


def test_a_reader_may_leave_early_many_times(store: ObjectStore) -> None:
    """More often than there are connections in the pool."""
    store.put("k", DATA, "image/png")
    for _ in range(40):
        chunks = store.open("k").chunks
        assert next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # a generator, like every stream of ours
    assert store.get("k") == DATA


def test_what_is_not_there_is_told_apart_from_trouble(store: ObjectStore) -> None:
    assert not store.exists("nothing")
    with pytest.raises(ObjectNotFound, match="nothing"):
        store.get("nothing")
    with pytest.raises(ObjectNotFound):
        store.open("nothing")


def test_a_key_cannot_climb_out_of_the_bucket(store: ObjectStore) -> None:
    with pytest.raises(StorageError):
        store.put("../../evil", b"x", "text/plain")
    with pytest.raises(StorageError):
        store.get("../../etc/passwd")


def test_deleting_is_repeatable(store: ObjectStore) -> None:
    for name in ("a", "b", "c"):
        store.put(name, b"x", "text/plain")
    store.delete(["a", "b", "never-there"])
    store.delete(["a"])
    store.delete([])
    assert [stored.key for stored in store.list("")] == ["c"]


def test_listing_stays_within_its_prefix_and_age(store: ObjectStore) -> None:
    for name in ("outputs/1/a", "outputs/1/b", "outputs/10/c", "inputs/d"):
        store.put(name, b"four", "text/plain")
    listed = list(store.list("outputs/1/"))
    assert [(stored.key, stored.size_bytes) for stored in listed] == [
        ("outputs/1/a", 4),
        ("outputs/1/b", 4),
    ]
    now = datetime.now(UTC)
    assert len(list(store.list("outputs/", now + timedelta(minutes=1)))) == 3
    assert list(store.list("outputs/", now - timedelta(minutes=1))) == []


def test_listing_and_deleting_go_beyond_one_page(store: ObjectStore) -> None:
    names = [f"many/{number:04}" for number in range(1003)]
    for name in names:
        store.put(name, b"", "text/plain")
    assert [stored.key for stored in store.list("many/")] == names
    store.delete(names)
    assert list(store.list("many/")) == []


def test_the_bucket_is_made_once(store: ObjectStore) -> None:
    store.put("k", b"x", "text/plain")
    store.ensure_bucket()
    assert store.get("k") == b"x"


def test_a_presigned_url_reads_one_object_for_a_while(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("k", DATA, "image/png")
    store.put("other", b"secret", "text/plain")
    url = store.presign("k", 60)
    assert httpx.get(url).content == DATA
    assert httpx.get(url.replace("/k?", "/other?")).status_code == 403
    a_minute_ago = datetime.now(UTC) - timedelta(seconds=61)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: a_minute_ago)
    assert httpx.get(store.presign("k", 120)).content == DATA
    assert httpx.get(store.presign("k", 60)).status_code >= 400


def test_ping_says_which_bucket_or_key_is_wrong(
    store: ObjectStore, task_settings: TaskSettings
) -> None:
    store.ping()
    with pytest.raises(StorageError, match="no-such-bucket"):
        other(task_settings, s3_bucket="no-such-bucket").ping()
    with pytest.raises(StorageError):
        other(task_settings, s3_secret_access_key=SecretStr("wrong")).ping()


def test_a_prefix_is_copied_with_its_folders(
    store: ObjectStore, task_settings: TaskSettings, tmp_path: Path
) -> None:
    for name in ("one/model_index.json", "one/unet/config.json", "one/unet/big.bin", "one-2/x"):
        store.put(f"models/{name}", name.encode(), "application/octet-stream")
    for url in (f"s3://{task_settings.s3_bucket}/models/one{end}" for end in ("", "/")):
        names = store.fetch_tree(url, tmp_path, lambda name: not name.endswith(".bin"))
        assert set(names) == {"model_index.json", "unet/config.json", "unet/big.bin"}
        assert (tmp_path / "unet/config.json").read_bytes() == b"one/unet/config.json"
        assert not (tmp_path / "unet/big.bin").exists()


def other(settings: TaskSettings, **changes: object) -> ObjectStore:
    return ObjectStore.from_settings(settings.model_copy(update=changes))


# --- A server that misbehaves -------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the server does with a request. `cut` promises more bytes than it sends."""

    status: int = 200
    body: str = ""
    cut: bool = False
    reset: bool = False


OK = Answer(body="body")


@dataclass
class Scripted:
    """A store, and the requests that its server saw: the method, the path and the body."""

    store: ObjectStore
    seen: list[tuple[str, str, bytes]]


@contextmanager
def scripted(*answers: Answer, region: str = "us-east-1") -> Iterator[Scripted]:
    """A store whose server gives one answer after the other, and the last one for ever."""
    seen: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def act(self) -> None:
            answer = answers[min(len(seen), len(answers) - 1)]
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.command, self.path, content))
            self.close_connection = answer.reset or answer.cut
            if answer.reset:
                return
            silent = self.command == "HEAD" or (self.command == "PUT" and answer.status == 200)
            body = b"" if silent else answer.body.encode()
            self.send_response(answer.status)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body) + 10 * answer.cut))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = act  # noqa: N815  # the base class's names

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Scripted(nobodys(server.server_port, region), seen)
        finally:
            server.shutdown()
            thread.join()


def nobodys(port: int, region: str = "us-east-1") -> ObjectStore:
    return ObjectStore.from_settings(
        TaskSettings(
            s3_endpoint=f"http://127.0.0.1:{port}",
            s3_region=region,
            s3_access_key_id="key",
            s3_secret_access_key=SecretStr("secret"),
        )
    )


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their pauses, which add up to many seconds."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


TROUBLES = pytest.mark.parametrize(
    "trouble", [Answer(500), Answer(503), Answer(reset=True)], ids=["500", "503", "reset"]
)


@pytest.mark.usefixtures("_hasty")
@TROUBLES
def test_trouble_that_passes_is_not_seen(trouble: Answer) -> None:
    with scripted(trouble, trouble, OK) as server:
        server.store.put("k", b"data", "text/plain")
        assert [content for _, _, content in server.seen] == [b"data"] * 3
        assert server.store.get("k") == b"body"


@pytest.mark.usefixtures("_hasty")
@TROUBLES
def test_trouble_that_stays_becomes_a_storage_error(trouble: Answer) -> None:
    with scripted(trouble) as server:
        with pytest.raises(StorageError, match="outputs/k"):
            server.store.put("outputs/k", b"data", "text/plain")
        assert len(server.seen) == 5
        with pytest.raises(StorageError):
            server.store.ping()
        assert len(server.seen) == 6  # a health check asks once


@pytest.mark.usefixtures("_hasty")
def test_an_answer_that_breaks_off_becomes_a_storage_error() -> None:
    with scripted(Answer(body="body", cut=True)) as server:
        with pytest.raises(StorageError):
            server.store.get("k")
        with pytest.raises(StorageError):
            list(server.store.open("k").chunks)


def test_a_refusal_is_not_repeated() -> None:
    for ask in (
        ObjectStore.get,
        ObjectStore.exists,
        lambda store, key: store.open(key, "bytes=0-"),
    ):
        with scripted(Answer(403)) as server:
            with pytest.raises(StorageError, match="403"):
                ask(server.store, "k")
            assert len(server.seen) == 1


@pytest.mark.usefixtures("_hasty")
def test_nobody_there_is_a_storage_error() -> None:
    with pytest.raises(StorageError):
        nobodys(1).get("k")


def test_keys_that_could_not_be_deleted_are_an_error_though_the_request_succeeded() -> None:
    gone = "<Error><Key>a</Key><Code>NoSuchKey</Code></Error>"
    locked = "<Error><Key>b</Key><Code>AccessDenied</Code></Error>"
    with scripted(Answer(body=f"<DeleteResult>{gone}</DeleteResult>")) as server:
        server.store.delete(["a"])
    with (
        scripted(Answer(body=f"<DeleteResult>{gone}{locked}</DeleteResult>")) as server,
        pytest.raises(StorageError, match=r"1 objects .* 'b', because of AccessDenied"),
    ):
        server.store.delete(["a", "b"])


def test_a_key_that_points_outside_is_not_copied(tmp_path: Path) -> None:
    for key in ("models/../../evil", "models//etc/evil"):
        row = f"<Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
        page = f"<ListBucketResult><Contents>{row}</Contents></ListBucketResult>"
        with scripted(Answer(body=page)) as server:
            with pytest.raises(StorageError, match="outside"):
                server.store.fetch_tree("s3://bucket/models", tmp_path, lambda _: True)
            assert len(server.seen) == 1


def test_a_new_bucket_lies_in_the_region_of_the_settings() -> None:
    for region, named in (("us-east-1", False), ("eu-central-1", True)):
        with scripted(Answer(404), OK, region=region) as server:
            server.store.ensure_bucket()
        (_, _, content) = server.seen[1]
        assert (region.encode() in content) == named


@pytest.mark.parametrize("code", ["BucketAlreadyOwnedByYou", "BucketAlreadyExists"])
def test_a_bucket_that_somebody_else_makes_at_the_same_time_is_no_error(code: str) -> None:
    with scripted(Answer(404), Answer(409, f"<Error><Code>{code}</Code></Error>")) as server:
        server.store.ensure_bucket()
        assert [method for method, _, _ in server.seen] == ["HEAD", "PUT"]


def test_a_bucket_that_is_not_ours_is_not_made() -> None:
    with scripted(Answer(403)) as server:
        with pytest.raises(StorageError, match="403"):
            server.store.ensure_bucket()
        assert [method for method, _, _ in server.seen] == ["HEAD"]
