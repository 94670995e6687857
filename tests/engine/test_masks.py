"""A mask: what is white in it is drawn, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tasks.catalog import Catalog
from tasks.engine.diffusion import DiffusionEngine
from tests.engine.helpers import TOLERANCE, batch, difference, go_on, sketch, task
from tests.engine.models import Zoo, make_zoo

SIZE = (64, 64)


@pytest.fixture(scope="module")
def zoo(demo_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(demo_catalog, tmp_path_factory.mktemp("zoo"))


def left_half() -> Image.Image:
    mask = Image.new("L", SIZE, "black")
    mask.paste("white", (0, 0, SIZE[0] // 2, SIZE[1]))
    return mask


# Not a small Stable Diffusion 3: diffusers takes one of sixteen channels only.
@pytest.mark.parametrize("name", ["demo-sd", "demo-sdxl", "demo-flux"])
def test_only_the_masked_part_is_drawn(name: str, zoo: Zoo, diffusion: DiffusionEngine) -> None:
    tasks = [
        replace(task("a cat", seed), image=sketch(size=SIZE), mask=left_half()) for seed in (1, 2)
    ]
    request = batch(zoo, (name, "image-to-image"), tasks, size=SIZE, steps=3)
    first, second = diffusion.generate(request, go_on)
    (alone,) = diffusion.generate(replace(request, tasks=request.tasks[1:]), go_on)
    assert difference(second, alone) <= TOLERANCE

    drawn, kept = (0, 0, 32, 64), (32, 0, 64, 64)
    assert difference(first.crop(drawn), second.crop(drawn)) > 20
    assert np.array_equal(np.asarray(first.crop(kept)), np.asarray(sketch(size=SIZE).crop(kept)))
