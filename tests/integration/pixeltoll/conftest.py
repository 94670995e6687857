"""An operator, on an empty database of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tasks.settings import TaskSettings
from tests import stage as stages
from tests.integration.pixeltoll.helpers import Operator
from tests.stage import Stage


@pytest.fixture
def operator(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Operator()


@pytest.fixture
def stage(session_factory: sessionmaker[Session], tmp_path: Path) -> Stage:
    """The market of `tests.stage`, without broker and store."""
    catalog = stages.write_catalog(tmp_path / "catalog.toml")
    return stages.furnish(session_factory, TaskSettings(), catalog)
