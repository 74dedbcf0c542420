"""One file fetched: resumed where it stopped, checked, whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from objects import Faults, FaultyStore, get_bytes, memory_address, put_bytes
from sites import names

from pipelines.errors import DataError
from pipelines.remote import fetching
from pipelines.remote.checksums import check_file, checksums_of, checksums_of_head, read_sha256
from pipelines.remote.faults import Missing, StoreError
from pipelines.remote.fetching import fetch_file
from pipelines.remote.store import Store

#: Some ranges and a rest.
BODY = bytes(range(256)) * 41


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_RANGE_BYTES", 1000)


@pytest.fixture
def address() -> str:
    there = f"{memory_address()}/x.bin"
    put_bytes(there, BODY)
    return there


@pytest.fixture
def faults() -> Faults:
    return Faults()


def flip(start: int, data: bytes) -> bytes:
    """One bit of the third range."""
    return bytes([data[0] ^ 1, *data[1:]]) if start == 2000 else data


def fail_late(start: int, data: bytes) -> bytes:
    if start >= 5000:
        raise PermissionError
    return data


def test_a_file_comes_whole(address: str, tmp_path: Path):
    told: list[tuple[str, int, int | None]] = []
    target = tmp_path / "new" / "x.bin"
    assert fetch_file(address, target, lambda *said: told.append(said)) == target
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["x.bin"]
    done = [bytes_ for _, bytes_, _ in told]
    assert done == sorted(done)
    assert told[-1] == ("fetching", len(BODY), len(BODY))


def test_an_empty_file_comes(tmp_path: Path):
    address = f"{memory_address()}/x"
    put_bytes(address, b"")
    assert fetch_file(address, tmp_path / "x").read_bytes() == b""
    assert names(tmp_path) == ["x"]


def test_an_interrupted_download_goes_on(address: str, tmp_path: Path, faults: Faults):
    store, target = FaultyStore(address, faults), tmp_path / "x.bin"
    faults.spoil = fail_late
    with pytest.raises(StoreError, match="access is denied"):
        fetch_file(address, target, store=store)
    assert names(tmp_path) == ["x.bin.part", "x.bin.part.json"]
    assert (tmp_path / "x.bin.part").stat().st_size == 5000
    again = Faults()
    fetch_file(address, target, store=FaultyStore(address, again))
    assert again.asked["range"] == len(range(5000, len(BODY), 1000))
    assert target.read_bytes() == BODY
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("sidecar", ["", "[", "{}", "[1]", '"x"'])
def test_a_part_of_what_is_unknown_begins_anew(address: str, tmp_path: Path, sidecar: str):
    (tmp_path / "x.bin.part").write_bytes(b"other")
    if sidecar:
        (tmp_path / "x.bin.part.json").write_text(sidecar)
    assert fetch_file(address, tmp_path / "x.bin").read_bytes() == BODY
    assert names(tmp_path) == ["x.bin"]


def test_a_changed_file_is_fetched_anew(address: str, tmp_path: Path, faults: Faults):
    store, target = FaultyStore(address, faults), tmp_path / "x.bin"
    faults.spoil = fail_late
    with pytest.raises(StoreError):
        fetch_file(address, target, store=store)
    put_bytes(address, BODY[::-1])
    again = Faults()
    fetch_file(address, target, store=FaultyStore(address, again))
    assert again.asked["range"] == len(range(0, len(BODY), 1000))
    assert target.read_bytes() == BODY[::-1]


def test_a_file_that_changes_meanwhile_is_fetched_anew(address: str, tmp_path: Path):
    faults = Faults()

    def change(start: int, data: bytes) -> bytes:
        if start == 9000 and get_bytes(address) == BODY:
            put_bytes(address, BODY[::-1])
        return data

    faults.spoil = change
    fetch_file(address, tmp_path / "x", store=FaultyStore(address, faults))
    assert (tmp_path / "x").read_bytes() == BODY[::-1]


def test_a_file_that_never_rests_is_given_up(address: str, tmp_path: Path):
    faults, count = Faults(), [0]

    def change(start: int, data: bytes) -> bytes:
        if start == 9000:
            count[0] += 1
            put_bytes(address, BODY[count[0] :] + BODY[: count[0]])
        return data

    faults.spoil = change
    with pytest.raises(StoreError, match="changes while it is fetched"):
        fetch_file(address, tmp_path / "x", store=FaultyStore(address, faults))
    assert not (tmp_path / "x").exists()


def test_what_comes_short_is_asked_again(address: str, tmp_path: Path, faults: Faults):
    short = [True]

    def cut(start: int, data: bytes) -> bytes:
        return data[:-1] if start == 3000 and short and short.pop() else data

    faults.spoil = cut
    fetch_file(address, tmp_path / "x", store=FaultyStore(address, faults))
    assert (tmp_path / "x").read_bytes() == BODY


def test_a_flipped_bit_is_noticed_by_sha256(address: str, tmp_path: Path, faults: Faults):
    put_bytes(f"{address}.sha256", f"{hashlib.sha256(BODY).hexdigest()}  x.bin\n".encode())
    fetch_file(address, tmp_path / "x")
    faults.spoil = flip
    with pytest.raises(DataError, match=r"x\.bin: SHA256 \w+ of what came, expected \w+"):
        fetch_file(address, tmp_path / "y", store=FaultyStore(address, faults))
    assert names(tmp_path) == ["x"]


def test_a_flipped_bit_is_noticed_by_s3s_etag(bucket: str, tmp_path: Path, faults: Faults):
    put_bytes(f"{bucket}/x", BODY)
    faults.spoil = flip
    with pytest.raises(DataError, match=r"/x: (MD5|CRC32) \w+ of what came, expected"):
        fetch_file(f"{bucket}/x", tmp_path / "x", store=FaultyStore(bucket, faults))
    assert names(tmp_path) == []


def test_a_flipped_bit_is_noticed_by_the_etag_of_parts(bucket: str, tmp_path: Path, faults: Faults):
    from pipelines.remote import store as module

    body = os.urandom(11 << 20)
    (tmp_path / "body").write_bytes(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART_BYTES", 5 << 20)
        patch.setattr(fetching, "_RANGE_BYTES", 4 << 20)
        store = FaultyStore(bucket, faults)
        store.put(tmp_path / "body", f"{bucket}/x", lambda _: None)
        assert list(store.checksums(store.stat(f"{bucket}/x"))) == ["parts"]
        fetch_file(f"{bucket}/x", tmp_path / "x", store=store)
        assert (tmp_path / "x").read_bytes() == body
        faults.spoil = lambda start, data: data if start else b"?" + data[1:]
        with pytest.raises(DataError, match="ETag"):
            fetch_file(f"{bucket}/x", tmp_path / "y", store=store)


def test_errors_of_a_server_are_tried_again(address: str, tmp_path: Path, faults: Faults):
    faults.errors = [TimeoutError(), ConnectionResetError()]
    fetch_file(address, tmp_path / "x", store=FaultyStore(address, faults))
    assert faults.asked["range"] == len(range(0, len(BODY), 1000)) + 2
    assert (tmp_path / "x").read_bytes() == BODY


def test_what_is_not_there_is_named(tmp_path: Path):
    folder = memory_address()
    with pytest.raises(Missing, match=f"{folder}/x: no such file"):
        fetch_file(f"{folder}/x", tmp_path / "x")
    put_bytes(f"{folder}/a/b", b"x")
    with pytest.raises(DataError, match="/a: is a folder, expected a file"):
        fetch_file(f"{folder}/a", tmp_path / "x")
    assert names(tmp_path) == []


def test_what_does_not_fit_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Usage:
        free = 5

    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(DataError, match="5 bytes free on its disk, expected 10,496"):
        fetch_file(address, tmp_path / "x")
    assert names(tmp_path) == []


def test_a_part_is_told_without_passwords(address: str, tmp_path: Path, faults: Faults):
    faults.spoil = fail_late
    with pytest.raises(StoreError):
        fetch_file(address, tmp_path / "x", store=FaultyStore(address, faults))
    told = json.loads((tmp_path / "x.part.json").read_text())
    assert set(told) == {"address_sha256", "size", "version"}
    assert address not in json.dumps(told)


def test_checksums_are_read_where_stores_tell_them(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"hello")
    md5, crc32c = "XUFAKrxLKna5cZ2REBfFkg==", "mnG7TA=="
    assert (
        checksums_of({"md5Hash": md5, "crc32c": crc32c})["md5"] == hashlib.md5(b"hello").hexdigest()
    )
    assert checksums_of({"md5Hash": 3, "crc32c": "odd", "Content-MD5": "!"}) == {}
    sha256 = hashlib.sha256(b"hello").hexdigest()
    assert checksums_of({"lfs": {"sha256": sha256}}) == {"sha256": sha256}
    digest = "SHA-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=,md5=x"
    assert checksums_of({"Digest": digest}) == {"sha256": sha256}
    plain = {"ETag": '"5d41402abc4b2a76b9719d911017c592"'}
    assert set(checksums_of_head(plain)) == {"md5"}
    assert checksums_of_head(plain | {"ServerSideEncryption": "aws:kms"}) == {}
    assert checksums_of_head(plain | {"SSECustomerAlgorithm": "AES256"}) == {}
    assert checksums_of_head({"ETag": '"5d41402abc4b2a76b9719d911017c592-2"'}) == {}
    assert check_file(path, checksums_of_head(plain), "s3://b/x") == ("md5",)
    assert check_file(path, {}, "s3://b/x") == ()
    assert read_sha256(f"{sha256.upper()}\n".encode()) == sha256
    assert read_sha256(b"<html>") is None
    assert read_sha256(sha256.encode() + b"0") is None


def test_a_store_is_opened_anew_in_another_process(address: str, monkeypatch: pytest.MonkeyPatch):
    store = Store(address)
    first = store.file_system()
    assert store.file_system() is first
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert store.file_system() is not first
