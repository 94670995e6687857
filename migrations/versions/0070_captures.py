"""A capture is one call, and waits for no other capture of its gateway.

What a gateway has on hold is no longer kept beside its account: every capture changed that row, and
the next one of the same gateway waited for it until the commit. It is a snapshot and the postings
after it now, as an orchestrator's earnings are. The amounts of a capture follow from its hold, so
the database works them out, and the lines of an entry are checked entry by entry, not line by line.
"""

from alembic import context, op

revision = "0070_captures"
down_revision = "0060_sdwebui_options"
branch_labels = None
depends_on = None

# `follow_postings` refuses every other change of a balance.
KEEP = """
ALTER TABLE accounts DISABLE TRIGGER follow_postings;
ALTER TABLE accounts DROP CONSTRAINT ck_accounts_materialised;
UPDATE accounts SET balance = {held} WHERE kind = 'held';
ALTER TABLE accounts ENABLE TRIGGER follow_postings;
ALTER TABLE accounts ADD CONSTRAINT ck_accounts_materialised
    CHECK ((balance IS NOT NULL) = ({kept}));
"""
POSTED = """(SELECT coalesce(sum(p.amount), 0) FROM postings p
                  WHERE p.account_id = accounts.id)"""

# Until now the first capture in a currency opened it.
OPEN_REVENUE = """
INSERT INTO accounts (kind, currency)
SELECT DISTINCT 'revenue', currency FROM accounts WHERE kind = 'payable'
ON CONFLICT DO NOTHING
"""

CHECK_POSTINGS = """
CREATE OR REPLACE FUNCTION ledger_check_postings() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    bad record;
BEGIN
    SELECT l.entry_id, l.total,
           e.id IS NOT NULL
               AND l.lines = (SELECT count(*) FROM postings q WHERE q.entry_id = l.entry_id)
               AS at_once,
           (l.currencies = ARRAY[e.currency]
            AND e.currency = coalesce(h.currency, rc.currency, y.currency, e.currency)) IS TRUE
               AS own_currency
      INTO bad
      FROM (
        SELECT p.entry_id, count(*) AS lines, sum(p.amount) AS total,
               array_agg(DISTINCT a.currency) AS currencies,
               array_agg(a.gateway_id) FILTER (WHERE a.gateway_id IS NOT NULL) AS gateways,
               array_agg(a.orchestrator_id) FILTER (WHERE a.orchestrator_id IS NOT NULL)
                   AS orchestrators,
               sum(p.amount) FILTER (WHERE a.kind = 'available') AS available,
               sum(p.amount) FILTER (WHERE a.kind = 'held') AS held,
               sum(p.amount) FILTER (WHERE a.kind = 'payable') AS payable,
               sum(p.amount) FILTER (WHERE a.kind = 'revenue') AS revenue,
               sum(p.amount) FILTER (WHERE a.kind = 'payouts') AS payouts,
               sum(p.amount) FILTER (WHERE a.kind = 'funding') AS funding
          FROM new_postings p
          LEFT JOIN accounts a ON a.id = p.account_id
         GROUP BY p.entry_id
      ) AS l
      LEFT JOIN entries e ON e.id = l.entry_id
      LEFT JOIN holds h ON h.id = e.hold_id
      LEFT JOIN charges c ON c.entry_id = e.id
      LEFT JOIN refunds r ON r.entry_id = e.id
      LEFT JOIN charges rc ON rc.hold_id = r.hold_id
      LEFT JOIN payouts y ON y.id = e.payout_id
     WHERE (l.total = 0
            AND l.lines = (SELECT count(*) FROM postings q WHERE q.entry_id = l.entry_id)
            AND l.currencies = ARRAY[e.currency]
            AND e.currency = coalesce(h.currency, rc.currency, y.currency, e.currency)
            AND coalesce(coalesce(h.gateway_id, rc.gateway_id) = ALL (l.gateways), true)
            AND coalesce(coalesce(h.orchestrator_id, rc.orchestrator_id, y.orchestrator_id)
                         = ALL (l.orchestrators), true)
            AND CASE e.kind
                WHEN 'top_up' THEN l.available > 0 AND l.funding = -l.available
                WHEN 'capture' THEN
                    (coalesce(l.available, 0), l.held, coalesce(l.payable, 0),
                     coalesce(l.revenue, 0), num_nonnulls(l.payouts, l.funding))
                  = (h.amount - c.amount, -h.amount, c.orchestrator_payment, c.platform_fee, 0)
                WHEN 'hold' THEN
                    l.lines = 2 AND (l.available, l.held) = (-h.amount, h.amount)
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
                END) IS NOT TRUE
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF NOT bad.at_once THEN
        RAISE EXCEPTION 'entry % has its postings already, or is none: one cannot be added later',
            bad.entry_id USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_at_once';
    ELSIF NOT bad.own_currency THEN
        RAISE EXCEPTION 'entry % posts to an account of another currency, or to none', bad.entry_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_own_currency';
    ELSIF bad.total <> 0 THEN
        RAISE EXCEPTION 'entry % does not balance: its postings sum to %', bad.entry_id, bad.total
            USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_balance';
    END IF;
    RAISE EXCEPTION 'entry % does not post what it is about', bad.entry_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'postings_as_due';
END $$;
"""

# Plans are kept from the first call on: making one takes longer than a capture does. All holds are
# locked, in id order, before any is looked at; one that cannot be captured stops all of them. The
# amount is rounded up, and the fee down, to 18 decimals, as `charges` demands.
CAPTURE = """
CREATE FUNCTION ledger_capture(hold_ids uuid[], delivered bigint[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    done bigint;
BEGIN
    WITH locked AS MATERIALIZED (
        SELECT h.*, p.delivered
          FROM unnest(hold_ids, delivered) AS p (hold_id, delivered)
          JOIN holds h ON h.id = p.hold_id
         ORDER BY h.id FOR NO KEY UPDATE OF h
    ), part AS MATERIALIZED (
        SELECT l.*, charged.amount AS charged, trunc(charged.amount * l.fee_rate, 18) AS fee
          FROM locked l,
               LATERAL (SELECT l.delivered * l.price_per_unit * 1e18
                             * CASE WHEN l.price_currency IS NULL THEN 1 ELSE l.rate END AS quanta,
                               l.pixels_per_unit
                             * CASE WHEN l.price_currency IS NULL THEN 1 ELSE l.rate_divisor END
                               AS divisor) AS exact,
               LATERAL (SELECT (div(quanta, divisor)
                                + CASE WHEN mod(quanta, divisor) = 0 THEN 0 ELSE 1 END)
                               * 0.000000000000000001 AS amount) AS charged
         WHERE (SELECT count(*) FROM locked
                 WHERE state = 'open' AND locked.delivered BETWEEN 1 AND units)
             = cardinality(hold_ids)
    ), entry AS (
        INSERT INTO entries (kind, currency, hold_id) SELECT 'capture', currency, id FROM part
        RETURNING id, hold_id
    ), posting AS (
        INSERT INTO postings (entry_id, account_id, amount)
        SELECT entry.id, line.account_id, line.amount
          FROM part JOIN entry ON entry.hold_id = part.id
          LEFT JOIN accounts held ON held.gateway_id = part.gateway_id AND held.kind = 'held'
          LEFT JOIN accounts available
                 ON available.gateway_id = part.gateway_id AND available.kind = 'available'
          LEFT JOIN accounts payable
                 ON payable.orchestrator_id = part.orchestrator_id AND payable.kind = 'payable'
          LEFT JOIN accounts revenue
                 ON revenue.kind = 'revenue' AND revenue.currency = part.currency
                AND revenue.gateway_id IS NULL AND revenue.orchestrator_id IS NULL,
               LATERAL (VALUES (held.id, -part.amount), (payable.id, part.charged - part.fee),
                               (revenue.id, part.fee), (available.id, part.amount - part.charged))
                       AS line (account_id, amount)
         WHERE line.amount <> 0
    ), charge AS (
        INSERT INTO charges (hold_id, entry_id, reference, gateway_id, orchestrator_id, pipeline,
                             model_id, units, price_per_unit, pixels_per_unit, currency, amount,
                             platform_fee, orchestrator_payment, price_currency, rate, rate_divisor)
        SELECT part.id, entry.id, reference, gateway_id, orchestrator_id, pipeline, model_id,
               part.delivered, price_per_unit, pixels_per_unit, currency, charged, fee,
               charged - fee, price_currency, CASE WHEN price_currency IS NOT NULL THEN rate END,
               CASE WHEN price_currency IS NOT NULL THEN rate_divisor END
          FROM part JOIN entry ON entry.hold_id = part.id
        RETURNING 1
    )
    SELECT count(*) INTO done FROM charge;
    RETURN done;
END $$;
"""


def upgrade() -> None:
    op.execute(KEEP.format(held="NULL", kept="kind = 'available'"))
    op.execute(OPEN_REVENUE)
    op.execute(CHECK_POSTINGS)
    op.execute(CAPTURE)
    op.execute("REVOKE EXECUTE ON FUNCTION ledger_capture(uuid[], bigint[]) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION ledger_capture(uuid[], bigint[]) TO pixeltoll_app")


def downgrade() -> None:
    first = context.script.get_revision("0001_ledger").module
    eighth = context.script.get_revision("0008_payouts").module
    sure = context.script.get_revision("0036_sure_plans").module
    op.execute("DROP FUNCTION ledger_capture(uuid[], bigint[])")
    postings = first.CHECK_POSTINGS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    for before, after in eighth.DUE:
        postings = postings.replace(before, after)
    op.execute(postings)
    op.execute(eighth.HARDEN.format(function="ledger_check_postings"))
    for plan in sure.PLANS:
        op.execute(f"ALTER FUNCTION ledger_check_postings() SET {plan} = off")
    op.execute(KEEP.format(held=POSTED, kept="gateway_id IS NOT NULL"))
