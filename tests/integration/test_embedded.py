"""What the embedded servers promise: private, durable, and no secret where others can see it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import psycopg
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import ClientError
from psycopg.errors import InsufficientPrivilege

from pixeltoll import embedded, postgres
from pixeltoll.supervisor import Supervisor
from tests.support import Servers


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-test-")).resolve()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def supervisor(data_dir: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(data_dir / "logs", print)
    yield supervisor
    supervisor.stop()


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def sockets_of(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def test_postgres_keeps_its_rows_over_a_restart(data_dir: Path, supervisor: Supervisor) -> None:
    server = postgres.server(data_dir, durable=False)
    supervisor.start(server.child)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    supervisor.stop()

    again = postgres.server(data_dir, durable=False)
    supervisor.start(again.child)

    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_postgres_is_reached_through_a_private_socket_only(
    data_dir: Path, supervisor: Supervisor
) -> None:
    server = postgres.server(data_dir, durable=False)
    supervisor.start(server.child)

    with psycopg.connect(server.url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert connection.execute("SHOW data_checksums").fetchone() == ("on",)
    assert sockets_of(server.url).stat().st_mode & 0o077 == 0
    assert (data_dir / "postgres").stat().st_mode & 0o077 == 0


def test_postgres_lends_our_processes_no_more_rights_than_they_need(
    servers: Servers, migrated: str
) -> None:
    owners = servers.database(migrated)

    # At every start of a stack.
    urls = {postgres.service_url(owners) for _ in range(2)}

    (url,) = urls
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM postings")
        with pytest.raises(InsufficientPrivilege):
            connection.execute("DELETE FROM postings")


def test_postgres_starts_in_a_folder_too_deep_for_a_socket(
    data_dir: Path, supervisor: Supervisor
) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)

    server = postgres.server(deep, durable=False)
    supervisor.start(server.child)

    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    folder = sockets_of(server.url)
    assert len(str(folder)) < 40
    assert folder.stat().st_mode & 0o077 == 0
    supervisor.stop()
    folder.rmdir()


def test_postgres_starts_although_its_lock_file_names_a_stranger(
    data_dir: Path, supervisor: Supervisor
) -> None:
    supervisor.start(postgres.server(data_dir, durable=False).child)
    supervisor.stop()
    # As after a crash of the machine: this number belongs to another process now.
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getppid()}\n")

    supervisor.start(postgres.server(data_dir, durable=False).child)

    assert "postgres" in supervisor.pids


def test_an_interrupted_initdb_leaves_nothing_that_counts(
    data_dir: Path, supervisor: Supervisor
) -> None:
    half = data_dir / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")

    supervisor.start(postgres.server(data_dir, durable=False).child)

    assert not half.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user gives nothing to another user")
def test_root_lets_the_server_through_its_folders_and_no_more(data_dir: Path) -> None:
    data_dir.chmod(0o700)

    server = postgres.server(data_dir, durable=False)

    account = server.child.account
    assert account is not None
    assert account.uid != 0
    assert data_dir.stat().st_mode & 0o777 == 0o701
    assert (data_dir / "postgres").stat().st_uid == account.uid


def test_redis_wants_its_password_and_never_evicts(data_dir: Path, supervisor: Supervisor) -> None:
    server = embedded.redis_server(data_dir, "open-sesame")
    supervisor.start(server.child)

    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"
    port = urlsplit(server.url).port
    assert port is not None
    with (
        redis.Redis(port=port) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    assert "open-sesame" not in command_line(supervisor.pids["redis"])


def test_redis_keeps_its_queues_over_a_restart(data_dir: Path, supervisor: Supervisor) -> None:
    server = embedded.redis_server(data_dir, "open-sesame")
    supervisor.start(server.child)
    with redis.Redis.from_url(server.url) as client:
        client.rpush("queue", "bell")
    supervisor.stop()

    again = embedded.redis_server(data_dir, "open-sesame")
    supervisor.start(again.child)

    with redis.Redis.from_url(again.url) as client:
        assert client.lrange("queue", 0, -1) == [b"bell"]


def test_s3_takes_its_own_key_only_and_keeps_plain_files(
    data_dir: Path, supervisor: Supervisor
) -> None:
    server = embedded.s3_server(data_dir, "our-key-id", "our-secret", "pictures")
    supervisor.start(server.child)

    def put(key_id: str, secret: str) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        try:
            client.put_object(Bucket="pictures", Key="a/b.png", Body=b"bytes")
        finally:
            client.close()

    put("our-key-id", "our-secret")

    assert (data_dir / "objects" / "pictures" / "a" / "b.png").read_bytes() == b"bytes"
    for key_id, secret in (("our-key-id", "another"), ("another-id", "our-secret")):
        with pytest.raises(ClientError):
            put(key_id, secret)
    assert "our-secret" not in command_line(supervisor.pids["s3"])
    assert (data_dir / "objects").stat().st_mode & 0o077 == 0
