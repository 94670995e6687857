"""Teaches the text encoder what captions and instructions mean, before any picture is drawn.

Owns the questions that it is asked: which colour, shape, background, size, place, and which edit;
and, in the states of its last tokens, where the shape is: the part of a coarse grid that it covers.
Text costs next to nothing beside pictures, so the denoisers start from an encoder that has already
sorted the words out, and learn to draw only. The heads that answer are thrown away.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPTokenizer

from tools import captions, networks, scenes
from tools.captions import Meaning, Said
from tools.learning import Run, learn
from tools.networks import Network
from tools.scenes import Scene

_BATCH = 64
_CELL = networks.LATENT_SIDE // networks.LAYOUT_SIDE
_POOL = 8000
_SILENT = 0.03
_INSTRUCTIONS = 0.35
_JUNK = 0.15
_LAYOUT = 8.0
_QUESTIONS: dict[str, tuple[str, ...]] = {
    "colour": tuple(scenes.COLOURS),
    "shape": scenes.SHAPES,
    "background": tuple(scenes.BACKGROUNDS),
    "size": tuple(scenes.SIZES),
    "place": tuple(scenes.PLACES),
    "edit": captions.EDITS,
}


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return texts as the pipelines feed them: cut, and padded with the last token."""
    ids: torch.Tensor = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=networks.TOKENS,
        return_tensors="pt",
    ).input_ids
    return ids


def train_text(run: Run, tokenizer: CLIPTokenizer, device: str) -> Network:
    """Return a text encoder whose states after the text tell what it asks for."""
    encoder = networks.text_encoder(tokenizer).to(device)
    drawn = [scenes.draw_any(run.rng) for _ in range(_POOL)]
    layouts = torch.stack([_layout(scene) for scene in drawn])
    outline = torch.nn.Linear(networks.TEXT_WIDTH, _CELL**2).to(device)
    heads = torch.nn.Linear(
        networks.TEXT_WIDTH, sum(1 + len(names) for names in _QUESTIONS.values())
    ).to(device)

    def loss(_step: int) -> torch.Tensor:
        chosen = run.rng.choices(range(_POOL), k=_BATCH)
        said = [_say(run.rng, drawn[each]) for each in chosen]
        ids = tokens(tokenizer, [each.text for each in said])
        # Padding repeats the last token, and from there on a state has seen the whole text.
        after = (ids == tokenizer.eos_token_id).to(device)
        states = encoder(ids.to(device)).last_hidden_state
        answers = heads(states[after])
        row = after.nonzero()[:, 0]
        value = torch.zeros((), device=device)
        sizes = [1 + len(names) for names in _QUESTIONS.values()]
        for part, (question, names) in zip(
            answers.split(sizes, dim=1), _QUESTIONS.items(), strict=True
        ):
            right = [_answer(getattr(each.meaning, question), names) for each in said]
            value = value + functional.cross_entropy(part, torch.tensor(right, device=device)[row])
        # An instruction says nothing of where the shape is.
        told = torch.tensor([each.meaning.edit is None for each in said])
        parts = outline(states[:, -layouts.shape[1] :][told.to(device)])
        right_parts = layouts[chosen][told].to(device)
        return value + _LAYOUT * functional.binary_cross_entropy_with_logits(parts, right_parts)

    learn(run, [encoder, heads, outline], loss)
    return encoder.eval().requires_grad_(requires_grad=False)


def _answer(meant: str | None, names: tuple[str, ...]) -> int:
    return 0 if meant is None else 1 + names.index(meant)


def _layout(scene: Scene) -> torch.Tensor:
    """Return what the shape covers, (parts, places of each)."""
    grid = torch.from_numpy(np.array(scenes.cover(scene, networks.LATENT_SIDE))).float() / 255
    side = networks.LAYOUT_SIDE
    return grid.view(side, _CELL, side, _CELL).transpose(1, 2).reshape(side * side, _CELL**2)


def _say(rng: random.Random, scene: Scene) -> Said:
    """Return a caption or an instruction, now and then with words around it that mean nothing."""
    if rng.random() < _SILENT:
        return Said("", Meaning())
    if rng.random() < _INSTRUCTIONS:
        said, _ = captions.instruction(rng, scene, rng.choice(captions.EDITS))
    else:
        said = captions.caption(rng, scene)
    if rng.random() >= _JUNK:
        return said
    junk = "".join(rng.choice("abcdefghiklmnoprstuvwy") for _ in range(rng.randint(2, 6)))
    text = rng.choice((f"{junk} {said.text}", f"{said.text} {junk}", f"{said.text}, please"))
    return Said(text, said.meaning)
