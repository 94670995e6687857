"""What the models are measured on is fixed, and was never trained on."""

from __future__ import annotations

import json
import random

from tools import captions, held_out, scenes


def test_the_list_is_the_one_that_was_drawn() -> None:
    assert json.loads(held_out._LIST.read_text("utf-8")) == json.loads(json.dumps(held_out.drawn()))


def test_it_has_hundreds_of_different_prompts_of_combinations_that_are_not_trained() -> None:
    prompts = held_out.prompts()
    trained = set(scenes.combinations(held_out=False))
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 300
    assert not trained & {(each.shape, each.colour, each.background) for each in prompts}
    assert {each.shape for each in prompts} == set(scenes.SHAPES)
    assert {each.colour for each in prompts} == set(scenes.COLOURS)


def test_edits_lead_from_what_is_trained_to_what_is_not() -> None:
    for edit in held_out.edits():
        before, after = edit.before, edit.after
        assert not scenes.is_held_out(before.shape, before.colour, before.background)
        assert scenes.is_held_out(after.shape, after.colour, after.background)
        assert getattr(before, edit.edit) != getattr(after, edit.edit)


def test_training_never_draws_what_is_held_out() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = scenes.draw_any(rng)
        assert not scenes.is_held_out(scene.shape, scene.colour, scene.background)


def test_a_complete_caption_names_shape_colour_and_background() -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = scenes.draw_any(rng)
        meaning = captions.caption(rng, scene, complete=True).meaning
        assert (meaning.shape, meaning.colour, meaning.background) == (
            scene.shape,
            scene.colour,
            scene.background,
        )
        assert meaning.edit is None
