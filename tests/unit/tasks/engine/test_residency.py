"""What stays in memory: the most recently used, within the budget."""

from __future__ import annotations

from tasks.engine.residency import Residency


def filled(budget_bytes: int, *names: str) -> Residency[str]:
    residency: Residency[str] = Residency(budget_bytes)
    for name in names:
        residency.put(name, name.upper(), 10)
    return residency


def test_what_fits_is_kept_in_the_order_of_use() -> None:
    residency = filled(30, "a", "b", "c")
    assert residency.get("a") == "A"
    assert residency.names == ("b", "c", "a")
    assert residency.size_bytes == 30


def test_the_least_recently_used_goes_first() -> None:
    residency = filled(30, "a", "b", "c")
    residency.get("a")
    residency.put("d", "D", 10)
    assert residency.names == ("c", "a", "d")
    assert residency.get("b") is None


def test_as_many_go_as_the_newcomer_needs_and_they_are_named() -> None:
    residency = filled(30, "a", "b", "c")
    assert residency.make_room(20) == ["A", "B"]
    assert residency.make_room(20) == []


def test_one_that_stays_grows_at_the_cost_of_the_others() -> None:
    residency = filled(30, "a", "b", "c")
    assert residency.is_over(20, besides="a")
    assert residency.make_room(20, besides="a") == ["B"]
    residency.resize("a", 20)
    assert (residency.names, residency.size_bytes) == (("a", "c"), 30)
    assert residency.make_room(1000, besides="a") == ["C"]
    assert residency.names == ("a",)


def test_what_is_larger_than_the_budget_cannot_be_held() -> None:
    residency = filled(30)
    assert residency.can_hold(30)
    assert not residency.can_hold(31)


def test_a_newcomer_larger_than_the_budget_stands_alone() -> None:
    residency = filled(30, "a", "b")
    residency.put("giant", "GIANT", 1000)
    assert residency.names == ("giant",)
    residency.put("c", "C", 10)
    assert residency.names == ("c",)


def test_putting_a_name_again_replaces_it_and_its_size() -> None:
    residency = filled(30, "a", "b")
    residency.put("a", "new", 20)
    assert residency.get("a") == "new"
    assert residency.size_bytes == 30


def test_dropping_frees_and_forgives_unknown_names() -> None:
    residency = filled(30, "a")
    residency.drop("a")
    residency.drop("a")
    assert (residency.names, residency.size_bytes) == ((), 0)
