"""Where a model's files come from: a hub id, a folder, or a prefix in an object store.

Owns the rule that no pickled weights are read, and the cache of what was downloaded from `s3://`.
Hub downloads and their cache are huggingface_hub's.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from tasks.catalog import ModelSpec
from tasks.errors import ModelLoadError

Download: TypeAlias = Callable[[str, Path, Callable[[str], bool]], tuple[str, ...]]
"""Copy the wanted files below a URL into a folder, and return the names of all files there."""

_PICKLED = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_NEEDED = frozenset({".json", ".model", ".safetensors", ".txt"})
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The engine leaves these components out, so their weights are nobody's business.
_UNUSED_FOLDERS = frozenset({"safety_checker", "feature_extractor"})


class Sources:
    """Turns a catalog entry into what `from_pretrained` takes."""

    def __init__(self, cache_dir: Path, download: Download | None = None) -> None:
        self._cache_dir = cache_dir
        self._download = download

    def locate(self, model: ModelSpec) -> str:
        """Return the model's folder, downloaded if need be, or its hub id.

        Raises:
            ModelLoadError: There is nothing there, only pickled weights, or no pinned revision.
            StorageError: The object store could not be read.
        """
        if model.source.startswith("s3://"):
            return str(self._from_store(model))
        folder = Path(model.source)
        if folder.is_dir():
            refuse_pickled(model, _names(folder))
            return str(folder)
        if folder.is_absolute() or model.source.startswith(".") or model.source.count("/") != 1:
            raise ModelLoadError(f"{model.model_id}: there is no folder {model.source}.")
        if _COMMIT.fullmatch(model.revision or "") is None:
            raise ModelLoadError(
                f"{model.model_id}: a hub model needs the commit it is pinned to as `revision`, "
                "so that the same request always runs the same weights."
            )
        return model.source

    def _from_store(self, model: ModelSpec) -> Path:
        """Return the folder of an `s3://` model.

        It is downloaded once: a prefix is taken to be as immutable as a commit. Publish other
        weights under another prefix, or give the catalog entry another `revision`.
        """
        digest = hashlib.sha256(f"{model.source}@{model.revision}".encode()).hexdigest()[:16]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model.source.rstrip("/").rsplit("/", 1)[-1])
        target = self._cache_dir / f"{slug}-{digest}"
        if target.is_dir():
            return target
        if self._download is None:
            raise ModelLoadError(f"{model.model_id}: no object store is configured for its source.")
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=self._cache_dir) as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            names = self._download(model.source, folder, _wanted)
            refuse_pickled(model, names)
            self._publish(folder, target)
        return target

    @staticmethod
    def _publish(folder: Path, target: Path) -> None:
        """Name the finished folder in one step, so that half a model is never seen."""
        try:
            folder.rename(target)
        except OSError:
            # Another worker on this machine was faster: its folder holds the same files.
            if not target.is_dir():
                raise


def refuse_pickled(model: ModelSpec, names: Iterable[str]) -> None:
    """Check, by the names of its files, that a model can be loaded from safetensors alone.

    A pickle runs code when it is read, so none is ever opened. One lying beside safetensors does no
    harm.

    Raises:
        ModelLoadError: There is no model, or a component has pickled weights only.
    """
    paths = [PurePosixPath(name) for name in names]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    pickled = sorted(
        path
        for path in paths
        if path.suffix in _PICKLED
        # Whole checkpoints in the root stand beside the components; only without those are they the
        # model.
        and (path.parent not in safe if len(path.parts) > 1 else not safe)
        and path.parts[0] not in _UNUSED_FOLDERS
    )
    if pickled:
        raise ModelLoadError(
            f"{model.model_id}: {pickled[0]} is pickled, which can run code when it is loaded, and "
            "has no safetensors beside it. Convert the weights to safetensors."
        )
    if PurePosixPath("model_index.json") not in paths:
        raise ModelLoadError(f"{model.model_id}: {model.source} has no model_index.json.")


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _wanted(name: str) -> bool:
    """Tell whether the engine reads a file: configurations, tokenizers and safetensors."""
    path = PurePosixPath(name)
    if len(path.parts) == 1:
        return name == "model_index.json"
    return path.suffix in _NEEDED and path.parts[0] not in _UNUSED_FOLDERS
