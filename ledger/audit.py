"""Proof that the books are sound: queries that find what must not be.

They ask the rows themselves, and so find what was done with the database's rules switched off. What
other floors hold against the books (a job that has ended, say) they bring as queries of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

# As many offending rows as a person reads.
_SHOWN = 100

CHECKS: Mapping[str, str] = {
    "an entry that does not add up to zero": """
        SELECT entry_id, sum(amount) AS sum FROM postings
         GROUP BY entry_id HAVING sum(amount) <> 0""",
    "a currency that does not add up to zero": """
        SELECT a.currency, sum(p.amount) AS sum
          FROM postings p JOIN accounts a ON a.id = p.account_id
         GROUP BY a.currency HAVING sum(p.amount) <> 0""",
    "an entry without postings, or in another currency than its accounts": """
        SELECT e.id AS entry_id, e.kind, e.currency, a.id AS account_id
          FROM entries e
          LEFT JOIN postings p ON p.entry_id = e.id
          LEFT JOIN accounts a ON a.id = p.account_id
         WHERE a.currency IS DISTINCT FROM e.currency""",
    "a posting of no entry": """
        SELECT p.id AS posting_id, p.entry_id
          FROM postings p LEFT JOIN entries e ON e.id = p.entry_id WHERE e.id IS NULL""",
    "an entry or a charge of no hold, or a charge of no capture": """
        SELECT e.id AS entry_id, e.hold_id
          FROM entries e LEFT JOIN holds h ON h.id = e.hold_id
         WHERE e.hold_id IS NOT NULL AND h.id IS NULL
         UNION ALL
        SELECT c.entry_id, c.hold_id
          FROM charges c
          LEFT JOIN holds h ON h.id = c.hold_id
          LEFT JOIN entries e
                 ON e.id = c.entry_id AND e.hold_id = c.hold_id AND e.kind = 'capture'
         WHERE h.id IS NULL OR e.id IS NULL""",
    "a balance that is not the sum of its postings": """
        SELECT a.id AS account_id, a.kind, a.balance, coalesce(sum(p.amount), 0) AS posted
          FROM accounts a LEFT JOIN postings p ON p.account_id = a.id
         WHERE a.balance IS NOT NULL
         GROUP BY a.id HAVING a.balance <> coalesce(sum(p.amount), 0)""",
    "a gateway below zero": """
        SELECT id AS account_id, kind, balance FROM accounts WHERE balance < 0""",
    "held funds that are not the sum of the open holds": """
        SELECT a.gateway_id, b.balance, coalesce(sum(h.amount), 0) AS open
          FROM accounts a
          JOIN ledger_balances b ON b.account_id = a.id
          LEFT JOIN holds h ON h.gateway_id = a.gateway_id AND h.state = 'open'
         WHERE a.kind = 'held'
         GROUP BY a.id, b.balance HAVING b.balance <> coalesce(sum(h.amount), 0)""",
    "a hold whose state is not what its entries say": """
        SELECT h.id AS hold_id, h.state, e.kind
          FROM holds h LEFT JOIN entries e ON e.hold_id = h.id AND e.kind <> 'hold'
         WHERE h.state <> CASE e.kind WHEN 'capture' THEN 'captured' WHEN 'void' THEN 'voided'
                                      WHEN 'expire' THEN 'expired' ELSE 'open' END""",
    "a captured hold without its charge, or a charge of another": """
        SELECT h.id AS hold_id, h.state, c.amount
          FROM holds h LEFT JOIN charges c ON c.hold_id = h.id
         WHERE (h.state = 'captured') <> (c.hold_id IS NOT NULL)""",
    "a hold in the place of another that is not alike, or was not voided": """
        SELECT h.id AS hold_id, h.reference, h.amount, old.id AS supersedes, old.state,
               old.reference AS old_reference, old.amount AS old_amount
          FROM holds h JOIN holds old ON old.id = h.supersedes
         WHERE old.state <> 'voided' OR h.amount > old.amount OR h.units <> old.units
            OR h.reference <> old.reference OR h.gateway_id <> old.gateway_id""",
    "a job with two holds that are open or charged": """
        SELECT reference, count(*) AS holds FROM holds WHERE state IN ('open', 'captured')
         GROUP BY reference HAVING count(*) > 1""",
    "a charge above the limit of its hold": """
        SELECT hold_id, job_id, price_per_unit, pixels_per_unit, price_currency,
               limit_price_per_unit, limit_pixels_per_unit, limit_currency, rate, rate_divisor
          FROM billing_charges
         WHERE price_per_unit * limit_pixels_per_unit
             * CASE WHEN price_currency = currency THEN 1 ELSE rate END
             * CASE WHEN limit_currency = currency THEN 1 ELSE rate_divisor END
             > limit_price_per_unit * pixels_per_unit
             * CASE WHEN limit_currency = currency THEN 1 ELSE rate END
             * CASE WHEN price_currency = currency THEN 1 ELSE rate_divisor END""",
    "a charge that is not what its units cost, or not all shared out": """
        SELECT hold_id, job_id, units, price_per_unit, pixels_per_unit, price_currency,
               rate, rate_divisor, amount
          FROM billing_charges,
               LATERAL (SELECT CASE WHEN price_currency = currency THEN 1 ELSE rate END AS up,
                               CASE WHEN price_currency = currency THEN 1 ELSE rate_divisor END
                                   AS down) AS exchange
         WHERE amount * pixels_per_unit * down < units * price_per_unit * up
            OR (amount - 0.000000000000000001) * pixels_per_unit * down
               >= units * price_per_unit * up
            OR platform_fee + orchestrator_payment <> amount""",
    "a conversion by another rate than the one it names": """
        SELECT h.id AS hold_id, h.rate_id, h.rate, h.rate_divisor, r.rate AS said
          FROM holds h JOIN exchange_rates r ON r.id = h.rate_id
         WHERE (h.rate, h.rate_divisor) IS DISTINCT FROM
               (CASE WHEN r.quote_currency = h.currency THEN r.rate ELSE 1 END,
                CASE WHEN r.quote_currency = h.currency THEN 1 ELSE r.rate END)""",
    "a unit charged twice, or never held": """
        SELECT c.reference, count(*) AS charges, sum(c.units) AS charged, max(h.units) AS held
          FROM charges c LEFT JOIN holds h ON h.id = c.hold_id
         GROUP BY c.reference
        HAVING count(*) > 1 OR sum(c.units) > coalesce(max(h.units), 0)
         UNION ALL
        SELECT h.reference, count(*), NULL, h.units
          FROM entries e JOIN holds h ON h.id = e.hold_id WHERE e.kind = 'capture'
         GROUP BY h.id HAVING count(*) > 1""",
    "a snapshot that is not the sum of what it stands for": """
        SELECT s.account_id, s.horizon, s.debit, s.credit, s.postings, posted.*
          FROM balance_snapshots s, LATERAL (
            SELECT count(*) AS found,
                   coalesce(sum(-p.amount) FILTER (WHERE p.amount < 0), 0) AS debits,
                   coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0) AS credits
              FROM postings p WHERE p.account_id = s.account_id AND p.xid < s.horizon
          ) AS posted
         WHERE (s.postings, s.debit, s.credit)
               IS DISTINCT FROM (posted.found, posted.debits, posted.credits)""",
    "what is used of a budget is not what was held and charged": """
        SELECT u.budget_id, u.starts, u.used, spent.amount
          FROM budget_usage u JOIN budgets b ON b.id = u.budget_id,
               LATERAL (
            SELECT coalesce(sum(CASE h.state WHEN 'open' THEN h.amount ELSE c.amount END), 0)
                       AS amount
              FROM holds h LEFT JOIN charges c ON c.hold_id = h.id
             WHERE h.gateway_id = b.gateway_id AND h.created_at >= u.starts
               AND date_trunc(b.period, h.created_at, 'UTC') = u.starts
               AND (b.api_key_id IS NULL OR b.api_key_id = h.api_key_id)
          ) AS spent
         WHERE u.used <> spent.amount""",
    "what is refunded is not the sum of the refunds, or above the charge": """
        SELECT c.hold_id, c.amount, c.refunded, coalesce(sum(r.amount), 0) AS refunds
          FROM charges c LEFT JOIN refunds r ON r.hold_id = c.hold_id
         GROUP BY c.hold_id
        HAVING c.refunded <> coalesce(sum(r.amount), 0) OR c.refunded > c.amount""",
    "earnings that are not charges less refunds and payouts": """
        SELECT o.name AS orchestrator, p.posted, c.charged, r.refunded, y.paid
          FROM orchestrators o
          JOIN accounts a ON a.orchestrator_id = o.id AND a.kind = 'payable'
          CROSS JOIN LATERAL (
            SELECT coalesce(sum(amount), 0) AS posted FROM postings WHERE account_id = a.id
          ) AS p
          CROSS JOIN LATERAL (
            SELECT coalesce(sum(orchestrator_payment), 0) AS charged
              FROM charges WHERE orchestrator_id = o.id
          ) AS c
          CROSS JOIN LATERAL (
            SELECT coalesce(sum(orchestrator_payment), 0) AS refunded
              FROM refunds WHERE orchestrator_id = o.id
          ) AS r
          CROSS JOIN LATERAL (
            SELECT coalesce(sum(amount), 0) AS paid
              FROM payouts WHERE orchestrator_id = o.id AND state <> 'reversed'
          ) AS y
         WHERE p.posted <> c.charged - r.refunded - y.paid""",
    "a payout whose state is not what its entries say": """
        SELECT y.id AS payout_id, y.state, said.kinds
          FROM payouts y, LATERAL (
            SELECT coalesce(array_agg(e.kind ORDER BY e.id), '{}') AS kinds
              FROM entries e WHERE e.payout_id = y.id
          ) AS said
         WHERE y.state <> CASE WHEN 'payout_reversed' = ANY(said.kinds) THEN 'reversed'
                               WHEN 'payout_paid' = ANY(said.kinds) THEN 'paid'
                               WHEN 'payout' = ANY(said.kinds) THEN 'created' ELSE '' END""",
}


@dataclass(frozen=True)
class Finding:
    """One thing that must not be, and the rows (at most 100) that are so: none, if it is not."""

    check: str
    rows: tuple[dict[str, Any], ...]


def check(session: Session, also: Mapping[str, str] | None = None) -> list[Finding]:
    """Return what is wrong with the books, as `each` finds it; nothing, when they are sound."""
    return [finding for finding in each(session, also) if finding.rows]


def each(session: Session, also: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Ask one question after the other, and yield what each finds, be it no rows.

    `also` are queries of the floors above, by what they find. Each query sees one moment, and the
    books may move between two of them. It reads all of the books and takes as long as that takes.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))
    for name, query in {**CHECKS, **(also or {})}.items():
        yield _ask(session, name, query)


def _ask(session: Session, name: str, query: str) -> Finding:
    shown = text(f"SELECT * FROM ({query}) AS found LIMIT {_SHOWN}".replace(":", r"\:"))  # noqa: S608  queries of our own
    rows: Sequence[Any] = session.execute(shown).mappings().all()
    return Finding(name, tuple(dict(row) for row in rows))
