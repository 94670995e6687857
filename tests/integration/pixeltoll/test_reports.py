"""Reports at the command line: narrowed, as a table, CSV or JSON, to a file; and the chart."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image

from ledger.reports import REPORTS
from pixeltoll import charts
from pixeltoll.charts import OTHER, Frame, Spent
from pixeltoll.errors import NoDrawing, NotWritten
from tests.integration.pixeltoll.helpers import Operator, done
from tests.stage import OTHER as OTHER_MODEL
from tests.stage import SIDE, SMALL, Stage

AMOUNT = SIDE * SIDE * Decimal("1.9073484e-08")
LAST = date(2026, 11, 21)


def day_of(stage: Stage) -> date:
    found = stage.scalar("SELECT max(day) FROM charges")
    assert isinstance(found, date)
    return found


def test_every_report_is_a_command_and_says_its_columns_even_without_rows(
    operator: Operator,
) -> None:
    for name in REPORTS:
        header, *rows = operator.run("report", name, "--format", "csv").splitlines()
        assert len(header.split(",")) > 4
        assert rows == []
    assert operator.run("report", "charges") == "None.\n"


def test_a_report_is_narrowed_by_its_columns_and_days(operator: Operator, stage: Stage) -> None:
    job = done(stage)
    today = day_of(stage)
    tomorrow = today + timedelta(days=1)

    def charges(*narrowed: str) -> int:
        return len(operator.rows("report", "charges", *narrowed))

    assert charges() == charges("--gateway", "studio", "--orchestrator", "rig") == 1
    assert charges("--model", SMALL) == charges("--job", str(job.id)) == 1
    assert charges("--gateway", "other") == charges("--model", OTHER_MODEL) == 0
    assert charges("--since", f"{today}", "--until", f"{today}") == 1
    assert charges("--since", f"{tomorrow}") == 0
    assert len(operator.rows("report", "invoice-lines", "--month", f"{today:%Y-%m}")) == 1
    assert len(operator.rows("report", "invoice-lines", "--month", "2020-01")) == 0


def test_all_formats_say_the_same(operator: Operator, stage: Stage, tmp_path: Path) -> None:
    done(stage)
    file = tmp_path / "daily"

    operator.run("report", "model-daily", "--format", "json", "--output", str(file))
    (row,) = json.loads(file.read_text())["data"]
    operator.run("report", "model-daily", "--format", "csv", "--output", str(file))
    (line,) = csv.DictReader(io.StringIO(file.read_text()))
    operator.run("report", "model-daily", "--output", str(file))
    header, cells = file.read_text().splitlines()

    assert Decimal(row["amount"]) == AMOUNT
    assert line == {name: str(value) for name, value in row.items()}
    assert header.split() == list(row)
    assert cells.split() == [str(value) for value in row.values()]


def test_rows_that_are_left_out_are_told_of(operator: Operator, stage: Stage) -> None:
    done(stage)

    said = operator.ended("report", "journal", "--account", "held", "--limit", "1")

    assert len(said.stdout.splitlines()) == 2
    assert said.stderr == "Only the first 1 rows are shown: ask for more with --limit.\n"


def test_spend_is_by_day_and_model_and_drawn(
    operator: Operator, stage: Stage, tmp_path: Path
) -> None:
    done(stage)
    picture = tmp_path / "spend.png"

    (row,) = operator.rows("report", "spend", "--gateway", "studio")
    assert operator.rows("report", "spend", "--until", "2020-01-01") == []
    days = ("--since", "2020-01-01", "--until", "9998-12-31")
    said = operator.ended("report", "spend", *days, "--json", "--png", str(picture))

    assert (row["day"], row["model_id"]) == (str(day_of(stage)), SMALL)
    assert Decimal(row["amount"]) == AMOUNT
    assert json.loads(said.stdout)["data"] == [row]
    assert said.stderr == f"The chart is {picture}\n"
    with Image.open(picture) as image:
        assert (image.format, image.size) == ("PNG", (1320, 660))


def test_models_beyond_those_that_can_be_told_apart_are_one() -> None:
    spent = [Spent(LAST, f"m{number:02}", Decimal(number)) for number in range(1, 13)]
    spent += [Spent(LAST - timedelta(days=1), "m01", Decimal("0.000000000000000001"))]

    models = charts.by_model(spent)

    assert list(models) == [*(f"m{number:02}" for number in range(12, 4, -1)), OTHER]
    assert models[OTHER] == {
        LAST: Decimal(1 + 2 + 3 + 4),
        LAST - timedelta(days=1): Decimal("0.000000000000000001"),
    }


@pytest.mark.parametrize(("days", "models"), [(1, 2), (9, 12), (400, 1), (7, 0)], ids=str)
def test_few_and_many_are_drawn(tmp_path: Path, days: int, models: int) -> None:
    spent = [
        Spent(LAST, f"a$b/{'long ' * number}", Decimal(number + 1)) for number in range(models)
    ]
    first = LAST - timedelta(days=days - 1)

    charts.draw_spend(tmp_path / "c.png", spent, Frame(first, LAST, "USD", "studio"))

    with Image.open(tmp_path / "c.png") as image:
        assert image.size == (1320, 660)


def test_no_day_is_too_narrow_to_be_seen(tmp_path: Path) -> None:
    """Of more days than a picture has pixels, months are drawn."""
    file = tmp_path / "c.png"
    for days in (charts._DAYS_MAX, 1026):
        frame = Frame(LAST - timedelta(days=days - 1), LAST, "USD")
        spent = [Spent(frame.first, "one", Decimal(1)), Spent(LAST, "two", Decimal(10))]
        charts.draw_spend(file, spent, frame)
        with Image.open(file) as image:
            # Above the labels, where no legend is.
            columns = image.convert("RGB").crop((0, 500, image.width, 590))
            seen = {colour for _, colour in columns.getcolors(2**16) or []}
        assert seen >= {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)}

    frame = Frame(date(2024, 1, 31), LAST, "USD")
    assert frame.columns[:2] == [date(2024, 1, 1), date(2024, 2, 1)]
    assert len(frame.columns) == 35


def test_a_name_that_the_fonts_do_not_have_is_drawn_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts.draw_spend(
            tmp_path / "c.png", [Spent(LAST, "图", Decimal(1))], Frame(LAST, LAST, "USD")
        )


def test_a_picture_that_cannot_be_drawn_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = Frame(LAST, LAST, "USD")
    with pytest.raises(NotWritten, match="Choose another"):
        charts.draw_spend(tmp_path / "no" / "c.png", [], frame)

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NoDrawing, match=r"pip install 'pixeltoll\[reports\]'"):
        charts.draw_spend(tmp_path / "c.png", [], frame)
