"""A gateway's own statement and invoices: as JSON, CSV, and a page to print."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from api import auth, paper
from ledger import accounts, limits
from ledger.limits import Limit
from ledger.money import unit_price
from tests.integration.api.conformance import Answer, CheckedClient
from tests.integration.api.world import ADMIN_KEY, GOOD, MODEL, PRICE, World

COST = "0.001249999847424"
HELD = f"-{COST}"
TOP_UP = '=1+1 <script>alert("x")</script>'


def month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture(scope="module")
def client(shared_world: World) -> CheckedClient:
    """A client of a gateway with a job that was charged and partly refunded, and a canceled one."""
    with shared_world.sessions.begin() as session:
        row = accounts.create_gateway(session, "studio", "USD")
        accounts.top_up(session, row.id, Decimal("2.50"), TOP_UP)
        limits.replace_limits(session, row.id, [Limit(None, None, unit_price(PRICE))], "USD")
        _, key = auth.create_key(session, row.id, "k")
    client = shared_world.client(key)
    job = client.post("/v1/jobs", json=GOOD).json["id"]
    shared_world.succeed()
    other = client.post("/v1/jobs", json=GOOD).json["id"]
    client.post(f"/v1/jobs/{other}/cancel")
    shared_world.client(ADMIN_KEY).post(
        f"/v1/admin/jobs/{job}/refunds", json={"amount": "0.0005", "reference": "sorry"}
    )
    return client


def sheet(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


class Page(HTMLParser):
    """What a page says and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


# --- statements -------------------------------------------------------------------------------


def test_a_statement_is_what_moved_the_balance(client: CheckedClient) -> None:
    lines = client.get("/v1/statement").json["data"]
    assert [(line["kind"], line["amount"]) for line in lines] == [
        ("refund", "0.0005"),
        ("void", COST),
        ("hold", HELD),
        ("hold", HELD),
        ("top_up", "2.5"),
    ]
    total = sum(Decimal(line["amount"]) for line in lines)
    assert total == Decimal(client.get("/v1/balance").json["available"])
    assert lines[1]["reference"] == lines[2]["reference"]
    assert (lines[0]["reference"], lines[-1]["reference"]) == ("sorry", TOP_UP)


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("json", lambda answer: len(answer.json["data"])),
        ("csv", lambda answer: len(sheet(answer.text))),
        ("html", lambda answer: answer.text.count("<tr>") - 1),
    ],
)
def test_every_form_goes_on_by_its_link(
    client: CheckedClient, form: str, lines: Callable[[Answer], int]
) -> None:
    address, seen = f"/v1/statement?limit=2&format={form}", []
    while address:
        answer = client.get(address)
        seen.append(lines(answer))
        found = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("Link", ""))
        address = found[1] if found else ""
    assert seen == [2, 2, 1]


def test_a_statement_as_a_sheet_runs_no_formula(client: CheckedClient) -> None:
    answer = client.get("/v1/statement", headers={"Accept": "text/csv"})
    assert answer.mimetype == "text/csv"
    assert 'filename="statement-studio.csv"' in answer.headers["Content-Disposition"]
    lines = sheet(answer.text)
    assert [line["amount"] for line in lines] == ["0.0005", COST, HELD, HELD, "2.5"]
    assert lines[-1]["reference"] == f"'{TOP_UP}"


def test_a_statement_as_a_page_escapes_and_loads_nothing(client: CheckedClient) -> None:
    answer = client.get("/v1/statement", headers={"Accept": "text/html,*/*;q=0.8"})
    page = Page(answer.text)
    assert (answer.mimetype, "script" in page.tags, page.loads) == ("text/html", False, [])
    assert TOP_UP in page.text
    assert "Statement studio" in page.text
    assert f"Available now{client.get('/v1/balance').json['available']} USD" in page.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert answer.headers["Vary"] == "Accept"


def test_an_empty_statement_says_so(shared_world: World) -> None:
    client = shared_world.client(shared_world.other_key)
    assert client.get("/v1/statement").json == {"data": [], "next_cursor": None}
    assert "Nothing has moved." in client.get("/v1/statement?format=html").text
    assert len(sheet(client.get("/v1/statement?format=csv").text)) == 0


# --- invoices ---------------------------------------------------------------------------------


def test_an_invoice_has_a_line_for_each_price_and_adds_up(client: CheckedClient) -> None:
    assert client.get("/v1/invoices").json["data"] == [
        {"month": month(), "url": f"/v1/invoices/{month()}"}
    ]
    invoice = client.get(f"/v1/invoices/{month()}").json
    assert (invoice["gateway"], invoice["closed"], invoice["currency"]) == ("studio", False, "USD")
    price = {"price_per_unit": PRICE, "pixels_per_unit": 1, "currency": "USD"}
    what = {"pipeline": "text-to-image", "model_id": MODEL, "items": 1, **price}
    assert invoice["lines"] == [
        {"kind": "charge", "units": 65536, "amount": COST, **what},
        {"kind": "refund", "units": 0, "amount": "-0.0005", **what},
    ]
    sums = (invoice["charged"], invoice["refunded"], invoice["total"])
    assert sums == (COST, "0.0005", "0.000749999847424")


def test_an_invoice_as_a_sheet_has_the_same_lines(client: CheckedClient) -> None:
    answer = client.get(f"/v1/invoices/{month()}", headers={"Accept": "text/csv"})
    assert f'filename="invoice-{month()}-studio.csv"' in answer.headers["Content-Disposition"]
    lines = sheet(answer.text)
    assert [(line["kind"], line["amount"], line["units"]) for line in lines] == [
        ("charge", COST, "65536"),
        ("refund", "-0.0005", "0"),
    ]
    assert {(line["month"], line["gateway"], line["currency"]) for line in lines} == {
        (month(), "studio", "USD")
    }


def test_an_invoice_as_a_page_is_exact_and_loads_nothing(client: CheckedClient) -> None:
    answer = client.get(f"/v1/invoices/{month()}?format=html")
    page = Page(answer.text)
    assert f"<title>Invoice {month()} studio</title>" in answer.text
    assert (page.loads, "script" in page.tags) == ([], False)
    for said in (COST, "-0.000500000000000", "0.000749999847424 USD", f"{PRICE} USD per pixel"):
        assert said in page.text
    assert "not over" in page.text


def test_a_month_without_lines_is_an_invoice_of_nothing(client: CheckedClient) -> None:
    invoice = client.get("/v1/invoices/2020-02").json
    assert (invoice["lines"], invoice["total"], invoice["closed"]) == ([], "0", True)
    page = Page(client.get("/v1/invoices/2020-02?format=html").text)
    assert "1 to 29 February 2020" in page.text
    assert "Nothing was charged" in page.text
    assert "not over" not in page.text


def test_an_invoice_is_its_gateways_own(shared_world: World, client: CheckedClient) -> None:
    other = shared_world.client(shared_world.other_key)
    assert other.get("/v1/invoices").json["data"] == []
    assert other.get(f"/v1/invoices/{month()}").json["gateway"] == "second"
    assert client.get("/v1/statement").status_code == 200


@pytest.mark.parametrize(
    ("accept", "mimetype"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
        ("text/csv;q=0.5, text/html", "text/html"),
        ("application/json, text/html;q=0.9", "application/json"),
    ],
)
def test_the_accept_header_chooses_the_form(
    client: CheckedClient, accept: str, mimetype: str
) -> None:
    answer = client.get("/v1/invoices/2020-01", headers={"Accept": accept})
    assert answer.mimetype == mimetype


def test_amounts_below_each_other_have_the_same_decimals() -> None:
    amounts = [Decimal("1.5"), Decimal("-0.000000000000000001"), Decimal("1E+2")]
    assert paper.aligned(amounts) == [
        "1.500000000000000000",
        "-0.000000000000000001",
        "100.000000000000000000",
    ]
    assert paper.aligned([Decimal(2), Decimal("-0E-18")]) == ["2.00", "0.00"]
    assert paper.aligned([]) == []
