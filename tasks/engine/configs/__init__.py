"""What checkpoints do not bring along: the configurations and the tokenizer of their families.

A checkpoint is one file of weights. Its family says what they are the weights of, and is told by
their names, so that a worker without a network can load one. The vocabulary is CLIP's, which all
families have in common.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

from tasks.catalog import Layout

_FOLDER = Path(__file__).parent
_MERGES = _FOLDER / "clip-merges.txt.gz"
_V1, _V2, _XL = "stable-diffusion-v1-5", "stable-diffusion-2-1", "stable-diffusion-xl-base-1.0"
# A weight that only the second family's text encoder has.
_OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
_CONTEXT_TOKENS = 77
_SEEN = ((0x21, 0x7E), (0xA1, 0xAC), (0xAE, 0xFF))
# What short prompts are filled up with: the first token by those encoders that are OpenCLIP's.
_END, _FIRST = "<|endoftext|>", "!"


def folder_of(layout: Layout, weights: Iterable[str]) -> Path:
    """Return the configuration of a checkpoint's family, by its layout and its weights' names."""
    if layout == "stable-diffusion-xl":
        return _FOLDER / _XL
    return _FOLDER / (_V2 if _OPEN_CLIP in weights else _V1)


def tokenizers(folder: Path) -> dict[str, CLIPTokenizer]:
    """Return a family's tokenizers, by the names of the components."""
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    vocabulary, merges = _vocabulary()
    return {
        name: CLIPTokenizer(
            vocab=vocabulary,
            merges=merges,
            model_max_length=_CONTEXT_TOKENS,
            pad_token=_FIRST if name == "tokenizer_2" or folder.name == _V2 else _END,
        )
        for name in ("tokenizer", "tokenizer_2")
        if name in index
    }


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's tokens, each with its number, and the merges that they are made of."""
    lines = gzip.decompress(_MERGES.read_bytes()).decode().splitlines()
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    # A letter for each byte: itself where it can be seen, and else one from beyond them all.
    seen = [chr(byte) for first, last in _SEEN for byte in range(first, last + 1)]
    letters = [*seen, *(chr(256 + number) for number in range(256 - len(seen)))]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(first + second for first, second in merges),
        "<|startoftext|>",
        _END,
    ]
    return {token: number for number, token in enumerate(tokens)}, merges
