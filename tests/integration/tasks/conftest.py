"""The market of `tests.stage`, on a database of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tasks.settings import TaskSettings
from tests import stage as stages
from tests.fakes import MoodyStore
from tests.stage import Stage


@pytest.fixture
def stage(
    session_factory: sessionmaker[Session], task_settings: TaskSettings, tmp_path: Path
) -> Stage:
    settings = task_settings.model_copy(update={"retry_delay_s": 0.0})
    return stages.furnish(session_factory, settings, stages.write_catalog(tmp_path / "c.toml"))


@pytest.fixture
def moody_store(task_settings: TaskSettings) -> MoodyStore:
    """An empty bucket, in a store that a test can take down."""
    store = MoodyStore.from_settings(task_settings)
    store.ensure_bucket()
    assert isinstance(store, MoodyStore)
    return store
