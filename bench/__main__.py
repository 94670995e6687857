"""`python -m bench`: measure, print one table, and write it where asked."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench import (
    books,
    captures,
    claims,
    models,
    overhead,
    report,
    starts,
    submits,
    waiting,
)
from bench.measure import Row
from bench.parts import Parts, parts


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of all arms, the share of the usual samples, and depths."""

    rounds: int
    share: float
    depths: tuple[int, ...]
    postings: tuple[int, ...]


_USUAL = Plan(5, 1.0, (1_000, 100_000, 1_000_000), (10_000, 10_000_000))
_QUICK = Plan(3, 0.2, (1_000, 20_000), (10_000, 200_000))

_BENCHES: dict[str, Callable[[Parts, Plan], list[Row]]] = {
    "submits": lambda parts, plan: submits.rows(parts, plan.rounds, plan.share),
    "starts": lambda parts, plan: starts.rows(parts, plan.rounds, plan.share),
    "overhead": lambda parts, plan: overhead.rows(parts, plan.rounds, plan.share),
    "waiting": lambda parts, plan: waiting.rows(parts, plan.rounds, plan.share),
    "claims": lambda parts, plan: claims.rows(parts, plan.rounds, plan.depths),
    "captures": lambda parts, plan: captures.rows(parts, plan.rounds, plan.share),
    "books": lambda parts, plan: books.rows(parts, plan.rounds, plan.postings),
    "models": lambda parts, plan: models.rows(parts, plan.rounds),
}


def main() -> None:
    """Run the benches that are asked for."""
    asked = _arguments()
    plan = _QUICK if asked.quick else _USUAL
    plan = replace(
        plan, depths=asked.depths or plan.depths, postings=asked.postings or plan.postings
    )
    rows: list[Row] = []
    with parts() as lent:
        where = report.machine(lent.data_dir)
        for name in asked.only or _BENCHES:
            began = time.monotonic()
            rows += _BENCHES[name](lent, plan)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    report.show(rows, where)
    if asked.write:
        report.write(rows, where, asked.write)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, shallower queues")
    parser.add_argument(
        "--only", action="append", choices=_BENCHES, help="one bench; may be repeated"
    )
    parser.add_argument(
        "--depths",
        type=_depths,
        help=f"queue depths for claims, from {claims.SHALLOWEST}: 1000,100000",
    )
    parser.add_argument(
        "--postings", type=_depths, help="depths of the ledger for books: 10000,1000000"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the table into a page, between its markers"
    )
    return parser.parse_args()


def _depths(text: str) -> tuple[int, ...]:
    depths = tuple(int(part) for part in text.split(","))
    if len(set(depths)) == 1 or min(depths) < claims.SHALLOWEST:
        raise argparse.ArgumentTypeError(
            f"two different depths or more, none below {claims.SHALLOWEST}"
        )
    return depths


if __name__ == "__main__":
    main()
