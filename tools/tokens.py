"""The demo models' tokenizer: CLIP's kind, with the words of the captions as whole tokens.

Owns the vocabulary's order and the merges. Any other text becomes bytes, so that none is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from tools import captions
from tools.networks import TOKENS


def tokenizer() -> CLIPTokenizer:
    """Return the tokenizer; the same every time."""
    merges = _merges(captions.words())
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *(first + second for first, second in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        model_max_length=TOKENS,
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that make each word one token, in the order in which they apply."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for letters in spellings for pair in pairwise(letters)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spellings = [_merged(letters, best) for letters in spellings]
    return merges


def _merged(letters: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for letter in letters:
        if merged and (merged[-1], letter) == pair:
            merged[-1] += letter
        else:
            merged.append(letter)
    return merged
