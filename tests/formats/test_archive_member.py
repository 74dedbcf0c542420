import os
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from zips import DEFLATED, STORED, failure, read_all, write_zip

from pipelines.errors import DataError, FastftError, FormatError
from pipelines.formats import encode
from pipelines.formats.archive import open_archive
from pipelines.formats.archive_member import MAX_FILE_BYTES

# Offsets in a central directory entry.
FLAGS, METHOD, CRC, PACKED, SIZE, ATTRIBUTES, WHERE = 8, 10, 16, 20, 24, 38, 42


def patch(path: Path, field: int, value: int, member: int = 1) -> None:
    """Change a number in the central directory's entry of a member."""
    content, at = bytearray(path.read_bytes()), -1
    for _ in range(member + 1):
        at = content.index(b"PK\1\2", at + 1)
    struct.pack_into("<H" if field in (FLAGS, METHOD) else "<I", content, at + field, value)
    path.write_bytes(content)


@pytest.fixture(params=[STORED, DEFLATED], ids=["stored", "deflated"])
def three(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A zip of three samples, the second of 5,000 bytes."""
    files = {"a/1.jpg": b"one", "a/2.jpg": bytes(range(250)) * 20, "b/3.jpg": b"three"}
    return write_zip(tmp_path / "x.zip", files, request.param)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (FLAGS, 1, "is encrypted in the zip"),
        (FLAGS, 0x41, "is encrypted in the zip"),
        (FLAGS, 0x20, "is compressed as a patch in the zip"),
        (METHOD, 12, "is compressed by bzip2, not stored or deflated"),
        (METHOD, 77, "is compressed by method 77, not stored or deflated"),
        (CRC, 0, "has other bytes than those that were zipped (CRC-32)"),
        (SIZE, 4999, "is more than the 4,999 bytes that it declares"),
        (SIZE, 0, "is more than the 0 bytes that it declares"),
        (SIZE, 5001, "is 5,000 bytes, not the 5,001 that it declares"),
        (SIZE, MAX_FILE_BYTES, "declares 1,431,655,760 bytes in "),
        (SIZE, MAX_FILE_BYTES + 1, "declares 1,431,655,761 bytes, more than 1,431,655,760"),
        (PACKED, 3, ""),
        (WHERE, 1, "is not where the zip's directory says"),
        (WHERE, 0, "is not where the zip's directory says"),
        (ATTRIBUTES, 0o120777 << 16, "is a link, which is not followed in a zip"),
    ],
)
def test_one_bad_member_is_left_out_and_named(
    three: Path, field: int, value: int, said: str
) -> None:
    patch(three, field, value)
    found = read_all(three)
    assert (found["a/1.jpg"], found["b/3.jpg"]) == (b"one", b"three")
    reason = found["a/2.jpg"]
    assert isinstance(reason, str)
    assert said in reason


def test_other_damage_to_a_member_is_named(three: Path) -> None:
    content = three.read_bytes()
    at = content.index(b"a/2.jpg") + len("a/2.jpg")
    three.write_bytes(content[:at] + b"\xff" * 9 + content[at + 9 :])
    reason = read_all(three)["a/2.jpg"]
    assert reason.startswith(("does not inflate (Error -3", "has other bytes"))
    three.write_bytes(content[: at - 1] + b"X" + content[at:])  # its name, ahead of its bytes
    assert read_all(three)["a/2.jpg"] == "is not where the zip's directory says"
    patch(three, WHERE, len(content) + 1)
    assert "x.zip: a/2.jpg: lies outside the zip" in str(failure(three))
    three.write_bytes(content)
    patch(three, PACKED, 0x7FFFFFFF)
    assert "x.zip: a/2.jpg: lies outside the zip" in str(failure(three))
    three.write_bytes(content)
    patch(three, PACKED, len(content), member=2)
    assert "lies outside the zip" in str(failure(three))
    three.write_bytes(content)
    patch(three, PACKED, 200, member=2)
    assert read_all(three)["b/3.jpg"] in (
        "is cut short in the zip",
        "is more than the 5 bytes that it declares",
        b"three",
    )


def test_bombs_inflate_no_further_than_declared(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": b"1", "a/2.jpg": bytes(100_000_000)}, DEFLATED)
    patch(path, SIZE, 1_000_000)
    with open_archive(path) as listings:
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match="is more than the 1,000,000 bytes"):
                listings[""].read(1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 5_000_000
    assert MAX_FILE_BYTES == encode.MAX_PIXELS * 8


def test_a_zip_that_is_cut_is_refused(three: Path) -> None:
    content = three.read_bytes()
    for cut in (*range(0, len(content) - 400, 90), *range(len(content) - 400, len(content))):
        three.write_bytes(content[:cut])
        assert isinstance(failure(three), FormatError)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_flipped_bits_are_read_or_refused(tmp_path: Path, method: int) -> None:
    three = write_zip(tmp_path / "x.zip", ["a/1.jpg", "a/2.jpg", "b/3.jpg"], method)
    content = three.read_bytes()
    whole = read_all(three)
    outcomes = {"refused": 0, "left out": 0, "unharmed": 0, "renamed": 0}
    for bit in range(0, 8 * len(content), 3):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        three.write_bytes(changed)
        try:
            found = read_all(three)
        except FastftError:
            outcomes["refused"] += 1
            continue
        if found.keys() != whole.keys():
            outcomes["renamed"] += 1
        elif found == whole:
            outcomes["unharmed"] += 1
        else:
            outcomes["left out"] += 1
            other = [found[name] for name in found if found[name] != whole[name]]
            assert all(isinstance(reason, str) for reason in other), bit
    assert min(outcomes.values()) > 20, outcomes


def test_members_that_are_laid_out_otherwise_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", DEFLATED) as target:
        with target.open("a/1.jpg", "w", force_zip64=True) as file:  # an extra field here alone
            file.write(b"one")
        timed = zipfile.ZipInfo("a/2.jpg")
        timed.extra = struct.pack("<HHB4s", 0x5455, 5, 1, b"time")
        target.writestr(timed, b"two")
    assert read_all(path) == {"a/1.jpg": b"one", "a/2.jpg": b"two"}
    reader, writer = os.pipe()  # cannot be gone back in: sizes come behind the bytes
    with open(reader, "rb") as received, open(writer, "wb") as sent:
        with zipfile.ZipFile(sent, "w", DEFLATED) as target:
            target.writestr("a/1.jpg", b"one" * 99)
        sent.close()
        path.write_bytes(received.read())
    assert read_all(path) == {"a/1.jpg": b"one" * 99}


def test_bytes_before_the_zip_do_no_harm(three: Path) -> None:
    whole = read_all(three)
    three.write_bytes(b"#!/bin/sh and so on" + three.read_bytes())
    assert read_all(three) == whole


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    sizes = enumerate(range(0, 9000, 30))
    files = {f"a/{i:03d}.jpg": random.integers(0, 4, n, np.uint8).tobytes() for i, n in sizes}
    path = write_zip(tmp_path / "x.zip", files, DEFLATED)
    with open_archive(path) as listings, ThreadPoolExecutor(8) as executor:
        order = random.permutation(np.repeat(np.arange(300), 5))
        for sample, read in zip(order, executor.map(listings[""].read, order), strict=True):
            assert read == files[f"a/{sample:03d}.jpg"]
