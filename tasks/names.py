"""What models are called by those who do not know our ids, and runtimes, which name sets of models.

The Stable Diffusion web UI and what is built around it call a model by its checkpoint's file name,
with or without the ending, or by its title, which is the file name with a part of a hash:
`v1-5-pruned-emaonly.safetensors [6ce0161689]`. Pure: the entries themselves are `catalog`'s.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

if TYPE_CHECKING:
    from tasks.catalog import ModelSpec

CHECKPOINT = ".safetensors"
_HASH_DIGITS = 10
_RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True)
class ModelRuntime:
    """A named set of models, as requests of the AWS task API name one.

    The first model is run where a request names none. Others of the set may be named if the runtime
    is `dynamic`; one that is not has one model. Models are named by id or alias. An `orchestrator`,
    by name, is the only one that its tasks go to; without one, they go to whoever offers the model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: str
    models: tuple[str, ...]
    dynamic: bool = False
    orchestrator: str | None = None

    def faults(self) -> Iterable[str]:
        """Yield what is wrong with it by itself."""
        if not _RUNTIME.fullmatch(self.name):
            yield "name must be letters, digits, hyphens and underscores, 63 at most"
        if self.orchestrator == "":
            yield "orchestrator must be a name; leave it out for whoever offers the model"
        if not self.models:
            yield "models must name one model at least"
        elif len(self.models) > 1 and not self.dynamic:
            yield "a runtime of several models must be `dynamic = true`"


def weights_hash(spec: ModelSpec) -> str:
    """Return ten digits that tell a model's weights from others.

    They are of the checkpoint's SHA-256 where the catalog has it, as everywhere else. Of what is no
    checkpoint, they are of what pins it. A folder counts by its name alone, because it is elsewhere
    on every machine.
    """
    if spec.sha256 is not None:
        return spec.sha256[:_HASH_DIGITS]
    pins = [
        (PurePosixPath(part.source).name if part.source[:1] in "/." else part.source, part.revision)
        for part in (spec, spec.unet, spec.vae)
        if part is not None
    ]
    return hashlib.sha256(json.dumps([spec.model_id, pins]).encode()).hexdigest()[:_HASH_DIGITS]


def file_name(spec: ModelSpec) -> str:
    """Return what a model's checkpoint is called: its file, an alias that is one, or its id."""
    if spec.source.endswith(CHECKPOINT):
        return PurePosixPath(spec.source).name
    return next((alias for alias in spec.aliases if alias.endswith(CHECKPOINT)), spec.model_id)


def title(spec: ModelSpec) -> str:
    """Return a model's title, as the web UI lists it."""
    return f"{file_name(spec)} [{weights_hash(spec)}]"


def by_name(models: Iterable[ModelSpec]) -> Mapping[str, ModelSpec]:
    """Return models by every name of theirs.

    Ids and aliases come first. Of the others, those that two models share name neither: nobody is
    charged for a guess.
    """
    given: dict[str, ModelSpec] = {}
    derived: defaultdict[str, list[ModelSpec]] = defaultdict(list)
    for spec in models:
        given |= dict.fromkeys((spec.model_id, *spec.aliases), spec)
        digits = weights_hash(spec)
        files = {file_name(spec), *(name for name in spec.aliases if name.endswith(CHECKPOINT))}
        stems = {name.removesuffix(CHECKPOINT) for name in files}
        for name in {*files, *stems, digits, *(f"{one} [{digits}]" for one in files | stems)}:
            derived[name].append(spec)
    return {name: found[0] for name, found in derived.items() if len(found) == 1} | given
