"""The safety checker: is a picture one that a gateway would rather not show?

Owns loading the checker and asking it. It only tells: what becomes of a picture that it flags is
the gateway's policy. It is used beside the pipelines, from another thread, and shares nothing with
them but the device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL.Image import Image
from transformers import CLIPImageProcessorPil

from tasks.catalog import Part
from tasks.engine import loading
from tasks.engine.sources import Sources
from tasks.errors import InferenceError, ModelLoadError, StorageError

# Where a Stable Diffusion model keeps its own; a source may also be the checker's folder alone.
_CHECKER, _PROCESSOR = "safety_checker", "feature_extractor"
_UNUSED = np.zeros((1, 1, 3), np.float32)


class SafetyChecker:
    """Loads the checker when it is first asked. Thread-safe."""

    def __init__(self, source: str, sources: Sources, device: torch.device) -> None:
        """Take where the checker is: a folder, `s3://bucket/prefix`, or `owner/name@commit`."""
        name, _, revision = source.partition("@")
        self._part = Part(name, revision or None)
        self._sources = sources
        self._device = device
        self._lock = threading.Lock()
        self._loaded: tuple[StableDiffusionSafetyChecker, CLIPImageProcessorPil] | None = None
        # Of its own, so that it waits for none of the next batch's steps.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def verdicts(self, pictures: Sequence[Image]) -> list[bool]:
        """Tell for each picture whether the checker flags it.

        Raises:
            ModelLoadError: The checker is missing, broken, or pickled.
            StorageError: The object store that holds it could not be read.
            InferenceError: It failed.
        """
        if not pictures:
            return []
        with self._lock, self._own_stream(), torch.no_grad():
            if self._loaded is None:
                self._loaded = self._load()
            checker, processor = self._loaded
            try:
                pixels = processor(list(pictures), return_tensors="pt").pixel_values
                pixels = pixels.to(self._device, checker.dtype)
                # It would paint what it flags black: it gets no pictures, only as many blanks.
                _, flags = checker(pixels, [_UNUSED] * len(pictures))
            except Exception as error:
                raise InferenceError(
                    f"The safety checker failed: {loading.brief(error)}"
                ) from error
        return [bool(flag) for flag in flags]

    def _load(self) -> tuple[StableDiffusionSafetyChecker, CLIPImageProcessorPil]:
        try:
            where = self._sources.locate_part(self._part)
            inside = not Path(where).is_dir() or (Path(where) / _CHECKER).is_dir()
            checker, report = StableDiffusionSafetyChecker.from_pretrained(
                where,
                subfolder=_CHECKER if inside else "",
                revision=self._part.revision,
                use_safetensors=True,
                dtype=loading.dtype_on(self._device, "float16"),
                output_loading_info=True,
            )
            processor = CLIPImageProcessorPil.from_pretrained(
                where, subfolder=_PROCESSOR if inside else "", revision=self._part.revision
            )
        except StorageError:
            raise
        except Exception as error:  # as for the models
            raise ModelLoadError(f"The safety checker: {loading.brief(error)}") from error
        if report["missing_keys"]:
            raise ModelLoadError(
                f"The safety checker lacks {len(report['missing_keys'])} of its weights."
            )
        return checker.to(self._device).eval(), processor

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            yield
