"""The seeds of a WebUI request, of which it may have two: `seed` and `subseed`."""

from __future__ import annotations

import secrets

from api.dialects.sdwebui.fields import ImageToImage, TextToImage
from tasks.catalog import ModelSpec
from tasks.errors import FieldError, InvalidParams
from tasks.finer import Finer

_RANDOM = -1
# As the WebUI's own.
_RANDOM_SEEDS = 2**32


def of(spec: ModelSpec, fields: TextToImage | ImageToImage) -> Finer:
    """Return what a request asks of its second seed.

    Raises:
        InvalidParams: The model, or the route, cannot do with two.
    """
    if not fields.subseed_strength:
        return Finer()
    if not isinstance(fields, TextToImage) or not spec.has_plain_latents:
        what = spec.model_id if isinstance(fields, TextToImage) else "a picture"
        said = f"cannot be had of {what}; leave it at 0"
        raise InvalidParams([FieldError("subseed_strength", said)])
    subseed = secrets.randbelow(_RANDOM_SEEDS) if fields.subseed == _RANDOM else fields.subseed
    return Finer(subseed=subseed, subseed_strength=fields.subseed_strength)
