"""Data sets of a Hugging Face Hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import serve_hub
from objects import QUICK
from sites import names

from pipelines.conversion.run import ConvertConfig
from pipelines.errors import DataError
from pipelines.remote.cache import localize
from pipelines.remote.conversion import convert_remote
from pipelines.remote.faults import Missing
from pipelines.remote.fetching import fetch_file
from pipelines.remote.store import Store

BODY = bytes(range(256)) * 41


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of the data set `owner/name`."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as others' tests may have set it
    config = pytest.importorskip("fsspec.config", reason="fsspec is not installed")
    monkeypatch.setenv("no_proxy", "*")
    held = {"data/x.bin": BODY}
    with serve_hub(held) as address:
        monkeypatch.setitem(config.conf, "hf", {"endpoint": address})
        yield held


@pytest.mark.parametrize("address", ["hf://datasets/owner/name", "hf://datasets/owner/name@main"])
def test_a_file_comes_with_its_sha256(files: dict[str, bytes], tmp_path: Path, address: str):
    store = Store(address, QUICK)
    found = store.stat(f"{address}/data/x.bin")
    assert found.size == len(BODY)
    assert list(store.checksums(found)) == ["sha256"]
    assert [each.address for each in store.children(address)] == [f"{address}/data"]
    assert store.find(f"{address}/data") == [found]
    assert fetch_file(found.address, tmp_path / "x", store=store).read_bytes() == BODY


def test_another_file_is_noticed(files: dict[str, bytes], tmp_path: Path):
    address = "hf://datasets/owner/name/data/x.bin"
    store = Store(address, QUICK)
    real = store._range
    store._range = lambda *asked: real(*asked)[::-1]  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"x\.bin: SHA256 \w+ of what came"):
        fetch_file(address, tmp_path / "x", store=store)


def test_what_is_not_there_is_named(files: dict[str, bytes], tmp_path: Path):
    address = "hf://datasets/owner/name/data/y.bin"
    with pytest.raises(Missing, match=f"{address}: no such file"):
        fetch_file(address, tmp_path / "x", store=Store(address, QUICK))


def test_betons_and_class_folders_are_read(
    files: dict[str, bytes], photos: Path, data: Path, tmp_path: Path
):
    for path in (*photos.rglob("*.jpg"), *data.glob("*.beton")):
        root = photos if path.suffix == ".jpg" else data.parent
        files[path.relative_to(root).as_posix()] = path.read_bytes()
    address = "hf://datasets/owner/name"
    here = localize(Path(f"{address}/{data.name}"), tmp_path)
    assert names(here) == names(data)
    config = ConvertConfig(src=Path(f"{address}/test"), out=tmp_path / "x.beton")
    convert_remote(config, work=tmp_path / "work", patience=QUICK)
    assert (tmp_path / "x.beton").read_bytes() == (data / "test.beton").read_bytes()
