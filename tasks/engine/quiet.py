"""Keeps the model libraries from talking.

Their bars are for terminals, and their warnings quote prompts into the log. What goes wrong
reaches us as exceptions.
"""

from __future__ import annotations

import diffusers
import transformers
from huggingface_hub.utils.tqdm import disable_progress_bars


def quieten() -> None:
    """Silence diffusers, transformers and huggingface_hub, before their classes are touched."""
    for library in (diffusers.logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    disable_progress_bars()
