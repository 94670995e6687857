"""The demo fails when a sum is off, be it by the last decimal."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pixeltoll import demo
from pixeltoll.demo import _Books
from pixeltoll.errors import DemoFailed

QUANTUM = Decimal("1e-18")
JOB: dict[str, Any] = {
    "pipeline": "text-to-image",
    "model_id": "pixeltoll/shapes",
    "units": 131072,
    "price_per_unit": "0.000000019073484",
    "pixels_per_unit": 1,
    "currency": "USD",
    "amount": "0.002499999694848",
}
AMOUNT = Decimal(JOB["amount"])
BEFORE = _Books(gateway=Decimal(10), held=Decimal(0), orchestrator=Decimal(0))
AFTER = _Books(gateway=Decimal(10) - AMOUNT, held=Decimal(0), orchestrator=AMOUNT * 9 / 10)


def test_right_sums_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    demo._show_job(JOB)
    demo._show_books(BEFORE, AFTER, [JOB])

    words = " ".join(capsys.readouterr().out.split())
    assert "units 131072 pixels price 0.000000019073484 USD per pixel" in words
    assert "spent 0.002499999694848" in words
    assert "earned 0.0022499997253632 platform's fee 0.0002499999694848" in words


def test_an_amount_that_is_not_units_times_price_fails() -> None:
    with pytest.raises(DemoFailed, match="131072 pixels"):
        demo._show_job({**JOB, "amount": str(AMOUNT + QUANTUM)})


@pytest.mark.parametrize(
    "after",
    [
        _Books(AFTER.gateway - QUANTUM, Decimal(0), AFTER.orchestrator),
        _Books(AFTER.gateway, QUANTUM, AFTER.orchestrator),
        _Books(AFTER.gateway, Decimal(0), Decimal(0)),
        _Books(AFTER.gateway, Decimal(0), AMOUNT + QUANTUM),
    ],
    ids=["charged too much", "still held", "nothing earned", "earned too much"],
)
def test_books_that_are_off_fail(after: _Books) -> None:
    with pytest.raises(DemoFailed):
        demo._show_books(BEFORE, after, [JOB])
