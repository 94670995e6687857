"""The real parts that the benches run on, each started when a bench first asks for it.

Servers are the embedded ones in a folder of their own, and the database writes through to the disk:
what a crash could lose is no figure. Ours and the baselines' processes come from the same commands.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from uuid import UUID

import psycopg
import redis
from psycopg import sql
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from api import auth
from bench import backlog, baselines, engines
from ledger import accounts, db
from pixeltoll import embedded, migrate, postgres, processes
from pixeltoll.embedded import Server, free_port
from pixeltoll.settings import child_environment
from pixeltoll.state import random_key
from pixeltoll.supervisor import Child, Supervisor
from tasks import registration
from tasks.settings import TaskSettings
from tasks.tables import Worker

_ROOT = Path(__file__).resolve().parent.parent
_BUCKET = "pixeltoll"
_TEMPLATE = "migrated"
_API = "api.wsgi:app"
_WORKERS = 2
GATEWAYS = 16


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    """Lend the parts, and stop everything that was started afterwards."""
    data_dir = Path(tempfile.mkdtemp(prefix="pixeltoll-bench-")).resolve()
    started = Parts(data_dir)
    try:
        yield started
    finally:
        started.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


class Parts:
    """Every attribute starts what it needs, once."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._supervisor = Supervisor(data_dir / "logs", say=print)
        self._secret = random_key()

    def stop(self) -> None:
        """Stop every process."""
        self._supervisor.stop()

    def _serve(self, server: Server) -> str:
        self._supervisor.start(server.child)
        return server.url

    # --- servers ------------------------------------------------------------------------------

    @cached_property
    def _postgres_url(self) -> str:
        url = self._serve(postgres.server(self.data_dir, durable=True))
        _administer(url, "CREATE DATABASE {}", _TEMPLATE)
        migrate.upgrade(_database(url, _TEMPLATE))
        return url

    @cached_property
    def redis_url(self) -> str:
        """One Redis for both arms; the queues have different names."""
        return self._serve(embedded.redis_server(self.data_dir, self._secret))

    @cached_property
    def redis(self) -> redis.Redis:
        """A client for the lists that tasks and engines leave times in."""
        return redis.Redis.from_url(self.redis_url)

    @cached_property
    def _s3_endpoint(self) -> str:
        return self._serve(embedded.s3_server(self.data_dir, _BUCKET, self._secret, _BUCKET))

    # --- the house ----------------------------------------------------------------------------

    def database(self, name: str) -> str:
        """Make an empty database with the newest schema; returns its URL."""
        _administer(self._postgres_url, f"CREATE DATABASE {{}} TEMPLATE {_TEMPLATE}", name)
        return _database(self._postgres_url, name)

    @cached_property
    def database_url(self) -> str:
        """The database that the API and the worker use."""
        return self.database("house")

    @cached_property
    def engine(self) -> Engine:
        """An engine on that database, for this process."""
        return db.make_engine(self.database_url)

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        """Sessions on that database, for this process."""
        return db.session_factory(self.engine)

    @cached_property
    def gateway_id(self) -> UUID:
        """A gateway with funds and limits, and offers for every model of the benches."""
        with self.sessions.begin() as session:
            return backlog.open_books(session, (engines.SUBMITTED, *engines.SERVED))

    @cached_property
    def gateway_keys(self) -> tuple[str, ...]:
        """The keys of `GATEWAYS` gateways more, one of each: many clients are not one gateway."""
        _ = self.gateway_id  # The offers come with it.
        keys = []
        with self.sessions.begin() as session:
            for number in range(GATEWAYS):
                gateway_id = backlog.add_gateway(session, f"{backlog.OWNER}-{number}")
                keys.append(auth.create_key(session, gateway_id, backlog.OWNER)[1])
        return tuple(keys)

    @cached_property
    def task_settings(self) -> TaskSettings:
        """Settings of this process: it sends bells, and stores nothing."""
        return TaskSettings(redis_url=self.redis_url)

    @cached_property
    def _environment(self) -> dict[str, str]:
        catalog = self.data_dir / "catalog.toml"
        engines.write_catalog(catalog)
        return child_environment(
            DATABASE_URL=self.database_url,
            REDIS_URL=self.redis_url,
            CELERY_BROKER_URL=self.redis_url,  # The baselines' word for the same.
            S3_ENDPOINT=self._s3_endpoint,
            S3_BUCKET=_BUCKET,
            S3_ACCESS_KEY_ID=_BUCKET,
            S3_SECRET_ACCESS_KEY=self._secret,
            PIXELTOLL_CATALOG=str(catalog),
        )

    def start_worker(self) -> None:
        """Start a worker with a sleeping engine, once."""
        if "worker" in self._supervisor.pids:
            return
        _ = self.gateway_id  # Its offers come first.
        with self.sessions.begin() as session:
            owner = accounts.find_orchestrator(session, backlog.OWNER)
            _, key = registration.create_key(session, owner.id, backlog.OWNER)
        env = {**self._environment, "PIXELTOLL_ORCHESTRATOR_KEY": key}
        argv = (sys.executable, "-m", "bench.worker")
        self._supervisor.start(Child("worker", argv, env, ready=self._has_worker, cwd=_ROOT))

    def _has_worker(self) -> bool:
        with self.sessions.begin() as session:
            return session.scalar(select(Worker.id)) is not None

    @cached_property
    def api_port(self) -> int:
        """The port of the API."""
        return self._start_gunicorn("api", _API, _WORKERS)

    @cached_property
    def single_api_port(self) -> int:
        """The port of an API of one process."""
        return self._start_gunicorn("single-api", _API, 1)

    # --- the baselines ------------------------------------------------------------------------

    @cached_property
    def baseline_port(self) -> int:
        """The port of the app that stores nothing."""
        return self._start_gunicorn("baseline-api", "bench.baselines:app", _WORKERS)

    def start_baseline_worker(self) -> None:
        """Start a bare Celery worker, solo as ours is, once."""
        if "baseline-worker" in self._supervisor.pids:
            return
        baselines.celery.conf.update(broker_url=self.redis_url)
        argv = (
            *(sys.executable, "-m", "celery", "-A", "bench.baselines:celery", "worker"),
            *("--pool", "solo", "--queues", baselines.TASKS, "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle"),
        )
        self._supervisor.start(
            Child("baseline-worker", argv, self._environment, self._baseline_works, cwd=_ROOT)
        )

    def _baseline_works(self) -> bool:
        # The first stamp may be asked for more than once while the worker starts.
        baselines.stamp.apply_async(queue=baselines.TASKS)
        answered = self.redis.blpop([baselines.STAMPS], timeout=1) is not None
        while answered and self.redis.blpop([baselines.STAMPS], timeout=1) is not None:
            pass
        return answered

    def _start_gunicorn(self, name: str, app: str, workers: int) -> int:
        """Start an app behind gunicorn, by the command that the API has, whichever app it is.

        The API's hooks are its own: another app is spared them.
        """
        port = free_port()
        command = processes.gunicorn(
            f"{processes.LOOPBACK}:{port}", workers=workers, threads=processes.THREADS
        )
        argv = tuple(app if part == _API else part for part in command)
        if app != _API:
            argv = argv[: argv.index("--config")]
        self._supervisor.start(
            Child(name, argv, self._environment, ready=lambda: _answers(port), cwd=_ROOT)
        )
        return port


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(processes.LOOPBACK, port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        # Any status will do: the baseline has no such route.
        return connection.getresponse().status > 0


def _database(url: str, name: str) -> str:
    head, _, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{query}"


def _administer(url: str, statement: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
