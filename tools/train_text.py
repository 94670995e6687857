"""Teaches the text encoder what captions and instructions mean, before any picture is drawn.

Owns the questions that it is asked: which colour, shape, background, size, place, and which edit.
Text costs next to nothing beside pictures, so the denoisers start from an encoder that has already
sorted the words out, and learn to draw only. The heads that answer are thrown away.
"""

from __future__ import annotations

import random

import torch
from torch.nn import functional
from transformers import CLIPTokenizer

from tools import captions, networks, scenes
from tools.captions import Said
from tools.learning import Run, learn
from tools.networks import Network

_BATCH = 96
_INSTRUCTIONS = 0.35
_JUNK = 0.15
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
    heads = torch.nn.Linear(
        networks.TEXT_WIDTH, sum(1 + len(names) for names in _QUESTIONS.values())
    ).to(device)

    def loss(_step: int) -> torch.Tensor:
        said = [_say(run.rng) for _ in range(_BATCH)]
        ids = tokens(tokenizer, [each.text for each in said])
        # Padding repeats the last token, and from there on a state has seen the whole text.
        after = (ids == tokenizer.eos_token_id).to(device)
        answers = heads(encoder(ids.to(device)).last_hidden_state[after])
        row = after.nonzero()[:, 0]
        value = torch.zeros((), device=device)
        sizes = [1 + len(names) for names in _QUESTIONS.values()]
        for part, (question, names) in zip(
            answers.split(sizes, dim=1), _QUESTIONS.items(), strict=True
        ):
            right = [_answer(getattr(each.meaning, question), names) for each in said]
            value = value + functional.cross_entropy(part, torch.tensor(right, device=device)[row])
        return value

    learn(run, [encoder, heads], loss)
    return encoder.eval().requires_grad_(requires_grad=False)


def _answer(meant: str | None, names: tuple[str, ...]) -> int:
    return 0 if meant is None else 1 + names.index(meant)


def _say(rng: random.Random) -> Said:
    """Return a caption or an instruction, now and then with words around it that mean nothing."""
    scene = scenes.draw_any(rng)
    if rng.random() < _INSTRUCTIONS:
        said, _ = captions.instruction(rng, scene, rng.choice(captions.EDITS))
    else:
        said = captions.caption(rng, scene)
    if rng.random() >= _JUNK:
        return said
    junk = "".join(rng.choice("abcdefghiklmnoprstuvwy") for _ in range(rng.randint(2, 6)))
    text = rng.choice((f"{junk} {said.text}", f"{said.text} {junk}", f"{said.text}, please"))
    return Said(text, said.meaning)
