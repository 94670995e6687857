"""Livepeer's own files at the command line: all of a file or nothing, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.documented import DOCUMENTED_MODELS, DOCUMENTED_PRICES
from tests.integration.pixeltoll.helpers import Operator

REALVIS = "SG161222/RealVisXL_V4.0_Lightning"


@pytest.fixture
def rig(operator: Operator) -> Operator:
    operator.run("orchestrator", "create", "rig")
    operator.run("gateway", "create", "studio")
    return operator


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "file.json"
    path.write_text(text, "utf-8")
    return str(path)


def test_the_documented_models_become_offers(rig: Operator, tmp_path: Path) -> None:
    file = written(tmp_path, DOCUMENTED_MODELS)

    said = rig.run("offer", "import", "rig", file)

    assert said.splitlines()[1].split()[:4] == ["added", "text-to-image", REALVIS, "4768371"]
    assert f"Ignored: {file}, line 17: pipeline: audio-to-text is not run here.\n" in said
    row, larger = rig.rows("offer", "list")
    assert (larger["pipeline"], larger["price_per_unit"]) == ("upscale", "0.005")
    assert (row["orchestrator"], row["model_id"]) == ("rig", REALVIS)
    assert (row["price_per_unit"], row["currency"]) == ("4768371", "wei")


def test_only_what_changed_is_published_again(rig: Operator, tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [
        {"pipeline": "text-to-image", "model_id": name, "price_per_unit": 5} for name in "abc"
    ]
    rig.run("offer", "import", "rig", written(tmp_path, json.dumps(models)))
    before = {row["model_id"]: row["id"] for row in rig.rows("offer", "list")}
    models[0]["price_per_unit"] = "5wei"  # the same in other words
    models[1]["warm"] = True
    del models[2]  # an offer that no file names stays

    told = rig.json("offer", "import", "rig", written(tmp_path, json.dumps(models)))

    assert [(row["model_id"], row["offer"]) for row in told["offers"]] == [
        ("a", "unchanged"),
        ("b", "added"),
    ]
    after = {row["model_id"]: row["id"] for row in rig.rows("offer", "list")}
    assert {name for name in after if after[name] != before[name]} == {"b"}
    assert set(after) == set(before)


def test_a_default_price_is_for_entries_without_one(rig: Operator, tmp_path: Path) -> None:
    file = written(tmp_path, '[{"pipeline": "text-to-image", "model_id": "a", "capacity": 2}]')
    assert "line 1: price_per_unit: is missing" in rig.complaint("offer", "import", "rig", file)

    rig.run(
        *("offer", "import", "rig", file),
        *("--price-per-unit", "0.02USD", "--pixels-per-unit", "1000000"),
    )

    (row,) = rig.rows("offer", "list")
    assert (row["price_per_unit"], row["pixels_per_unit"]) == ("0.02", 1000000)
    assert row["capacity"] == 2


def test_the_documented_limits_replace_all_but_the_one_for_everything(
    rig: Operator, tmp_path: Path
) -> None:
    rig.run("limit", "set", "studio", "3")
    rig.run("limit", "set", "studio", "7", "--pipeline", "text-to-image")

    told = rig.json("limit", "import", "studio", written(tmp_path, DOCUMENTED_PRICES))

    assert told["limits"] == rig.rows("limit", "list", "studio")
    scopes = [(row["pipeline"], row["model_id"]) for row in told["limits"]]
    assert scopes == [
        ("audio-to-text", None),
        ("image-to-image", "ByteDance/SDXL-Lightning"),
        ("image-to-video", None),
        ("text-to-image", "stabilityai/stable-diffusion-3-medium-diffusers"),
        ("upscale", None),
        (None, None),
    ]
    assert told["limits"][-1]["price_per_unit"] == "3"
    assert len(told["warnings"]) == 5
    assert told["ignored"] == []
    assert "audio-to-text" in rig.run("limit", "import", "studio", str(tmp_path / "file.json"))


@pytest.mark.parametrize("what", ["offer", "limit"])
def test_a_file_with_one_wrong_entry_changes_nothing_and_names_its_line(
    rig: Operator, tmp_path: Path, what: str
) -> None:
    rig.run("limit", "set", "studio", "3", "--pipeline", "text-to-image")
    good = {"pipeline": "text-to-image", "model_id": "a", "price_per_unit": 5}
    entries = [good, {**good, "model_id": "b", "pixels_per_unit": 0}]
    document = entries if what == "offer" else {"capabilities_prices": entries}
    file = written(tmp_path, json.dumps(document, indent=1))
    line = next(
        number
        for number, text in enumerate(Path(file).read_text().splitlines(), 1)
        if "pixels_per_unit" in text
    )

    said = rig.complaint(what, "import", "rig" if what == "offer" else "studio", file)

    reason = "pixels_per_unit: must be a whole number from 1 to 10**18. Nothing was changed."
    assert said == f"pixeltoll: {file}, line {line}: {reason}\n"
    assert rig.rows("offer", "list") == []
    assert [row["pipeline"] for row in rig.rows("limit", "list", "studio")] == ["text-to-image"]


def test_whatever_stands_in_a_file_can_be_told_of(rig: Operator, tmp_path: Path) -> None:
    """Half a surrogate is legal in JSON, and no terminal is to be told to beep, or to scroll."""
    odd = {"a\ud800x": 1, "\x1b[2J\nIgnored": 2, "gateway": "\ud800y"}
    known = {"pipeline": "text-to-image", "model_id": "a", "price_per_unit": 5}
    file = written(tmp_path, json.dumps([{**known, **odd}]))
    said = rig.run("offer", "import", "rig", file)
    assert [line.rpartition(", ")[2] for line in said.splitlines() if "Ignored" in line] == [
        "line 1: a\\ud800x: is unknown.",
        "line 1: \\x1b[2J\\nIgnored: is unknown.",
        "not only \\ud800y.",
    ]
    limits = json.dumps({"capabilities_prices": [{**known, **odd}]})
    said = rig.run("limit", "import", "studio", written(tmp_path, limits))
    assert "line 1: a\\ud800x: is unknown.\n" in said
    twice = written(tmp_path, '[{"\\u0007": 1, "\\u0007": 2}]')
    assert "line 1: \\x07: is said twice" in rig.complaint("offer", "import", "rig", twice)


def test_a_file_that_is_no_text_cannot_be_read(rig: Operator, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(b"\xff\xfe\x00")

    assert "it is not UTF-8" in rig.complaint("offer", "import", "rig", str(file))
