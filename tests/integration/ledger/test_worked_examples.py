"""The ledger as a textbook: each test is one business day, with every sum written out.

The price is 1.9073484e-08 USD per pixel, and the platform keeps 10% of each charge.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from ledger import payouts, rates
from ledger.errors import OverPriceLimit
from ledger.limits import Limit
from ledger.money import unit_price
from tests.integration.ledger.helpers import Book

TWO_IMAGES = 2 * 256 * 256  # pixels
TWO_IMAGES_COST = Decimal("0.002499999694848")


def test_a_top_up(book: Book) -> None:
    """Ten dollars come in: the gateway can spend them, and the platform has taken them in."""
    book.top_up("10")

    assert book.balance().available == 10
    assert book.trial_balance() == {
        "available": 10,
        "held": 0,
        "payable": 0,
        "revenue": 0,
        "funding": -10,
    }
    book.prove()


def test_one_job(book: Book) -> None:
    """Two images are held, made, and charged; orchestrator and platform share the charge."""
    book.top_up("10")

    hold = book.hold(TWO_IMAGES)
    assert book.balance().available == Decimal("9.997500000305152")
    assert book.balance().held == TWO_IMAGES_COST

    [charge] = book.capture({hold: TWO_IMAGES})
    assert charge.amount == TWO_IMAGES_COST
    assert charge.platform_fee == Decimal("0.0002499999694848")
    assert charge.orchestrator_payment == Decimal("0.0022499997253632")
    assert charge.platform_fee + charge.orchestrator_payment == charge.amount

    assert book.balance().available == Decimal("9.997500000305152")
    assert book.balance().held == 0
    assert book.owed() == Decimal("0.0022499997253632")
    assert book.trial_balance() == {
        "available": Decimal("9.997500000305152"),
        "held": 0,
        "payable": Decimal("0.0022499997253632"),
        "revenue": Decimal("0.0002499999694848"),
        "funding": -10,
    }
    book.prove()


def test_a_void(book: Book) -> None:
    """A job is refused by its worker: the gateway has its money back, and nobody earned."""
    book.top_up("10")
    hold = book.hold(TWO_IMAGES)

    book.void(hold)

    assert book.balance().available == 10
    assert book.balance().held == 0
    assert book.owed() == 0
    assert _state(book) == ["voided"]
    book.prove()


def test_an_expiry(book: Book) -> None:
    """Nobody came for the job in time: as a void, but the journal says why."""
    book.top_up("10")
    hold = book.hold(TWO_IMAGES)

    book.expire(hold)

    assert book.balance().available == 10
    assert book.balance().held == 0
    assert _state(book) == ["expired"]
    kinds = book.rows("SELECT kind FROM entries ORDER BY id")
    assert [row.kind for row in kinds] == ["top_up", "hold", "expire"]
    book.prove()


def test_partial_delivery(book: Book) -> None:
    """Four images are held and three are delivered: three are charged, one is given back."""
    book.top_up("10")
    image = 256 * 256
    hold = book.hold(4 * image)
    assert book.balance().held == Decimal("0.004999999389696")

    [charge] = book.capture({hold: 3 * image})

    assert charge.units == 3 * image
    assert charge.amount == Decimal("0.003749999542272")
    assert book.balance().available == Decimal("9.996250000457728")
    assert book.balance().held == 0
    assert book.trial_balance()["revenue"] == Decimal("0.0003749999542272")
    book.prove()


def test_a_price_that_does_not_divide(book: Book) -> None:
    """At 1 USD for 3 pixels, a pixel costs a third, rounded up in the 18th decimal: once."""
    thirds = book.open_party("thirds", price="1", per=3, fee_rate="0.5")
    book.top_up("10", thirds)
    hold = book.hold(2, thirds)

    [charge] = book.capture({hold: 1})

    assert charge.amount == Decimal("0.333333333333333334")
    assert charge.platform_fee == Decimal("0.166666666666666667")
    assert charge.orchestrator_payment == Decimal("0.166666666666666667")
    assert book.balance(thirds).available == Decimal("9.666666666666666666")
    book.prove()


def test_a_fee_that_does_not_divide(book: Book) -> None:
    """A third of three quanta leaves nothing over; of four, one, and the orchestrator has it."""
    third = book.open_party("third", price="0.000000000000000001", fee_rate="0.333333")
    book.top_up("1", third)

    [charge] = book.capture({book.hold(4, third): 4})

    assert charge.platform_fee == Decimal("0.000000000000000001")
    assert charge.orchestrator_payment == Decimal("0.000000000000000003")
    book.prove()


def test_a_fee_rate_that_changes_while_a_job_runs(book: Book) -> None:
    """The platform's share is the one that was agreed when the funds were held."""
    book.top_up("10")
    hold = book.hold(TWO_IMAGES)
    book.rows("UPDATE orchestrators SET fee_rate = 0.5 RETURNING 1")

    [charge] = book.capture({hold: TWO_IMAGES})

    assert charge.platform_fee == Decimal("0.0002499999694848")
    [later] = book.capture({book.hold(TWO_IMAGES): TWO_IMAGES})
    assert later.platform_fee == Decimal("0.001249999847424")
    book.prove()


def test_a_refund_and_the_rest_of_it(book: Book) -> None:
    """A charge is given back in two parts, each split as the charge was, to the last digit."""
    book.top_up("10")
    hold = book.hold(TWO_IMAGES)
    book.capture({hold: TWO_IMAGES})

    book.refund(hold, "0.001")
    assert book.balance().available == Decimal("9.998500000305152")
    assert book.owed() == Decimal("0.0013499997253632")
    assert book.trial_balance()["revenue"] == Decimal("0.0001499999694848")

    book.refund(hold, "0.001499999694848")
    assert book.balance().available == 10
    assert book.owed() == 0
    assert book.trial_balance()["revenue"] == 0
    [charge] = book.rows("SELECT amount, refunded FROM billing_charges")
    assert charge.refunded == charge.amount == TWO_IMAGES_COST
    book.prove()


def test_refunds_that_do_not_divide(book: Book) -> None:
    """Of ten quanta two were the fee. Given back as 3 + 3 + 4, they bring back 0 + 1 + 1 of it."""
    tiny = book.open_party("tiny", price="0.000000000000000001", fee_rate="0.25")
    book.top_up("1", tiny)
    hold = book.hold(10, tiny)
    [charge] = book.capture({hold: 10})
    assert charge.platform_fee == Decimal("0.000000000000000002")

    for quanta in (3, 3, 4):
        book.refund(hold, f"0.{quanta:018}")

    fees = [row.platform_fee for row in book.rows("SELECT * FROM refunds ORDER BY entry_id")]
    assert fees == [0, Decimal("0.000000000000000001"), Decimal("0.000000000000000001")]
    assert book.owed(tiny) == 0
    assert book.trial_balance()["revenue"] == 0
    book.prove()


def test_two_currencies_in_one_ledger(book: Book) -> None:
    """Each currency is a book of its own, and each adds up to zero by itself."""
    ether = book.open_party("ether", currency="ETH", price="0.000000000005")
    book.top_up("10")
    book.top_up("2", ether)

    book.capture({book.hold(1_000_000): 1_000_000, book.hold(1_000_000, ether): 1_000_000})

    assert book.balance(ether).available == Decimal("1.999995")
    assert book.owed(ether) == Decimal("0.0000045")
    assert sum(book.trial_balance("USD").values()) == 0
    assert sum(book.trial_balance("ETH").values()) == 0
    book.prove()


def test_two_orchestrators_and_a_limit_between_their_prices(book: Book) -> None:
    """North sells below the gateway's limit and south above it: only north gets the job."""
    cheap = book.party.offer
    dear = book.open_party("south", price="3e-08").offer
    limit = Limit("text-to-image", None, unit_price("2e-08"))
    assert [limit.allows(offer.price) for offer in (cheap, dear)] == [True, False]
    book.top_up("10")

    [charge] = book.capture({book.hold(TWO_IMAGES, limit=limit): TWO_IMAGES})
    assert charge.orchestrator_id == book.party.orchestrator_id
    with pytest.raises(OverPriceLimit, match=r"0\.00000003 USD per pixel, from north-south"):
        book.hold(TWO_IMAGES, replace(book.party, offer=dear), limit)

    [row] = book.rows("SELECT * FROM billing_charges")
    assert (row.limit_price_per_unit, row.limit_currency) == (Decimal("2e-08"), "USD")
    assert book.balance().available == Decimal("9.997500000305152")
    book.prove()


def test_wei_prices_with_a_rate_change_half_way(book: Book) -> None:
    """A job is charged at the rate of its admission; the next job at the new one."""
    book.top_up("10")
    image = 1024 * 1024
    wei = book.convert(book.party, "4768371", "4000", "wei")
    early = book.hold(image, wei)

    with book.sessions.begin() as session:
        rates.set_rate(session, "ETH", "USD", "5000", "the test")
    [first] = book.capture({early: image})
    [second] = book.capture({book.hold(image, wei): image})

    # 1048576 pixels x 4768371 wei x 4000 USD / 10**18 wei.
    assert first.amount == Decimal("0.019999997558784")
    assert second.amount == Decimal("0.02499999694848")
    assert (first.price_per_unit, first.price_currency) == (Decimal("0.000000000004768371"), "ETH")
    assert (first.rate, first.rate_divisor) == (Decimal(4000), Decimal(1))
    rows = book.rows("SELECT * FROM billing_charges ORDER BY entry_id")
    assert [(row.currency, row.price_currency, row.rate, row.rate_id) for row in rows] == [
        ("USD", "ETH", 4000, 1),
        ("USD", "ETH", 5000, 2),
    ]
    book.prove()


def test_a_payout(book: Book) -> None:
    """What an orchestrator has earned leaves its account; when it is paid, it has left us."""
    book.top_up("10")
    book.capture({book.hold(TWO_IMAGES): TWO_IMAGES})
    earned = Decimal("0.0022499997253632")

    [line] = book.pay_out("november").lines
    assert (line.orchestrator, line.amount, line.state) == ("north", earned, "created")
    assert book.owed() == 0
    assert book.trial_balance()["payouts"] == earned

    with book.sessions.begin() as session:
        [line] = payouts.mark_paid(session, "november").lines
    assert line.state == "paid"
    assert book.trial_balance() == {
        "available": Decimal("9.997500000305152"),
        "held": 0,
        "payable": 0,
        "payouts": 0,
        "revenue": Decimal("0.0002499999694848"),
        "funding": earned - 10,
    }
    book.prove()


def test_a_refund_of_a_partial_delivery_after_the_payout(book: Book) -> None:
    """Three of four images were charged and paid out; one comes back from who was paid for it."""
    book.top_up("10")
    image = 256 * 256
    hold = book.hold(4 * image)
    book.capture({hold: 3 * image})
    book.pay_out("november")

    book.refund(hold, "0.001249999847424")  # a third of what three images cost
    assert book.owed() == Decimal("-0.0011249998626816")
    assert book.balance().available == Decimal("9.997500000305152")

    book.capture({book.hold(4 * image): 4 * image})
    [line] = book.pay_out("december").lines
    assert line.amount == Decimal("0.0033749995880448")  # what three images are worth to it
    book.prove()


def test_a_month_in_the_reports(book: Book) -> None:
    """Two jobs and a refund: the day, the month and each party's share, as finance reads them."""
    book.top_up("10")
    first, second = book.hold(TWO_IMAGES), book.hold(TWO_IMAGES)
    book.capture({first: TWO_IMAGES, second: TWO_IMAGES // 2})
    book.refund(first, "0.001")

    [day] = book.rows("SELECT * FROM billing_gateway_daily")
    assert (day.gateway, day.jobs, day.units) == ("north", 2, 196608)
    assert (day.amount, day.refunded) == (Decimal("0.003749999542272"), Decimal("0.001"))
    assert day.net == Decimal("0.002749999542272")
    [earned] = book.rows("SELECT * FROM billing_orchestrator_daily")
    assert earned.amount == earned.platform_fee + earned.earned
    assert earned.net == book.owed() == Decimal("0.0024749995880448")
    [model] = book.rows("SELECT * FROM billing_model_daily")
    assert (model.model_id, model.jobs, model.net) == ("acme/north", 2, day.net)
    lines = book.rows("SELECT * FROM billing_invoice_lines ORDER BY kind")
    assert [(line.kind, line.items, line.amount) for line in lines] == [
        ("charge", 2, Decimal("0.003749999542272")),
        ("refund", 1, Decimal("-0.001")),
    ]
    assert {line.month for line in lines} == {day.day.replace(day=1)}
    debits, credits_ = (
        sum(line for [line] in book.rows(f"SELECT {side} FROM ledger_journal") if line)
        for side in ("debit", "credit")
    )
    assert debits == credits_
    assert book.rows("SELECT * FROM ledger_open_holds") == []


def _state(book: Book) -> list[str]:
    return [row.state for row in book.rows("SELECT state FROM holds")]
