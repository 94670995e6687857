"""Where models come from, and that pickled weights are refused by the names of the files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.catalog import ModelSpec
from tasks.engine.sources import Sources, refuse_pickled
from tasks.errors import ModelLoadError, StorageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def spec(source: str, revision: str | None = None) -> ModelSpec:
    return ModelSpec(
        model_id="maker/model",
        source=source,
        revision=revision,
        layout="stable-diffusion",
        pipelines=("text-to-image",),
    )


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


class Store:
    """An object store's worth of names; counts what is fetched."""

    def __init__(self, *names: str, fails: bool = False) -> None:
        self.names = names
        self.fails = fails
        self.fetched: list[str] = []

    def __call__(self, url: str, folder: Path, wanted: Callable[[str], bool]) -> tuple[str, ...]:
        assert url.startswith("s3://")
        for name in self.names:
            if wanted(name):
                write(folder, name)
                self.fetched.append(name)
        if self.fails:
            raise StorageError("The object store did not answer.")
        return self.names


GOOD = ("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors")


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", *GOOD)
    assert Sources(tmp_path / "cache").locate(spec(str(folder))) == str(folder)
    assert not (tmp_path / "cache").exists()


def test_a_hub_id_is_passed_on_with_its_pinned_commit(tmp_path: Path) -> None:
    assert Sources(tmp_path).locate(spec("maker/model", COMMIT)) == "maker/model"


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:-1]])
def test_a_hub_id_without_a_commit_is_refused(tmp_path: Path, revision: str | None) -> None:
    with pytest.raises(ModelLoadError, match="pinned"):
        Sources(tmp_path).locate(spec("maker/model", revision))


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "a/b/c", "just-a-name"])
def test_a_missing_folder_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(ModelLoadError, match=source):
        Sources(tmp_path).locate(spec(source))


def test_a_store_s_model_is_fetched_once_and_only_what_is_read(tmp_path: Path) -> None:
    store = Store(
        *GOOD,
        "README.md",
        "v1-5.ckpt",
        "v1-5.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "text_encoder/flax_model.msgpack",
        "tokenizer/merges.txt",
    )
    sources = Sources(tmp_path, store)
    first = sources.locate(spec("s3://bucket/models/one"))
    assert store.fetched == [*GOOD, "tokenizer/merges.txt"]
    assert sources.locate(spec("s3://bucket/models/one")) == first
    assert len(store.fetched) == 4
    assert (Path(first) / "unet/config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [Path(first).name]


def test_another_revision_of_a_store_s_model_is_fetched_anew(tmp_path: Path) -> None:
    store = Store(*GOOD)
    sources = Sources(tmp_path, store)
    places = {sources.locate(spec("s3://bucket/one", revision)) for revision in (None, "1", "2")}
    assert len(places) == 3


def test_a_download_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Sources(tmp_path, Store(*GOOD, fails=True)).locate(spec("s3://bucket/one"))
    assert list(tmp_path.iterdir()) == []
    assert Sources(tmp_path, Store(*GOOD)).locate(spec("s3://bucket/one"))


def test_the_slower_of_two_downloads_uses_what_the_faster_one_left(tmp_path: Path) -> None:
    faster = Sources(tmp_path, Store(*GOOD))

    class Slower(Store):
        def __call__(
            self, url: str, folder: Path, wanted: Callable[[str], bool]
        ) -> tuple[str, ...]:
            faster.locate(spec("s3://bucket/one"))
            return super().__call__(url, folder, wanted)

    place = Path(Sources(tmp_path, Slower(*GOOD)).locate(spec("s3://bucket/one")))
    assert list(tmp_path.iterdir()) == [place]


def test_a_store_s_model_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no object store"):
        Sources(tmp_path).locate(spec("s3://bucket/one"))


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_a_component_with_pickled_weights_only_is_refused_by_name(suffix: str) -> None:
    names = [*GOOD, f"vae/weights.{suffix}"]
    with pytest.raises(ModelLoadError, match=rf"vae/weights\.{suffix} is pickled"):
        refuse_pickled("s3://bucket/one", names)


def test_a_whole_pickled_checkpoint_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"model\.ckpt is pickled"):
        refuse_pickled("s3://bucket/one", ["model.ckpt", "README.md"])


def test_pickles_beside_safetensors_and_in_unused_parts_do_no_harm() -> None:
    names = [*GOOD, "v1-5.ckpt", "unet/model.bin", "safety_checker/pytorch_model.bin"]
    refuse_pickled("s3://bucket/one", names)


def test_an_empty_place_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"no model_index\.json"):
        refuse_pickled("s3://bucket/one", [])
