"""An upload arrives whole, or nothing of it does."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from effort import rest
from objects import QUICK, get_bytes, put_bytes, store_of

from pipelines.remote import uploading
from pipelines.remote.faults import StoreError
from pipelines.remote.store import Store


@pytest.mark.parametrize(
    ("holder", "harm", "times"),
    [
        *product(["memory"], ["flipped", "cut"], [1, 2]),
        ("s3", "flipped", 1),
        ("s3", "cut", 2),
        *rest(("s3", "flipped", 2), ("s3", "cut", 1)),
    ],
    indirect=["holder"],
)
def test_what_arrives_otherwise_is_put_again(
    holder: str, data: Path, monkeypatch: pytest.MonkeyPatch, harm: str, times: int
):
    path, address, left = data / "test.beton", f"{holder}/x.beton", [times]
    whole, real = path.read_bytes(), Store.put
    spoiled = whole[:-1] + bytes([whole[-1] ^ 1] * (harm == "flipped"))

    def put(self: Store, path: Path, address: str, on_bytes: Callable[[int], None]) -> None:
        real(self, path, address, on_bytes)
        if left[0]:
            left[0] -= 1
            put_bytes(address, spoiled)

    monkeypatch.setattr(Store, "put", put)
    if times == 1:
        uploading.upload_file(path, address, store=Store(address, QUICK))
        assert get_bytes(address) == whole
        return
    with pytest.raises(StoreError, match=r"x\.beton: .*; nothing was left there; try it again"):
        uploading.upload_file(path, address, store=Store(address, QUICK))
    assert not store_of(address).file_system().exists(address)


def test_a_killed_upload_in_parts_shows_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pipelines.remote import store as store_module

    monkeypatch.setattr(store_module, "_PART_BYTES", 1 << 18)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1 << 10)
    (tmp_path / "x").write_bytes(os.urandom(600_000))
    store = Store(bucket, QUICK)
    fs = store.file_system(writes=True)
    real = fs._call_s3

    async def fail(method: str, *arguments: Any, **options: Any) -> Any:
        if method == "complete_multipart_upload":
            raise PermissionError
        return await real(method, *arguments, **options)

    monkeypatch.setattr(fs, "_call_s3", fail)
    with pytest.raises(StoreError, match="access is denied"):
        store.put(tmp_path / "x", f"{bucket}/x", lambda _: None)
    assert not store.file_system().exists(f"{bucket}/x")
    told: list[int] = []
    monkeypatch.setattr(fs, "_call_s3", real)
    store.put(tmp_path / "x", f"{bucket}/x", told.append)
    assert told[-1] == 600_000
    assert get_bytes(f"{bucket}/x") == (tmp_path / "x").read_bytes()
