"""Scenes and edits in words, in many ways.

Owns the vocabulary, what a caption says of a scene and what it leaves open, and the instructions
that lead from one scene to another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tools import scenes
from tools.scenes import Scene

_SAID = {
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "cyan": ("cyan", "cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "black": ("black",),
    "gray": ("gray", "grey"),
    "circle": ("circle", "circle", "disc", "disk"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond", "diamond", "rhombus"),
    "star": ("star",),
    "heart": ("heart",),
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "large", "big", "huge"),
    "left": ("on the left", "on the left side", "to the left"),
    "right": ("on the right", "on the right side", "to the right"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "middle": ("in the middle", "in the center", "in the centre"),
}
_OPENINGS = ("", "", "", "a picture of ", "an image of ", "a drawing of ", "a photo of ", "draw ")
_GROUNDS = (
    "on a {} background",
    "on a {} background",
    "on {}",
    "against a {} background",
    "over a {} background",
    "with a {} background",
)
_RECOLOUR: tuple[str, ...] = (
    "make it {}",
    "make the {shape} {}",
    "turn it {}",
    "paint it {}",
    "paint the {shape} {}",
    "color it {}",
    "change the color to {}",
    "change its colour to {}",
)
_RESHAPE: tuple[str, ...] = (
    "turn it into a {}",
    "make it a {}",
    "turn the {shape} into a {}",
    "change it to a {}",
    "change the shape to a {}",
    "replace the {shape} with a {}",
    "replace it with a {}",
)
_REGROUND: tuple[str, ...] = (
    "put it on a {} background",
    "put the {shape} on a {} background",
    "make the background {}",
    "change the background to {}",
    "paint the background {}",
    "give it a {} background",
    "turn the background {}",
)
# How often the usual size and place are said.
_SAID_OFTEN = {"medium": 0.2, "middle": 0.2}
EDITS = ("colour", "shape", "background")
# Never asked for, but a prompt may have them; each word is one token.
_OTHERS = """
please draw show me something nice simple flat bright dark photo painting cat dog house tree sun
moon sky sea and of the one two three it is that colored coloured shape color colour style outline
outlined
"""


@dataclass(frozen=True)
class Meaning:
    """What a text asks for; None is left open. `edit` names what an instruction changes."""

    colour: str | None = None
    shape: str | None = None
    background: str | None = None
    size: str | None = None
    place: str | None = None
    edit: str | None = None


@dataclass(frozen=True)
class Said:
    """A text and its meaning."""

    text: str
    meaning: Meaning


def caption(rng: random.Random, scene: Scene, *, complete: bool = False) -> Said:
    """Return a caption of a scene.

    A complete one names shape, colour and background, and size and place now and then. Of others,
    which models learn from, few leave out any of the three, and a size or place that is left out is
    the usual one: what is drawn is certain, which is learnt much sooner.
    """
    whole = 1.0 if complete else 0.96
    meaning = Meaning(
        colour=_maybe(rng, scene.colour, whole),
        shape=_maybe(rng, scene.shape, whole),
        background=_maybe(rng, scene.background, whole),
        size=_maybe(rng, scene.size, 0.5 if complete else _SAID_OFTEN.get(scene.size, 1.0)),
        place=_maybe(rng, scene.place, 0.5 if complete else _SAID_OFTEN.get(scene.place, 1.0)),
    )
    colour, size = _word(rng, meaning.colour), _word(rng, meaning.size)
    noun = _word(rng, meaning.shape) or "shape"
    place = _word(rng, meaning.place)
    ground = rng.choice(_GROUNDS).format(_word(rng, meaning.background))
    if meaning.background is None:
        ground = ""
    thing = _with_article(_joined(size, colour, noun))
    if colour and rng.random() < 0.15:  # now and then
        thing = _with_article(_joined(size, noun)) + f" that is {colour}"
    order = rng.random()
    if ground and order < 0.2:  # one in five
        text = f"{ground}, {_joined(thing, place)}"
    elif order < 0.4:  # one in five
        text = rng.choice(_OPENINGS) + _joined(thing, ground, place)
    else:
        text = rng.choice(_OPENINGS) + _joined(thing, place, ground)
    return Said(text, meaning)


def instruction(rng: random.Random, scene: Scene, edit: str) -> tuple[Said, Scene]:
    """Return an instruction that changes one thing of a scene, and the scene as changed."""
    if edit == "shape":
        value = rng.choice([each for each in scenes.SHAPES if each != scene.shape])
        after, forms = replace(scene, shape=value), _RESHAPE
    else:
        taken = (scene.colour, scene.background)
        names = scenes.COLOURS if edit == "colour" else scenes.BACKGROUNDS
        value = rng.choice([each for each in names if each not in taken])
        forms = _RECOLOUR if edit == "colour" else _REGROUND
        after = (
            replace(scene, colour=value) if edit == "colour" else replace(scene, background=value)
        )
    noun = rng.choice((_word(rng, scene.shape), "shape", _word(rng, scene.shape)))
    text = rng.choice(forms).format(_word(rng, value), shape=noun).replace("a orange", "an orange")
    meaning = Meaning(**{edit: value}, edit=edit)
    return Said(text, meaning), after


def words() -> list[str]:
    """Return every word that is said, sorted."""
    said = " ".join(
        (
            *(form for forms in _SAID.values() for form in forms),
            *_OPENINGS,
            *(form.replace("{shape}", "").replace("{}", "") for form in _GROUNDS),
            *(
                form.replace("{shape}", "").replace("{}", "")
                for form in (*_RECOLOUR, *_RESHAPE, *_REGROUND)
            ),
            "a an shape",
            _OTHERS,
        )
    )
    return sorted(set(said.replace("-", " ").split()))


def _maybe(rng: random.Random, value: str, chance: float) -> str | None:
    return value if rng.random() < chance else None


def _word(rng: random.Random, meant: str | None) -> str:
    return rng.choice(_SAID[meant]) if meant else ""


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _with_article(thing: str) -> str:
    return ("an " if thing[0] in "aeiou" else "a ") + thing
