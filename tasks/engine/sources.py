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

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from tasks.catalog import ModelSpec, Part, is_commit
from tasks.errors import LoraError, LoraNotFound, ModelLoadError, ObjectNotFound

Download: TypeAlias = Callable[[str, Path, Callable[[str], bool]], tuple[str, ...]]
"""Copy the wanted files below a URL into a folder, and return the names of all files there."""

_Wanted: TypeAlias = Callable[[str], bool]

_SAFE = ".safetensors"
_LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers' trainers name it
_PICKLED = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_NEEDED = frozenset({".json", ".model", ".safetensors", ".txt"})
# The engine leaves these components out, so their weights are nobody's business.
_UNUSED_FOLDERS = frozenset({"safety_checker", "feature_extractor"})


class Sources:
    """Turns a catalog entry into what `from_pretrained` takes."""

    def __init__(self, cache_dir: Path, download: Download | None = None) -> None:
        self._cache_dir = cache_dir
        self._download = download
        self._checked: set[tuple[Path, int, int, str]] = set()

    def locate(self, model: ModelSpec) -> str:
        """Return the model's folder, downloaded if need be, or its hub id.

        Raises:
            ModelLoadError: There is nothing there, only pickled weights, or no pinned revision.
            StorageError: The object store could not be read.
        """
        found = self._locate(
            Part(model.source, model.revision),
            _wanted,
            lambda names: refuse_pickled(model.source, names),
        )
        return str(found)

    def locate_checkpoint(self, model: ModelSpec) -> tuple[str, str | None]:
        """Return the path of the one file that a model is, and where its own configuration is.

        Raises:
            ModelLoadError: There is nothing there, no pinned revision, or the file is not the one
                that the catalog means.
            StorageError: The object store could not be read.
        """
        assert model.checkpoint is not None  # noqa: S101  asked by the caller
        path = self.locate_part(model.checkpoint)
        if model.sha256 is not None:
            self._check_digest(Path(path), model.sha256)
        if model.config is None:
            return path, None
        return path, self._locate(model.config, _is_configuration, lambda _names: None)

    def _check_digest(self, path: Path, wanted: str) -> None:
        """Read a file once for as long as it does not change: it has gigabytes."""
        facts = path.stat()
        known = (path, facts.st_mtime_ns, facts.st_size, wanted)
        if known in self._checked:
            return
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            raise ModelLoadError(
                f"{path.name} has the SHA-256 {found}, and the catalog says {wanted}."
            )
        self._checked.add(known)

    def locate_part(self, part: Part) -> str:
        """Return the folder of a component, its hub id, or the path of its one file.

        Raises:
            ModelLoadError: There is nothing there, or no pinned revision.
            StorageError: The object store could not be read.
        """
        name = part.file
        if name is None:
            return self._locate(part, _is_read, lambda _names: None)
        where = self._locate(part, lambda found: found == name, lambda _names: None)
        if where == part.source and not Path(where).is_dir():
            return str(hf_hub_download(where, name, revision=part.revision))
        path = Path(where) / name
        if not path.is_file():
            raise ModelLoadError(f"{part.source} has no file {name}.")
        return str(path)

    def locate_lora(self, source: str) -> Path:
        """Return the file of a LoRA adapter: the one named, or the only one in the place named.

        Raises:
            LoraNotFound: There is nothing there.
            LoraError: There is no safetensors file, or more than one; or the hub is away.
            StorageError: The object store could not be read.
        """
        if source.startswith("s3://"):
            return self._lora_in_store(source)
        if source.startswith("/"):
            path = Path(source)
            if path.is_dir():
                return path / _lora_file(source, _names(path))
            return path.parent / _lora_file(source, [path.name] if path.is_file() else [])
        return _lora_on_hub(source)

    def _lora_in_store(self, source: str) -> Path:
        folder, _, name = source.rpartition("/")
        if not name.endswith(_SAFE):
            folder, name = source, ""
        if self._download is None:
            raise LoraError(f"LoRA {source}: no object store is configured.")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                found = self._download(folder, Path(scratch), lambda _name: False)
            file = _lora_file(source, [one for one in found if not name or one == name])
            return (
                self._from_store(Part(folder, file=file), file.__eq__, lambda _names: None) / file
            )
        except ObjectNotFound as error:
            raise LoraNotFound(f"There is no LoRA {source}.") from error

    def _locate(self, part: Part, wanted: _Wanted, check: Callable[[Iterable[str]], None]) -> str:
        if part.source.startswith("s3://"):
            return str(self._from_store(part, wanted, check))
        folder = Path(part.source)
        if folder.is_dir():
            check(_names(folder))
            return str(folder)
        if folder.is_absolute() or part.source.startswith(".") or part.source.count("/") != 1:
            raise ModelLoadError(f"there is no folder {part.source}.")
        if not is_commit(part.revision):
            raise ModelLoadError(
                f"{part.source} has no pinned revision: a hub model needs the commit as `revision` "
                "in your catalog file, so that the same request always runs the same weights."
            )
        return part.source

    def _from_store(
        self, part: Part, wanted: _Wanted, check: Callable[[Iterable[str]], None]
    ) -> Path:
        """Return the folder of what is below an `s3://` prefix.

        It is downloaded once: a prefix is taken to be as immutable as a commit. Publish other
        weights under another prefix, or give the catalog entry another `revision`.
        """
        key = f"{part.source}@{part.revision}" + (f"#{part.file}" if part.file else "")
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", part.source.rstrip("/").rsplit("/", 1)[-1])
        target = self._cache_dir / f"{slug}-{digest}"
        if target.is_dir():
            return target
        if self._download is None:
            raise ModelLoadError(f"no object store is configured for {part.source}.")
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=self._cache_dir) as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            check(self._download(part.source, folder, wanted))
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


def _lora_on_hub(source: str) -> Path:
    owner, name, *inside = source.split("/")
    repository = f"{owner}/{name}"
    try:
        if inside:
            file = _lora_file(source, ["/".join(inside)])
        else:
            file = _lora_file(source, HfApi().list_repo_files(repository))
        return Path(hf_hub_download(repository, file))
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError) as error:
        raise LoraNotFound(f"There is no LoRA {source} on the hub.") from error
    except LoraError:
        raise
    except Exception as error:  # whatever a client of HTTP raises
        raise LoraError(f"LoRA {source} cannot be had: {type(error).__name__}.") from error


def _lora_file(source: str, names: Iterable[str]) -> str:
    """Choose the file of an adapter among those that are there."""
    found = sorted(names)
    safe = [name for name in found if name.endswith(_SAFE)]
    if _LORA_FILE in safe:
        return _LORA_FILE
    if len(safe) == 1:
        return safe[0]
    if safe:
        raise LoraError(f"LoRA {source} has {len(safe)} files: name one, as {source}/{safe[0]}.")
    if found:
        raise LoraError(f"LoRA {source} has no safetensors file, and nothing else is ever read.")
    raise LoraNotFound(f"There is no LoRA {source}.")


def refuse_pickled(source: str, names: Iterable[str]) -> None:
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
            f"{pickled[0]} is pickled, which can run code when it is loaded, and "
            "has no safetensors beside it. Convert the weights to safetensors."
        )
    if PurePosixPath("model_index.json") not in paths:
        raise ModelLoadError(f"{source} has no model_index.json.")


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _wanted(name: str) -> bool:
    """Tell whether the engine reads a file: configurations, tokenizers and safetensors."""
    path = PurePosixPath(name)
    if len(path.parts) == 1:
        return name == "model_index.json"
    return _is_read(name) and path.parts[0] not in _UNUSED_FOLDERS


def _is_read(name: str) -> bool:
    return PurePosixPath(name).suffix in _NEEDED


def _is_configuration(name: str) -> bool:
    return _wanted(name) and PurePosixPath(name).suffix != _SAFE
