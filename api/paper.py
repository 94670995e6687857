"""Answers that a person keeps: CSV for a spreadsheet, a page to print, or JSON as everywhere else.

The query's `format` decides, else the `Accept` header. What stands in them is for the routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from flask import Response, render_template, request

from api.schemas import Form
from ledger import sheets
from ledger.money import plain

JSON, CSV, HTML = "application/json", "text/csv", "text/html"
_CENTS = 2  # as few decimals as money is written with
_TYPES: Mapping[Form, str] = {"json": JSON, "csv": CSV, "html": HTML}
# A page has its style in it, and nothing else: no script, no picture, no other host.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def form(asked: Form | None, offered: Sequence[Form]) -> Form:
    """Return the form that a request wants; the first one offered where it does not say."""
    if asked is not None:
        return asked
    by_type = {_TYPES[one]: one for one in offered}
    best = request.accept_mimetypes.best_match(by_type, default=_TYPES[offered[0]])
    return by_type[best]


def sheet(name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> Response:
    """Return rows as a CSV file of this name."""
    return csv_file(name, sheets.to_csv(columns, rows))


def csv_file(name: str, content: str) -> Response:
    """Return CSV as a file of this name."""
    return Response(
        content,
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
        mimetype=CSV,
    )


def page(template: str, **facts: object) -> Response:
    """Return a page of `api/templates`, which escapes whatever it is given."""
    return Response(
        render_template(template, **facts),
        headers={"Content-Security-Policy": _POLICY},
        mimetype=HTML,
    )


def aligned(amounts: Sequence[Decimal]) -> list[str]:
    """Write amounts one below the other: with every digit, and as many decimals in all of them."""
    decimals = max((len(plain(one).partition(".")[2]) for one in amounts), default=0)
    # Nothing has no sign.
    return [f"{one or Decimal(0):.{max(decimals, _CENTS)}f}" for one in amounts]
