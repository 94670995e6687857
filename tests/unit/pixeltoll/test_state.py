"""What a data folder remembers: who holds it, its secrets, how to connect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pixeltoll.errors import AlreadyRunning, NotRunning
from pixeltoll.state import Connection, Pids, Secrets, locked

CONNECTION = Connection(
    database_url="postgresql://pixeltoll@/pixeltoll?host=%2Frun",
    redis_url="redis://:secret@127.0.0.1:6379/0",
    s3_endpoint="http://127.0.0.1:9000",
    s3_bucket="pixeltoll",
    s3_access_key_id="id",
    s3_secret_access_key="key",
    url="http://127.0.0.1:8080",
    api_key="px_key",
    admin_key="admin",
    flower_url=None,
    pids=Pids(1, 2, 3),
    catalog="/models/catalog.toml",
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_connection_is_read_back_while_its_stack_runs(tmp_path: Path) -> None:
    with locked(tmp_path):
        CONNECTION.write(tmp_path)

        assert Connection.read(tmp_path) == CONNECTION
        assert mode(tmp_path / "connection.json") == 0o600


def test_connection_file_has_the_promised_names(tmp_path: Path) -> None:
    CONNECTION.write(tmp_path)

    facts = json.loads((tmp_path / "connection.json").read_text())

    promised = {"url", "api_key", "admin_key", "database_url", "redis_url", "s3_endpoint"}
    watched = {"flower_url", "worker_url", "scheduler_url", "metrics_key", "pids"}
    assert promised | watched <= set(facts)
    assert facts["pids"] == {"api": 1, "worker": 2, "scheduler": 3}


def test_nothing_runs_on_an_unused_folder(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="pixeltoll up"):
        Connection.read(tmp_path)


def test_a_connection_file_whose_stack_was_killed_is_not_believed(tmp_path: Path) -> None:
    with locked(tmp_path):
        CONNECTION.write(tmp_path)

    with pytest.raises(NotRunning):
        Connection.read(tmp_path)


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from pixeltoll.state import locked
with locked(Path({str(tmp_path)!r})):
    print(flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        (sys.executable, "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        with pytest.raises(AlreadyRunning, match=str(holder.pid)), locked(tmp_path):
            pass


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text()


def test_a_folder_of_an_earlier_release_is_given_what_it_lacks(tmp_path: Path) -> None:
    Secrets.load(tmp_path)
    file = tmp_path / "secrets.json"
    old = json.loads(file.read_text())
    del old["metrics_key"]
    file.write_text(json.dumps(old))

    found = Secrets.load(tmp_path)

    assert found.admin_key == old["admin_key"]
    assert len(found.metrics_key) >= 32


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    first = Secrets.load(tmp_path)
    first.api_key = "px_key"
    first.save(tmp_path)

    assert Secrets.load(tmp_path) == first
    assert mode(tmp_path / "secrets.json") == 0o600
    assert len({first.admin_key, first.redis_password, first.s3_secret_access_key}) == 3
    assert min(map(len, (first.admin_key, first.redis_password))) >= 32
