"""The trained demo models' tokenizer: CLIP's kind, with the words of the captions as whole tokens.

Any other text becomes bytes, so that none is refused.
"""

from __future__ import annotations

from transformers import CLIPTokenizer

from tasks.engine.demo import tokenizer_of
from tools import captions
from tools.networks import TOKENS


def tokenizer() -> CLIPTokenizer:
    """Return the tokenizer; the same every time."""
    return tokenizer_of(captions.words(), TOKENS)
