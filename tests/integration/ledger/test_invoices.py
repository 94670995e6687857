"""Invoices by month: exact sums of every line, which months have any, and which are none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from ledger import invoices, rates, refunds, reports
from ledger.errors import InvalidMonth, UnknownCharge, UnknownGateway
from tests.integration.ledger.helpers import DEFENCELESS, Book

IMAGE = 1024 * 1024
PRICE = Decimal("0.019999997558784")
NOBODY = UUID(int=0)


def this_month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture
def charged(shared_book: Book) -> UUID:
    """A hold of one image that was charged, beside one that was refunded in two parts."""
    shared_book.top_up("1")
    first, second = shared_book.hold(IMAGE), shared_book.hold(IMAGE)
    shared_book.capture({first: IMAGE, second: IMAGE})
    shared_book.refund(first, "0.000000000000000001", shared_book.fresh("first"))
    shared_book.refund(first, "0.01", shared_book.fresh("second"))
    return first


def test_an_invoice_adds_up_to_the_last_digit(shared_book: Book, charged: UUID) -> None:
    with shared_book.sessions() as session:
        invoice = invoices.find(session, shared_book.party.gateway_id, this_month())

    assert [(line.kind, line.items, line.units, line.amount) for line in invoice.lines] == [
        ("charge", 2, 2 * IMAGE, 2 * PRICE),
        ("refund", 2, 0, Decimal("-0.010000000000000001")),
    ]
    assert (invoice.gateway, invoice.currency, invoice.closed) == (shared_book.name, "USD", False)
    assert invoice.charged == 2 * PRICE
    assert invoice.refunded == Decimal("0.010000000000000001")
    assert invoice.total == Decimal("0.029999995117567999")


def test_months_are_those_with_lines_and_past_ones_are_closed(
    shared_book: Book, charged: UUID
) -> None:
    gateway = shared_book.party.gateway_id
    with shared_book.sessions() as session:
        assert invoices.months(session, gateway) == [date.fromisoformat(f"{this_month()}-01")]
        # The owner of the tables can turn time back: charges to March and June, refunds to July.
        session.execute(text(DEFENCELESS))
        for hold_id, day in ((charged, "2020-06-30"), (None, "2020-03-31")):
            session.execute(
                text("""UPDATE charges SET created_at = CAST(:day AS date) + interval '12 h'
                         WHERE gateway_id = :gateway
                           AND (hold_id = :hold_id) IS NOT DISTINCT FROM :mine"""),
                {
                    "day": date.fromisoformat(day),
                    "gateway": gateway,
                    "hold_id": charged,
                    "mine": hold_id is not None,
                },
            )
        session.execute(text("UPDATE refunds SET created_at = '2020-07-01T00:00:00Z'"))
        months = invoices.months(session, gateway)
        june = invoices.find(session, gateway, "2020-06")
        july = invoices.find(session, gateway, "2020-07")
        session.rollback()

    assert [f"{month:%Y-%m}" for month in months] == ["2020-07", "2020-06", "2020-03"]
    assert (june.closed, june.total) == (True, PRICE)
    assert (july.charged, july.total) == (Decimal(0), Decimal("-0.010000000000000001"))


def test_a_year_ends_when_it_does_in_utc_wherever_the_reader_is(
    shared_book: Book, charged: UUID
) -> None:
    gateway = shared_book.party.gateway_id
    with shared_book.sessions() as session:
        session.execute(text(DEFENCELESS))
        session.execute(text("SET LOCAL TIME ZONE 'Pacific/Auckland'"))
        for mine, moment in ((True, "2019-12-31 23:59:59.999999"), (False, "2020-01-01 00:00:00")):
            session.execute(
                text("""UPDATE charges SET created_at = CAST(:moment AS timestamptz)
                         WHERE gateway_id = :gateway AND (hold_id = :charged) = :mine"""),
                {"moment": f"{moment}Z", "gateway": gateway, "charged": charged, "mine": mine},
            )
        session.execute(
            text("UPDATE refunds SET created_at = '2019-12-31T23:59:59Z' WHERE gateway_id = :id"),
            {"id": gateway},
        )
        months = invoices.months(session, gateway)
        december, january = (
            invoices.find(session, gateway, month) for month in ("2019-12", "2020-01")
        )
        days = session.execute(
            text("SELECT day, amount FROM billing_gateway_daily WHERE gateway = :name"),
            {"name": shared_book.name},
        ).all()
        session.rollback()

    assert months == [date(2020, 1, 1), date(2019, 12, 1)]
    assert (december.charged, january.charged, january.refunded) == (PRICE, PRICE, Decimal(0))
    assert december.total + january.total == 2 * PRICE - december.refunded
    assert sorted(days) == [(date(2019, 12, 31), PRICE), (date(2020, 1, 1), PRICE)]


def test_a_month_without_lines_is_an_invoice_of_nothing(shared_book: Book) -> None:
    with shared_book.sessions() as session:
        invoice = invoices.find(session, shared_book.party.gateway_id, "2020-01")
        assert invoices.months(session, shared_book.party.gateway_id) == []
    assert (invoice.lines, invoice.total) == ((), Decimal(0))


@pytest.mark.parametrize(
    "month",
    [
        "",
        "2026",
        "2026-13",
        "0000-01",
        "0001-01",
        "2026-1",
        "26-01",
        "2026-01-01",
        "9999-12",
        "२०२६-०१",
    ],
)
def test_what_is_no_month_yet_is_refused_by_name(shared_book: Book, month: str) -> None:
    with shared_book.sessions() as session, pytest.raises(InvalidMonth, match=r"^month: "):
        invoices.find(session, shared_book.party.gateway_id, month)


def test_a_gateway_that_does_not_exist_has_no_invoice(shared_book: Book) -> None:
    with shared_book.sessions() as session, pytest.raises(UnknownGateway):
        invoices.find(session, NOBODY, "2020-01")


def test_months_are_found_by_indexes(shared_book: Book) -> None:
    with shared_book.sessions() as session:
        for other in ("seqscan", "bitmapscan", "sort"):
            session.execute(text(f"SET LOCAL enable_{other} = off"))
        plan = session.scalars(
            text(f"EXPLAIN {invoices._MONTHS.text}"), {"gateway_id": NOBODY}
        ).all()
    for index in ("ix_charges_gateway_id_month on charges", "ix_refunds_gateway_id_day on refunds"):
        assert any(index in line for line in plan)
    assert not [line for line in plan if "Seq Scan" in line]


# --- what else is read in pages -----------------------------------------------------------------


def test_refunds_of_a_charge_are_listed_with_their_references(
    shared_book: Book, charged: UUID
) -> None:
    with shared_book.sessions() as session:
        history = refunds.history(session, charged)
        with pytest.raises(UnknownCharge):
            refunds.history(session, NOBODY)

    assert (history.charged, history.refunded) == (PRICE, Decimal("0.010000000000000001"))
    assert [one.reference.split()[0] for one in history.refunds] == ["first", "second"]
    for one in history.refunds:
        assert one.platform_fee + one.orchestrator_payment == one.amount


def test_rates_are_read_newest_first_with_their_age(shared_book: Book) -> None:
    seen = datetime.now(UTC) - timedelta(hours=1)
    with shared_book.sessions.begin() as session:
        ids = [rates.set_rate(session, "ETH", "USD", n, "test", seen).id for n in (1, 2, 3)]
    with shared_book.sessions() as session:
        first = rates.history(session, limit=2)
        rest = rates.history(session, before=first[-1][0].id)
    assert [row.id for row, _ in (*first, *rest)][:3] == ids[::-1]
    assert all(timedelta(hours=1) <= age < timedelta(hours=2) for _, age in first)


def test_only_a_report_with_numbers_goes_on_from_one(shared_book: Book) -> None:
    with shared_book.sessions() as session:
        assert reports.rows(session, "refusals", before=1) == []
        with pytest.raises(KeyError, match="before"):
            reports.rows(session, "charges", before=1)
