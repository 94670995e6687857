"""What a data folder holds about its stack: who runs it, its secrets, and how to connect to it.

The servers' own data beside these files belongs to the servers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pixeltoll.errors import AlreadyRunning, NotRunning


@dataclass(frozen=True)
class Pids:
    """The processes that may be restarted and have another id then."""

    api: int
    worker: int
    scheduler: int


@dataclass(frozen=True)
class Connection:
    """Everything that is needed to use a running stack; what is not known yet is empty.

    `/metrics` and `/healthz` are at `url`, where the former asks for `metrics_key`, and at the URLs
    of the worker and the scheduler.
    Only `pixeltoll db upgrade` needs the owner's URL: others have the rights of `pixeltoll_app`.
    """

    database_url: str
    redis_url: str
    s3_endpoint: str
    s3_bucket: str
    s3_access_key_id: str
    s3_secret_access_key: str
    owner_database_url: str = ""
    url: str = ""
    api_key: str = ""
    orchestrator_key: str = ""
    admin_key: str = ""
    metrics_key: str = ""
    worker_url: str = ""
    scheduler_url: str = ""
    flower_url: str | None = None
    pids: Pids = Pids(0, 0, 0)
    catalog: str = ""

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a process of ours the same."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "S3_ENDPOINT": self.s3_endpoint,
            "S3_BUCKET": self.s3_bucket,
            "S3_ACCESS_KEY_ID": self.s3_access_key_id,
            "S3_SECRET_ACCESS_KEY": self.s3_secret_access_key,
            "PIXELTOLL_CATALOG": self.catalog,
            "PIXELTOLL_ADMIN_KEY": self.admin_key,
            "PIXELTOLL_METRICS_KEY": self.metrics_key,
            "PIXELTOLL_ORCHESTRATOR_KEY": self.orchestrator_key,
        }

    def write(self, data_dir: Path) -> None:
        """Write connection.json, readable by its owner only."""
        _write_private(_connection_path(data_dir), asdict(self))

    @staticmethod
    def read(data_dir: Path) -> Connection:
        """Read the connection of the stack that runs on a data folder.

        Raises:
            NotRunning: There is none.
        """
        try:
            facts = json.loads(_connection_path(data_dir).read_bytes())
        except FileNotFoundError:
            raise NotRunning(data_dir) from None
        if not _is_locked(data_dir):
            # Its supervisor was killed and could not take the file away.
            raise NotRunning(data_dir)
        return Connection(**{**facts, "pids": Pids(**facts["pids"])})

    @staticmethod
    def remove(data_dir: Path) -> None:
        """Say that nothing runs any more."""
        _connection_path(data_dir).unlink(missing_ok=True)


def random_key(length: int = 24) -> str:
    """Return a random secret of letters and digits, which needs quoting nowhere."""
    return secrets.token_hex(length)


@dataclass
class Secrets:
    """Made once for a data folder and kept with it. Keys of rows are empty until the rows exist."""

    admin_key: str
    redis_password: str
    s3_access_key_id: str
    s3_secret_access_key: str
    flower_password: str
    api_key: str = ""
    orchestrator_key: str = ""
    # A folder of an earlier release has none yet.
    metrics_key: str = field(default_factory=random_key)

    @staticmethod
    def load(data_dir: Path) -> Secrets:
        """Return the folder's secrets, making them the first time."""
        try:
            return Secrets(**json.loads((data_dir / "secrets.json").read_bytes()))
        except FileNotFoundError:
            made = Secrets(random_key(), random_key(), random_key(8), random_key(), random_key(8))
            made.save(data_dir)
            return made

    def save(self, data_dir: Path) -> None:
        """Write them, readable by their owner only."""
        _write_private(data_dir / "secrets.json", asdict(self))


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, making it if need be, for as long as the block runs.

    The kernel lets go of the lock when the process ends, however it ends.

    Raises:
        AlreadyRunning: Another process holds it.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock_path(data_dir).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(data_dir, file.read().strip() or "unknown") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _is_locked(data_dir: Path) -> bool:
    try:
        with _lock_path(data_dir).open("rb") as file:
            # Shared: two commands that look at once must not take each other for a stack.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_path(data_dir: Path) -> Path:
    return data_dir / "lock"


def _connection_path(data_dir: Path) -> Path:
    return data_dir / "connection.json"


def _write_private(path: Path, facts: dict[str, object]) -> None:
    # Written beside and moved: a reader sees the old file or the new one, never half of one.
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(facts, file, indent=2)
        file.write("\n")
    fresh.replace(path)
