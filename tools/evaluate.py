"""Measures the demo models on the held-out list: `python -m tools.evaluate`.

Owns what counts as right, the figures, and the contact sheets to look at. Pictures are made by the
engine that the workers use, with the catalog's defaults.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tasks.catalog import DEMO, ModelSpec, load
from tasks.engine.diffusion import DiffusionEngine
from tasks.engine.protocol import Batch, ImageTask
from tools import checker, held_out, scenes
from tools.checker import Reading
from tools.held_out import Edit, Prompt

DRAW_ID = "pixeltoll/shapes"
EDIT_ID = "pixeltoll/shapes-edit"
STYLE = "shapes-outline-lora"  # beside the models
SAMPLES = (
    "a red star on a white background",
    "a large yellow heart on a purple background",
    "on a black background, a small cyan circle on the left",
)
SAMPLE_EDIT = "make it blue"  # the first of them

# An edit leaves the rest alone if the shape stays where it was and as large as it was. A new shape
# of the same size covers other pixels, hence the two measures.
_OVERLAP_MIN = 0.75
_MOVED_MAX = 4.0  # pixels
_GROWN_MAX = 1.4


def run(
    engine: DiffusionEngine,
    model: ModelSpec,
    tasks: Sequence[ImageTask],
    loras: Mapping[str, float] | None = None,
) -> list[Image.Image]:
    """Return the pictures of the tasks, made in batches with the model's defaults."""
    pictures: list[Image.Image] = []
    for start in range(0, len(tasks), model.max_batch):
        batch = Batch(
            model=model,
            pipeline=model.pipelines[0],
            width=model.default_width,
            height=model.default_height,
            num_inference_steps=model.default_steps,
            guidance_scale=model.default_guidance_scale,
            image_guidance_scale=model.default_image_guidance_scale,
            strength=model.default_strength,
            tasks=tuple(tasks[start : start + model.max_batch]),
            loras=loras or {},
        )
        pictures += engine.generate(batch, lambda _done, _steps: True)
    return pictures


def drawn_right(prompt: Prompt, reading: Reading) -> dict[str, bool]:
    """Return what of a prompt its picture shows."""
    right = {
        "colour": reading.colour == prompt.colour,
        "shape": reading.shape == prompt.shape,
        "background": reading.background == prompt.background,
        "filled": not reading.outlined,
    }
    if prompt.place is not None:
        right["place"] = place_of(reading) == prompt.place
    return right


def place_of(reading: Reading) -> str:
    """Return the place whose direction from the middle the shape lies in, if it lies off it."""
    x, y = (part - (scenes.SIDE - 1) / 2 for part in (reading.x, reading.y))
    # Half of the least that a large shape, for which there is little room, is moved.
    if max(abs(x), abs(y)) < 2.5:
        return "middle"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def edited_right(edit: Edit, given: Image.Image, made: Image.Image) -> dict[str, bool]:
    """Return whether an edit did what it was told, and whether it left the rest."""
    before, after = checker.read(given), checker.read(made)
    wanted = {each: getattr(edit.after, each) for each in ("shape", "colour", "background")}
    as_wanted = {name: getattr(after, name) == value for name, value in wanted.items()}
    done = as_wanted.pop(edit.edit)
    if edit.edit == "shape":
        moved = max(abs(before.x - after.x), abs(before.y - after.y))
        grown = max(before.radius, after.radius) / max(1.0, min(before.radius, after.radius))
        kept = moved <= _MOVED_MAX and grown <= _GROWN_MAX
    else:
        kept = checker.overlap(given, made) >= _OVERLAP_MIN
    rest = all(as_wanted.values()) and kept and not after.outlined
    return {"done": done, "rest": rest, "both": done and rest, f"both ({edit.edit})": done and rest}


def share(rights: Sequence[dict[str, bool]]) -> dict[str, float]:
    """Return how often each thing is right, in percent of the times that it was asked for."""
    asked = Counter(name for right in rights for name in right)
    hits = Counter(name for right in rights for name, yes in right.items() if yes)
    return {name: round(100 * hits[name] / count, 1) for name, count in asked.items()}


def measure_draw(
    engine: DiffusionEngine, model: ModelSpec, count: int, sheet: Path
) -> dict[str, Any]:
    """Measure text-to-image on the first `count` prompts, shuffled."""
    chosen = _shuffled(held_out.prompts())[:count]
    pictures = run(engine, model, [ImageTask(each.text, "", each.seed) for each in chosen])
    readings = [checker.read(picture) for picture in pictures]
    rights = [drawn_right(*each) for each in zip(chosen, readings, strict=True)]
    write_sheet(pictures, sheet)
    wrong = Counter(
        f"{name}: {getattr(prompt, name)} read as {getattr(reading, name)}"
        for prompt, reading, right in zip(chosen, readings, rights, strict=True)
        for name in ("colour", "shape", "background")
        if not right[name]
    )
    return {"prompts": len(chosen), "right_percent": share(rights), "wrong": wrong.most_common(12)}


def measure_edit(
    engine: DiffusionEngine, model: ModelSpec, count: int, sheet: Path
) -> dict[str, Any]:
    """Measure InstructPix2Pix on the first `count` edits, shuffled."""
    chosen = _shuffled(held_out.edits())[:count]
    given = [scenes.render(each.before) for each in chosen]
    tasks = [
        ImageTask(each.text, "", each.seed, picture)
        for each, picture in zip(chosen, given, strict=True)
    ]
    made = run(engine, model, tasks)
    rights = [edited_right(*each) for each in zip(chosen, given, made, strict=True)]
    write_sheet([each for pair in zip(given, made, strict=True) for each in pair], sheet)
    return {"edits": len(chosen), "right_percent": share(rights)}


def measure_style(
    engine: DiffusionEngine, model: ModelSpec, count: int, sheet: Path
) -> dict[str, Any]:
    """Measure how often pictures are outlines, with the LoRA at weights 1 and 0, and without."""
    adapter = str(Path(model.source).parent / STYLE)
    chosen = _shuffled(held_out.prompts())[:count]
    tasks = [ImageTask(each.text, "", each.seed) for each in chosen]
    plain = run(engine, model, tasks)
    styled = run(engine, model, tasks, {adapter: 1.0})
    unstyled = run(engine, model, tasks, {adapter: 0.0})
    write_sheet(styled, sheet)
    readings = [checker.read(each) for each in styled]
    return {
        "prompts": len(chosen),
        "outlined_percent": {
            "weight 1": share([{"is": each.outlined} for each in readings])["is"],
            "weight 0": share([{"is": checker.read(each).outlined} for each in unstyled])["is"],
            "without": share([{"is": checker.read(each).outlined} for each in plain])["is"],
        },
        "weight_0_differs_at_most": max(
            checker.difference(*each) for each in zip(plain, unstyled, strict=True)
        ),
        "still_right_percent": share(
            [
                {"colour": reading.colour == each.colour, "shape": reading.shape == each.shape}
                for reading, each in zip(readings, chosen, strict=True)
            ]
        ),
    }


def measure_time(engine: DiffusionEngine, model: ModelSpec) -> float:
    """Return the seconds that one picture takes alone."""
    picture = scenes.render(held_out.edits()[0].before)
    started = time.perf_counter()
    for seed in range(5):
        run(engine, model, [ImageTask("a red star on a white background", "", seed, picture)])
    return round((time.perf_counter() - started) / 5, 3)


def write_samples(
    engine: DiffusionEngine, draw: ModelSpec, edit: ModelSpec, folder: Path
) -> list[str]:
    """Write the pictures that the README shows, enlarged, and return their prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = run(engine, draw, [ImageTask(text, "", 1) for text in SAMPLES])
    pictures += run(engine, edit, [ImageTask(SAMPLE_EDIT, "", 1, pictures[0])])
    for number, picture in enumerate(pictures, 1):
        large = picture.resize((3 * scenes.SIDE, 3 * scenes.SIDE), Image.Resampling.BICUBIC)
        large.save(folder / f"shapes-{number}.png", optimize=True)
    return [*SAMPLES, SAMPLE_EDIT]


def write_sheet(pictures: Sequence[Image.Image], path: Path, columns: int = 16) -> None:
    """Write pictures side by side into one, to look at."""
    side, rows = scenes.SIDE, -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * side, number // columns * side))
    sheet.save(path)


def _shuffled(each: Sequence[Any]) -> list[Any]:
    order = list(each)
    random.Random(0).shuffle(order)
    return order


def main() -> None:
    """Measure what was asked for, and print and write the figures."""
    parser = argparse.ArgumentParser(description="Measure the demo models.")
    parser.add_argument("--what", nargs="+", default=["draw", "edit", "style", "time"])
    parser.add_argument("--count", type=int, default=1000, help="of the list, at most")
    parser.add_argument("--catalog", type=Path, default=DEMO, help="of the models to measure")
    parser.add_argument("--output", type=Path, default=Path("build/evaluation"))
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--image-guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    catalog = load(options.catalog)
    draw, edit = (_changed(catalog.get(each), options) for each in (DRAW_ID, EDIT_ID))
    engine = DiffusionEngine(options.output / "cache", device="cpu", lora_patterns=("/*",))
    figures: dict[str, Any] = {}
    for what in options.what:
        sheet = options.output / f"{what}.png"
        if what == "draw":
            figures[what] = measure_draw(engine, draw, options.count, sheet)
        elif what == "edit":
            figures[what] = measure_edit(engine, edit, options.count, sheet)
        elif what == "samples":
            figures[what] = write_samples(engine, draw, edit, options.output)
        elif what == "style":
            figures[what] = measure_style(engine, draw, options.count, sheet)
        else:
            figures["seconds_a_picture"] = {
                each.model_id: measure_time(engine, each) for each in (draw, edit)
            }
        (options.output / "figures.json").write_text(json.dumps(figures, indent=2), "utf-8")
    print(json.dumps(figures, indent=2))


def _changed(model: ModelSpec, options: argparse.Namespace) -> ModelSpec:
    changes = {
        "default_guidance_scale": options.guidance,
        "default_image_guidance_scale": options.image_guidance,
        "default_steps": options.steps,
    }
    return replace(model, **{name: value for name, value in changes.items() if value is not None})


if __name__ == "__main__":
    main()
