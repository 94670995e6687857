"""The prompts and edits that the demo models are measured on: none of them was trained on.

Owns the fixed list, `held_out.json`, and how it was drawn. Every prompt names a combination of
shape, colour and background that no training picture shows; every edit leads to one.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools import captions, scenes
from tools.scenes import Scene

_LIST = Path(__file__).with_name("held_out.json")
_PROMPTS_EACH = 6  # of a combination
_EDITS = 210
_SEED = 2026


@dataclass(frozen=True)
class Prompt:
    """A prompt, its seed, and what its picture must show."""

    text: str
    seed: int
    shape: str
    colour: str
    background: str
    place: str | None


@dataclass(frozen=True)
class Edit:
    """An input scene, an instruction, and what the scene must become."""

    before: Scene
    text: str
    seed: int
    edit: str
    after: Scene


def prompts() -> list[Prompt]:
    """Return the fixed list of prompts."""
    return [Prompt(**each) for each in _read()["prompts"]]


def edits() -> list[Edit]:
    """Return the fixed list of edits."""
    return [
        Edit(**{**each, "before": _scene(each["before"]), "after": _scene(each["after"])})
        for each in _read()["edits"]
    ]


def drawn() -> dict[str, list[dict[str, Any]]]:
    """Return the list as it was drawn. The file holds it, so that later changes are noticed."""
    rng = random.Random(_SEED)
    return {"prompts": _prompts(rng), "edits": _edits(rng)}


def _prompts(rng: random.Random) -> list[dict[str, Any]]:
    found: dict[str, Prompt] = {}
    for combination in scenes.combinations(held_out=True):
        goal = len(found) + _PROMPTS_EACH
        while len(found) < goal:
            scene = scenes.draw_scene(rng, combination)
            said = captions.caption(rng, scene, complete=True)
            shape, colour, background = combination
            found[said.text] = Prompt(
                said.text, rng.randrange(2**31), shape, colour, background, said.meaning.place
            )
    return [asdict(each) for each in found.values()]


def _edits(rng: random.Random) -> list[dict[str, Any]]:
    found: list[Edit] = []
    while len(found) < _EDITS:
        edit = captions.EDITS[len(found) % len(captions.EDITS)]
        before = scenes.draw_any(rng)
        said, after = captions.instruction(rng, before, edit)
        if scenes.is_held_out(after.shape, after.colour, after.background):
            found.append(Edit(before, said.text, rng.randrange(2**31), edit, after))
    return [asdict(each) for each in found]


def _read() -> dict[str, list[dict[str, Any]]]:
    lists: dict[str, list[dict[str, Any]]] = json.loads(_LIST.read_text("utf-8"))
    return lists


def _scene(row: dict[str, Any]) -> Scene:
    return Scene(**{**row, "tint": tuple(row["tint"])})
