"""The market of `tests.stage` with real worker and scheduler processes, and short patience."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tasks.app import make_celery
from tasks.dispatch import Ringer
from tasks.scheduler import Sweeper
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests import stage as stages
from tests.faults import roles
from tests.integration.pixeltoll.helpers import Operator
from tests.invariants import assert_no_orphans, assert_sound
from tests.processes import Broker, Process, broker
from tests.stage import Stage, eventually

LEASE_S, SWEEP_S, RING_S = 1.0, 0.1, 0.3
APPLICATION = "under-test"


@dataclass
class House:
    """Everything that runs, so that a test can break a part of it and look at the rest."""

    stage: Stage
    store: ObjectStore
    broker: Broker
    folder: Path
    env: dict[str, str]
    processes: list[Process] = field(default_factory=list)

    def start(self, role: Callable[..., None], *args: object, **env: str) -> Process:
        log = self.folder / f"{len(self.processes)}.log"
        log.touch()
        process = Process(role, *args, env={**self.env, **env}, log=log)
        self.processes.append(process)
        return process

    def start_worker(self, step_s: float = 0.0, **env: str) -> Process:
        return self.start(roles.fake_worker, step_s, **env)

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Sweep as the scheduler does, in a thread: it starts at once."""
        ringer = Ringer(make_celery(self.stage.settings))
        sweeper = Sweeper(self.stage.sessions, self.store, ringer.ring, self.stage.settings)
        ended = threading.Event()

        def sweep() -> None:
            while not ended.wait(SWEEP_S):
                sweeper.sweep()
                sweeper.tidy()

        thread = threading.Thread(target=sweep)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def wait_until_idle(self, process: Process) -> None:
        """Wait until a worker hears bells: what is submitted now is not what it starts with."""
        eventually(lambda: process.said("worker_listens"))

    def wait_for_step(self, state: str = "running", within_s: float = 30) -> None:
        """Wait until a worker is in the middle of a batch."""
        eventually(lambda: self.count("state = :state AND step > 0", state=state), within_s)

    def wait_until_done(self, within_s: float = 30) -> None:
        eventually(lambda: not self.count("finished_at IS NULL"), within_s)

    def count(self, where: str, **values: object) -> int:
        query = f"SELECT count(*) FROM jobs WHERE {where}"
        return int(str(self.stage.scalar(query, **values)))

    def states(self) -> dict[str, int]:
        return {
            state: self.count("state = :state", state=state)
            for state in ("queued", "running", "succeeded", "failed", "canceled", "expired")
            if self.count("state = :state", state=state)
        }

    def assert_sound(self) -> None:
        """Prove the invariants, after a last sweep."""
        at_once = self.stage.settings.model_copy(update={"lease_s": 0.0})
        Sweeper(self.stage.sessions, self.store, lambda _bell: None, at_once).tidy()
        assert_sound(self.stage.sessions, self.store)
        assert_no_orphans(self.stage.sessions, self.store)


def _environment(settings: TaskSettings, database_url: str, catalog: Path) -> Mapping[str, str]:
    return {
        # By this name, a test finds their connections.
        "DATABASE_URL": f"{database_url}&application_name={APPLICATION}",
        "REDIS_URL": settings.redis_url,
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_BUCKET": settings.s3_bucket,
        "S3_ACCESS_KEY_ID": settings.s3_access_key_id,
        "S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
        "PIXELTOLL_CATALOG": str(catalog),
        "PIXELTOLL_ORCHESTRATOR_KEY": settings.orchestrator_key.get_secret_value(),
        "PIXELTOLL_LEASE_S": str(LEASE_S),
        "PIXELTOLL_SWEEP_INTERVAL_S": str(SWEEP_S),
        "PIXELTOLL_RING_AFTER_S": str(RING_S),
        "PIXELTOLL_RETRY_DELAY_S": "0.1",
    }


@pytest.fixture
def operator(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Somebody at a terminal, on the same database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Operator()


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(prefix="pixeltoll-") as folder, broker(Path(folder)) as own:
        yield own


@pytest.fixture
def house(
    session_factory: sessionmaker[Session],
    database_url: str,
    task_settings: TaskSettings,
    store: ObjectStore,
    own_broker: Broker,
    tmp_path: Path,
) -> Iterator[House]:
    patience = {
        "redis_url": own_broker.url,
        "lease_s": LEASE_S,
        "ring_after_s": RING_S,
        "retry_delay_s": 0.1,
    }
    settings = task_settings.model_copy(update=patience)
    catalog = stages.write_catalog(tmp_path / "catalog.toml")
    stage = stages.furnish(session_factory, settings, catalog)
    env = dict(_environment(stage.settings, database_url, catalog))
    house = House(stage, store, own_broker, tmp_path, env)
    yield house
    for process in house.processes:
        process.kill()
