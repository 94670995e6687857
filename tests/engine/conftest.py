"""The demo models, made once, and an engine that keeps them loaded for the whole session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.catalog import Catalog, load
from tasks.engine.demo import make_demo
from tasks.engine.diffusion import DiffusionEngine

# What diffusers' schedulers do that a later numpy, or a later diffusers, will refuse.
_NOT_OURS = (
    "ignore:__array:DeprecationWarning",
    "ignore:The configuration file of this scheduler:FutureWarning",
)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in _NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo")).parent


@pytest.fixture(scope="session")
def demo_catalog(demo_dir: Path) -> Catalog:
    return load(demo_dir / "catalog.toml")


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> DiffusionEngine:
    """An engine on the CPU. Not named `engine`: that is the database's."""
    return DiffusionEngine(tmp_path_factory.mktemp("cache"), device="cpu")
