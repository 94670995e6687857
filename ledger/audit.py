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
    # What `ledger_check_postings` demands of the entries of a statement, and no line besides.
    "an entry that does not post what it is about": """
        SELECT e.id AS entry_id, e.kind, e.hold_id, e.payout_id, l.lines,
               l.available, l.held, l.payable, l.revenue, l.payouts, l.funding
          FROM entries e
          LEFT JOIN (
            SELECT p.entry_id, count(*) AS lines,
                   array_agg(a.gateway_id) FILTER (WHERE a.gateway_id IS NOT NULL) AS gateways,
                   array_agg(a.orchestrator_id) FILTER (WHERE a.orchestrator_id IS NOT NULL)
                       AS orchestrators,
                   sum(p.amount) FILTER (WHERE a.kind = 'available') AS available,
                   sum(p.amount) FILTER (WHERE a.kind = 'held') AS held,
                   sum(p.amount) FILTER (WHERE a.kind = 'payable') AS payable,
                   sum(p.amount) FILTER (WHERE a.kind = 'revenue') AS revenue,
                   sum(p.amount) FILTER (WHERE a.kind = 'payouts') AS payouts,
                   sum(p.amount) FILTER (WHERE a.kind = 'funding') AS funding
              FROM postings p JOIN accounts a ON a.id = p.account_id
             GROUP BY p.entry_id
          ) AS l ON l.entry_id = e.id
          LEFT JOIN holds h ON h.id = e.hold_id
          LEFT JOIN charges c ON c.entry_id = e.id
          LEFT JOIN refunds r ON r.entry_id = e.id
          LEFT JOIN charges rc ON rc.hold_id = r.hold_id
          LEFT JOIN payouts y ON y.id = e.payout_id
         WHERE (e.currency = coalesce(h.currency, rc.currency, y.currency, e.currency)
            AND coalesce(coalesce(h.gateway_id, rc.gateway_id) = ALL (l.gateways), true)
            AND coalesce(coalesce(h.orchestrator_id, rc.orchestrator_id, y.orchestrator_id)
                         = ALL (l.orchestrators), true)
            AND CASE e.kind
                WHEN 'top_up' THEN
                    l.lines = 2 AND l.available > 0 AND l.funding = -l.available
                WHEN 'hold' THEN
                    l.lines = 2 AND (l.available, l.held) = (-h.amount, h.amount)
                WHEN 'capture' THEN
                    (coalesce(l.available, 0), l.held, coalesce(l.payable, 0),
                     coalesce(l.revenue, 0), num_nonnulls(l.payouts, l.funding))
                  = (h.amount - c.amount, -h.amount, c.orchestrator_payment, c.platform_fee, 0)
                WHEN 'refund' THEN
                    (l.available, coalesce(l.payable, 0), coalesce(l.revenue, 0),
                     num_nonnulls(l.held, l.payouts, l.funding))
                  = (r.amount, -r.orchestrator_payment, -r.platform_fee, 0)
                WHEN 'payout' THEN
                    l.lines = 2 AND (l.payable, l.payouts) = (-y.amount, y.amount)
                WHEN 'payout_paid' THEN
                    l.lines = 2 AND (l.payouts, l.funding) = (-y.amount, y.amount)
                WHEN 'payout_reversed' THEN
                    l.lines = 2 AND l.payable = y.amount
                    AND -y.amount = CASE WHEN y.paid_at IS NULL THEN l.payouts ELSE l.funding END
                ELSE l.lines = 2 AND (l.available, l.held) = (h.amount, -h.amount)
                END) IS NOT TRUE""",
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
         WHERE a.balance IS NOT NULL OR a.kind = 'available'
         GROUP BY a.id HAVING a.balance IS DISTINCT FROM coalesce(sum(p.amount), 0)""",
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
        SELECT h.id AS hold_id, h.state, string_agg(e.kind, ', ' ORDER BY e.id) AS entries
          FROM holds h LEFT JOIN entries e ON e.hold_id = h.id
         GROUP BY h.id
        HAVING string_agg(e.kind, ', ' ORDER BY e.id) IS DISTINCT FROM
               CASE h.state WHEN 'captured' THEN 'hold, capture' WHEN 'voided' THEN 'hold, void'
                            WHEN 'expired' THEN 'hold, expire' ELSE 'hold' END""",
    "a captured hold without its charge, or a charge of another": """
        SELECT h.id AS hold_id, h.state, c.amount
          FROM holds h LEFT JOIN charges c ON c.hold_id = h.id
         WHERE (h.state = 'captured') <> (c.hold_id IS NOT NULL)""",
    # What `ledger_check_charges` demands of a statement, but the limit, which is asked for below.
    "a charge that is not what its hold agreed to": """
        SELECT c.hold_id, c.reference, c.units, h.units AS held_units, c.amount,
               h.amount AS held_amount, c.platform_fee, h.fee_rate
          FROM charges c JOIN holds h ON h.id = c.hold_id
         WHERE (c.reference, c.gateway_id, c.orchestrator_id, c.pipeline, c.model_id,
                c.price_per_unit, c.pixels_per_unit, c.currency, c.price_currency,
                c.rate, c.rate_divisor, c.platform_fee)
               IS DISTINCT FROM
               (h.reference, h.gateway_id, h.orchestrator_id, h.pipeline, h.model_id,
                h.price_per_unit, h.pixels_per_unit, h.currency, h.price_currency,
                CASE WHEN h.price_currency IS NOT NULL THEN h.rate END,
                CASE WHEN h.price_currency IS NOT NULL THEN h.rate_divisor END,
                trunc(c.amount * h.fee_rate, 18))
            OR c.units > h.units OR c.amount > h.amount""",
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
          FROM holds h LEFT JOIN exchange_rates r ON r.id = h.rate_id
         WHERE num_nonnulls(h.rate_id, h.price_currency, h.limit_currency) > 0
           AND (r.id IS NULL OR (h.rate, h.rate_divisor) IS DISTINCT FROM
               (CASE WHEN r.quote_currency = h.currency THEN r.rate ELSE 1 END,
                CASE WHEN r.quote_currency = h.currency THEN 1 ELSE r.rate END))""",
    "a unit charged twice, or never held": """
        SELECT c.reference, count(*) AS charges, sum(c.units) AS charged, max(h.units) AS held
          FROM charges c LEFT JOIN holds h ON h.id = c.hold_id
         GROUP BY c.reference
        HAVING count(*) > 1 OR sum(c.units) > coalesce(max(h.units), 0)
         UNION ALL
        SELECT h.reference, count(*), NULL, h.units
          FROM entries e JOIN holds h ON h.id = e.hold_id WHERE e.kind = 'capture'
         GROUP BY h.id HAVING count(*) > 1""",
    # One with a horizon that this server has not reached, as after a restore, is passed over.
    "a snapshot that is not the sum of what it stands for": """
        SELECT s.account_id, s.horizon, s.debit, s.credit, s.postings, posted.*
          FROM balance_snapshots s, LATERAL (
            SELECT count(*) AS found,
                   coalesce(sum(-p.amount) FILTER (WHERE p.amount < 0), 0) AS debits,
                   coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0) AS credits
              FROM postings p WHERE p.account_id = s.account_id AND p.xid < s.horizon
          ) AS posted
         WHERE s.horizon <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
           AND (s.postings, s.debit, s.credit)
               IS DISTINCT FROM (posted.found, posted.debits, posted.credits)""",
    # A budget counts from the period on in which it was set.
    "what is used of a budget is not what was held and charged": """
        SELECT budget_id, starts, u.used, spent.amount
          FROM (
            SELECT u.* FROM budget_usage u JOIN budgets b ON b.id = u.budget_id
             WHERE u.starts >= date_trunc(b.period, b.created_at, 'UTC')
          ) AS u
          FULL JOIN (
            SELECT b.id AS budget_id, date_trunc(b.period, h.created_at, 'UTC') AS starts,
                   sum(CASE h.state WHEN 'open' THEN h.amount
                                    ELSE coalesce(c.amount, 0) END) AS amount
              FROM budgets b
              JOIN holds h ON h.gateway_id = b.gateway_id
                          AND (b.api_key_id IS NULL OR b.api_key_id = h.api_key_id)
              LEFT JOIN charges c ON c.hold_id = h.id
             WHERE h.created_at >= date_trunc(b.period, b.created_at, 'UTC')
             GROUP BY 1, 2
          ) AS spent USING (budget_id, starts)
         WHERE coalesce(u.used, 0) <> coalesce(spent.amount, 0)""",
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
