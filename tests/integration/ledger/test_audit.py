"""Pins that the audit is silent on sound books, and names what the owner of the tables spoiled."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from ledger import audit
from tests.integration.ledger.helpers import DEFENCELESS, Book, new_book


@pytest.fixture(scope="module")
def busy(shared_sessions: sessionmaker[Session]) -> Book:
    """Books with one of everything."""
    book = new_book(shared_sessions)
    book.do_one_of_everything()
    return book


FAULTS = {
    "UPDATE postings SET amount = amount * 2 WHERE id = 2": [
        "an entry that does not add up to zero",
        "a currency that does not add up to zero",
        "a balance that is not the sum of its postings",
    ],
    "DELETE FROM postings WHERE entry_id = 1": [
        "an entry without postings, or in another currency than its accounts",
        "a balance that is not the sum of its postings",
    ],
    "DELETE FROM entries WHERE kind = 'top_up'": ["a posting of no entry"],
    "UPDATE entries SET currency = 'ETH' WHERE id = 1": [
        "an entry without postings, or in another currency than its accounts"
    ],
    "UPDATE accounts SET balance = -1 WHERE kind = 'available'": [
        "a balance that is not the sum of its postings",
        "a gateway below zero",
    ],
    """UPDATE postings SET amount = amount + 1 FROM accounts a
        WHERE a.id = account_id AND a.kind = 'held'""": [
        "held funds that are not the sum of the open holds"
    ],
    "UPDATE holds SET state = 'voided', resolved_at = now() WHERE state = 'open'": [
        "held funds that are not the sum of the open holds",
        "a hold whose state is not what its entries say",
    ],
    """UPDATE holds SET supersedes = (SELECT id FROM holds WHERE state = 'captured' LIMIT 1)
        WHERE state = 'voided'""": [
        "a hold in the place of another that is not alike, or was not voided"
    ],
    "UPDATE holds SET reference = 'one', supersedes = id": [
        "a job with two holds that are open or charged"
    ],
    "UPDATE charges SET hold_id = gen_random_uuid()": [
        "an entry or a charge of no hold, or a charge of no capture"
    ],
    "UPDATE entries SET kind = 'void' WHERE kind = 'capture'": [
        "an entry or a charge of no hold, or a charge of no capture",
        "a hold whose state is not what its entries say",
    ],
    "DELETE FROM charges": [
        "a captured hold without its charge, or a charge of another",
        "earnings that are not charges less refunds and payouts",
    ],
    "UPDATE charges SET units = units + 1": [
        "a charge that is not what its units cost, or not all shared out"
    ],
    "UPDATE charges SET platform_fee = 0": [
        "a charge that is not what its units cost, or not all shared out"
    ],
    "UPDATE holds SET limit_price_per_unit = 1e-9, limit_pixels_per_unit = 1": [
        "a charge above the limit of its hold"
    ],
    "UPDATE exchange_rates SET rate = rate * 2": [
        "a conversion by another rate than the one it names"
    ],
    "UPDATE budget_usage SET used = used + 1": [
        "what is used of a budget is not what was held and charged"
    ],
    "UPDATE balance_snapshots SET credit = credit + 1 WHERE account_id = 3": [
        "a snapshot that is not the sum of what it stands for"
    ],
    "UPDATE payouts SET state = 'paid'": ["a payout whose state is not what its entries say"],
    "UPDATE accounts SET balance = NULL WHERE kind = 'available'": [
        "a balance that is not the sum of its postings"
    ],
    **{
        f"UPDATE charges SET {change}": ["a charge that is not what its hold agreed to"]
        for change in (
            "gateway_id = gen_random_uuid()",
            "orchestrator_id = gen_random_uuid()",
            "reference = reference || ' and more'",
            "pipeline = 'upscale'",
            "model_id = 'acme/other'",
            "currency = 'ETH'",
            "pixels_per_unit = pixels_per_unit * 2, price_per_unit = price_per_unit * 2",
            "rate = rate * 2, rate_divisor = rate_divisor * 2",
            "price_currency = NULL, rate = NULL, rate_divisor = NULL",
            "amount = amount * 2, units = units * 2",
            """platform_fee = platform_fee + 1e-9,
               orchestrator_payment = orchestrator_payment - 1e-9""",
        )
    },
    # The platform's fees as if somebody had paid them in.
    """UPDATE postings SET account_id = (SELECT id FROM accounts WHERE kind = 'funding' LIMIT 1)
        WHERE account_id IN (SELECT id FROM accounts WHERE kind = 'revenue')""": [
        "an entry that does not post what it is about"
    ],
    """UPDATE postings SET account_id = (SELECT id FROM accounts WHERE kind = 'revenue' LIMIT 1)
        WHERE account_id IN (SELECT id FROM accounts WHERE kind = 'payouts')""": [
        "an entry that does not post what it is about"
    ],
    """WITH raised AS (UPDATE refunds SET amount = amount * 2)
       UPDATE charges c SET refunded = refunded * 2""": [
        "an entry that does not post what it is about"
    ],
    "UPDATE holds SET amount = amount * 2 WHERE state = 'voided'": [
        "an entry that does not post what it is about"
    ],
    "UPDATE payouts SET amount = amount * 2 WHERE state = 'reversed'": [
        "an entry that does not post what it is about"
    ],
    "UPDATE payouts SET orchestrator_id = gen_random_uuid() WHERE state = 'reversed'": [
        "an entry that does not post what it is about"
    ],
    """DO $$ BEGIN
         DROP INDEX uq_entries_hold_authorization;
         INSERT INTO entries (kind, currency, hold_id)
         SELECT 'hold', currency, id FROM holds WHERE state = 'expired';
       END $$""": [
        "a hold whose state is not what its entries say",
        "an entry that does not post what it is about",
    ],
    "DELETE FROM budget_usage": ["what is used of a budget is not what was held and charged"],
    "DELETE FROM exchange_rates": ["a conversion by another rate than the one it names"],
    "UPDATE holds SET rate_id = NULL": ["a conversion by another rate than the one it names"],
    "UPDATE holds SET units = 1": ["a unit charged twice, or never held"],
    "UPDATE charges SET refunded = 0": [
        "what is refunded is not the sum of the refunds, or above the charge"
    ],
    "DELETE FROM refunds": [
        "what is refunded is not the sum of the refunds, or above the charge",
        "earnings that are not charges less refunds and payouts",
    ],
}


def test_sound_books_have_no_findings(busy: Book) -> None:
    with busy.sessions.begin() as session:
        assert audit.check(session) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_spoiled_is_found(busy: Book, fault: str) -> None:
    with busy.sessions() as session:
        # The owner can: no trigger and no constraint is in the way now.
        session.execute(text(DEFENCELESS))
        session.execute(text(fault))
        found = {finding.check: finding.rows for finding in audit.check(session)}
        session.rollback()
    assert found.keys() >= set(FAULTS[fault])
    assert all(rows for rows in found.values())


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {check for checks in FAULTS.values() for check in checks} == set(audit.CHECKS)


def test_other_floors_bring_their_own_checks(busy: Book) -> None:
    mine = {"a gateway called north": "SELECT name FROM gateways WHERE name = 'north'"}
    with busy.sessions.begin() as session:
        assert audit.check(session, mine) == [
            audit.Finding("a gateway called north", ({"name": "north"},))
        ]
