"""What a worker works with: built once, by the composition root, and handed to its parts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from tasks.catalog import Catalog
from tasks.engine.protocol import Engine
from tasks.leases import Leases
from tasks.settings import TaskSettings
from tasks.speeds import Speeds
from tasks.storage import ObjectStore


@dataclass(frozen=True)
class Runtime:
    """The parts and settings of one worker process."""

    worker_id: str
    orchestrator_id: UUID
    queues: tuple[str, ...]
    sessions: sessionmaker[Session]
    store: ObjectStore
    engine: Engine
    catalog: Catalog
    settings: TaskSettings
    leases: Leases
    speeds: Speeds
