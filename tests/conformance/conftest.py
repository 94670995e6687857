"""The API as foreign clients see it: served over a socket, with a worker behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import FakeEngine
from tests.integration.api.conftest import shared_world
from tests.integration.api.working import served, working
from tests.integration.api.world import World

__all__ = ["shared_world"]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    """What the worker draws with."""
    return FakeEngine()


@pytest.fixture(scope="module")
def address(shared_world: World, engine: FakeEngine) -> Iterator[str]:
    """Where the API is."""
    with working(shared_world, engine), served(shared_world) as address:
        yield address
