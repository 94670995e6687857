"""Which queue a worker serves next, and how images are cut into calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.batching import Backlog, choose_queue, chunks

PATIENCE = 20.0
LONG_AGO = 3600.0


def chosen(
    *backlogs: Backlog, loaded: tuple[str, ...] = (), since_switch_s: float = LONG_AGO
) -> str | None:
    return choose_queue(backlogs, loaded, PATIENCE, since_switch_s)


def backlog(model: str, waited_s: float = 1.0, priority: int = 0) -> Backlog:
    return Backlog(queue=f"q-{model}", model_id=model, priority=priority, waited_s=waited_s)


def test_nothing_is_ready() -> None:
    assert chosen() is None


def test_the_longest_wait_when_nothing_is_loaded() -> None:
    assert chosen(backlog("a", 1), backlog("b", 2)) == "q-b"


def test_a_loaded_model_goes_first() -> None:
    assert chosen(backlog("cold", 19), backlog("warm", 1), loaded=("warm",)) == "q-warm"


def test_a_loaded_model_goes_before_a_priority() -> None:
    cold = backlog("cold", 1, priority=9)
    assert chosen(cold, backlog("warm", 1), loaded=("warm",)) == "q-warm"


def test_another_model_is_not_made_to_wait_for_ever() -> None:
    assert chosen(backlog("cold", 20), backlog("warm", 1), loaded=("warm",)) == "q-cold"


def test_a_priority_decides_among_loaded_models() -> None:
    both = (backlog("a", 9), backlog("b", 1, priority=1))
    assert chosen(*both, loaded=("a", "b")) == "q-b"


def test_an_overloaded_worker_does_not_load_a_model_for_every_batch() -> None:
    both = (backlog("cold", 500), backlog("warm", 400))
    assert chosen(*both, loaded=("warm",), since_switch_s=5) == "q-warm"
    assert chosen(*both, loaded=("warm",), since_switch_s=20) == "q-cold"


def test_it_loads_at_once_what_is_asked_when_the_loaded_model_has_nothing_to_do() -> None:
    assert chosen(backlog("cold", 0), loaded=("warm",), since_switch_s=0) == "q-cold"


@pytest.mark.parametrize(
    ("count", "most", "lengths"),
    [
        (1, 8, [1]),
        (8, 8, [8]),
        (9, 8, [4, 5]),
        (16, 8, [8, 8]),
        (17, 8, [5, 6, 6]),
        (3, 1, [1] * 3),
    ],
)
def test_images_are_cut_evenly(count: int, most: int, lengths: list[int]) -> None:
    assert [len(run) for run in chunks(count, most)] == lengths


@given(st.integers(1, 500), st.integers(1, 64))
def test_every_image_is_in_one_chunk(count: int, most: int) -> None:
    runs = chunks(count, most)
    assert [number for run in runs for number in run] == list(range(count))
    assert max(map(len, runs)) <= most
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
