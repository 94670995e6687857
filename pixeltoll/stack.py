"""A whole stack on one machine: servers, schema, first rows, and our processes.

It owns the order in which they start and what each is told; the parts are described elsewhere.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.orm import Session, sessionmaker

from ledger import db
from ledger.settings import LedgerSettings
from pixeltoll import bootstrap, embedded, migrate, postgres, processes, state
from pixeltoll.embedded import Server, free_port
from pixeltoll.errors import PortTaken
from pixeltoll.settings import UpSettings, child_environment
from pixeltoll.state import Connection, Pids, Secrets
from pixeltoll.supervisor import Child, Supervisor
from tasks.catalog import DEMO, DEMO_LORA

_TEND_S = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `pixeltoll up` was asked for. Port 0 means any free one."""

    data_dir: Path
    port: int = 8080
    flower: bool = False


@contextlib.contextmanager
def running(options: Options, say: Say) -> Iterator[Stack]:
    """Run a stack for as long as the block does, and stop everything it started afterwards.

    Raises:
        AlreadyRunning: Another process runs one on the data folder.
        PortTaken: The port is in use.
        NotInstalled: An embedded server is missing.
        PreparationFailed: An embedded server cannot be made ready.
        StartFailed: A child did not start.
    """
    data_dir = options.data_dir.resolve()
    with state.locked(data_dir), _listening(options.port) as listener:
        # One that was killed leaves its own behind.
        Connection.remove(data_dir)
        supervisor = Supervisor(data_dir / "logs", say)
        stack = Stack(data_dir, supervisor, say)
        try:
            stack.start(listener, flower=options.flower)
            yield stack
        finally:
            Connection.remove(data_dir)
            supervisor.stop()


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        # A port that an earlier stack used is free, though the kernel remembers its connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((processes.LOOPBACK, port))
        except OSError as error:
            raise PortTaken(port) from error
        yield listener


class Stack:
    """A stack: `start` it once, then `tend` it. `connection` says how to use it."""

    connection: Connection

    def __init__(self, data_dir: Path, supervisor: Supervisor, say: Say) -> None:
        self._data_dir = data_dir
        self._supervisor = supervisor
        self._say = say

    def start(self, listener: socket.socket, *, flower: bool) -> None:
        """Start everything that is not given, in order, and write down how to connect to it."""
        given = UpSettings()
        secrets = Secrets.load(self._data_dir)
        found = self._servers(given, secrets)
        migrate.upgrade(found.owner_database_url)
        if not given.database_url:
            found = replace(found, database_url=postgres.service_url(found.owner_database_url))
        catalog = given.catalog.resolve() if given.catalog else DEMO
        engine = db.make_engine(found.database_url)
        sessions = db.session_factory(engine)
        self._first_rows(sessions, catalog, secrets)
        _, port = listener.getsockname()
        self.connection = replace(
            found,
            url=_url(port),
            worker_url=_url(free_port()),
            scheduler_url=_url(free_port()),
            api_key=secrets.api_key,
            orchestrator_key=secrets.orchestrator_key,
            admin_key=given.admin_key or secrets.admin_key,
            metrics_key=given.metrics_key or secrets.metrics_key,
            catalog=str(catalog),
        )
        env = child_environment(
            PIXELTOLL_LORAS=f"*/*,{DEMO_LORA}" if given.loras is None else given.loras,
            PIXELTOLL_MODEL_CACHE=str(given.model_cache or self._data_dir / "models" / "cache"),
            **self.connection.environment(),
        )
        self._say("Starting the API, the scheduler and a worker ...")
        children = [
            processes.api(env, self._data_dir, listener.fileno(), port),
            processes.scheduler(self._scheduler_environment(env), self._data_dir),
            processes.worker(
                {**env, **_watched_at(self.connection.worker_url)}, self._data_dir, sessions
            ),
        ]
        if flower:
            children.append(self._flower(env, secrets))
        self._supervisor.start(*children)
        engine.dispose()
        self._write_down()

    def tend(self) -> None:
        """Restart what crashed, and write down its new process id."""
        if self._supervisor.tend():
            self._write_down()

    def tend_forever(self) -> None:
        """Tend until a signal ends it."""
        while True:
            self.tend()
            time.sleep(_TEND_S)

    def _servers(self, given: UpSettings, secrets: Secrets) -> Connection:
        """Start the servers that are not given, and return the part of the connection they make."""
        self._say("Starting the servers ...")
        data_dir = self._data_dir
        keys = (given.s3_access_key_id, given.s3_secret_access_key)
        if not given.s3_endpoint:
            keys = (secrets.s3_access_key_id, secrets.s3_secret_access_key)
        database_url = given.database_url or self._serve(postgres.server(data_dir))
        return Connection(
            database_url=database_url,
            owner_database_url=database_url,
            redis_url=given.redis_url
            or self._serve(embedded.redis_server(data_dir, secrets.redis_password)),
            s3_endpoint=given.s3_endpoint
            or self._serve(embedded.s3_server(data_dir, *keys, given.s3_bucket)),
            s3_bucket=given.s3_bucket,
            s3_access_key_id=keys[0],
            s3_secret_access_key=keys[1],
        )

    def _serve(self, server: Server) -> str:
        self._supervisor.start(server.child)
        return server.url

    def _first_rows(self, sessions: sessionmaker[Session], catalog: Path, secrets: Secrets) -> None:
        """See to the demo gateway, orchestrator and offers, and to a key of each party."""
        currency = LedgerSettings().settlement_currency
        with sessions.begin() as session:
            served = bootstrap.capabilities(catalog)
            owner = bootstrap.demo_orchestrator(session, currency, served)
            secrets.orchestrator_key = bootstrap.worker_key(
                session, owner, secrets.orchestrator_key
            )
            gateway = bootstrap.demo_gateway(session, currency)
            secrets.api_key = bootstrap.demo_key(session, gateway, secrets.api_key)
        secrets.save(self._data_dir)

    def _scheduler_environment(self, env: Mapping[str, str]) -> dict[str, str]:
        watched = _watched_at(self.connection.scheduler_url)
        # It hears no request that would tell it where the API is.
        return {"PIXELTOLL_PUBLIC_URL": self.connection.url, **env, **watched}

    def _flower(self, env: Mapping[str, str], secrets: Secrets) -> Child:
        port = free_port()
        login = f"pixeltoll:{secrets.flower_password}"
        url = f"http://{login}@{processes.LOOPBACK}:{port}"
        self.connection = replace(self.connection, flower_url=url)
        return processes.flower({**env, "FLOWER_BASIC_AUTH": login}, self._data_dir, port)

    def _write_down(self) -> None:
        pids = self._supervisor.pids
        self.connection = replace(
            self.connection, pids=Pids(pids["api"], pids["worker"], pids["scheduler"])
        )
        self.connection.write(self._data_dir)


def _url(port: int) -> str:
    return f"http://{processes.LOOPBACK}:{port}"


def _watched_at(url: str) -> dict[str, str]:
    """Return what lets a process answer /metrics and /healthz at this URL: each has its own."""
    place = urlsplit(url)
    return {
        "PIXELTOLL_METRICS_HOST": str(place.hostname),
        "PIXELTOLL_METRICS_PORT": str(place.port),
    }
