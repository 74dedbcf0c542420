"""Copies of photos: prints, pairs of hashes, groups."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from fastft.check.copies import _close, _Forest, find_copies, gather
from fastft.check.hashes import MIRRORED, Prints, make_prints, measure
from fastft.check.look import look_at

COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the same": lambda image: image,
    "shrunk": lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10)),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 3)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "mirrored": ImageOps.mirror,
    "mirrored and shrunk": lambda image: ImageOps.mirror(image).resize((66, 50)),
}


def encode(image: Image.Image, quality: int = 60) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=quality)
    return target.getvalue()


def prints_of(*images: bytes) -> Prints:
    pictures = [look_at(each, verify=False).picture for each in images]
    return make_prints(np.stack([each for each in pictures if each is not None]))


def links_of(prints: Prints, digests: list[bytes], threshold: int = 8) -> list[tuple[object, ...]]:
    usable = np.ones(len(digests), bool)
    keys = np.array(digests, "S16").view("V16")
    found = find_copies(keys, prints, usable, threshold, lambda *_: None)
    return [(each.first, each.second, each.is_exact, each.is_mirrored) for each in found]


@pytest.fixture(scope="module")
def files(photos: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(photos.rglob("*.jpg"))]


@pytest.mark.parametrize("kind", COPIES)
def test_changed_copies_are_known(kind: str, files: list[bytes]) -> None:
    for data in files[::8]:
        with Image.open(io.BytesIO(data)) as image:
            copy = encode(COPIES[kind](image.convert("RGB")))
        found = links_of(prints_of(data, copy), [b"a", b"b"])
        assert found == [(0, 1, False, kind.startswith("mirrored"))]


def test_photos_of_one_class_are_no_copies(files: list[bytes]) -> None:
    digests = [b"%d" % number for number in range(len(files))]
    assert links_of(prints_of(*files), digests, threshold=12) == []


def test_close_hashes_alone_make_no_copies(files: list[bytes]) -> None:
    prints = prints_of(*files[:3])
    same = Prints(prints.hashes[[0, 0, 0]], prints.lumas, prints.chromas)
    assert links_of(same, [b"a", b"b", b"c"]) == []
    recoloured = Prints(prints.hashes[[0, 0]], prints.lumas[[0, 0]], prints.chromas[[0, 0]].copy())
    assert links_of(recoloured, [b"a", b"b"]) == [(0, 1, False, False)]
    recoloured.chromas[1] += 21
    assert links_of(recoloured, [b"a", b"b"]) == []


def test_mirrored_hashes_differ_in_known_bits(files: list[bytes]) -> None:
    pictures = [look_at(each, verify=False).picture for each in files[:8]]
    stacked = np.stack([each for each in pictures if each is not None])
    mirrored = make_prints(stacked[:, :, ::-1]).hashes
    assert np.array_equal(make_prints(stacked).hashes ^ MIRRORED, mirrored)
    both = make_prints(np.concatenate((stacked, stacked[:, :, ::-1])))
    ends = np.arange(8)
    difference, tint = measure(both, ends, ends + 8, mirrored=True)
    assert np.abs(difference).max() < 1e-5
    assert tint.max() == 0
    assert measure(both, ends, ends + 8, mirrored=False)[0].min() > 0.06


@pytest.mark.parametrize("threshold", [0, 3, 4, 8, 12])
def test_all_close_hashes_are_found(threshold: int) -> None:
    random = np.random.default_rng(threshold)
    hashes = random.integers(0, 2**64, 300, np.uint64)
    for at in range(100):
        bits = random.choice(64, random.integers(0, 15), replace=False)
        change = np.uint64(sum(1 << int(bit) for bit in bits))
        hashes[at + 150] = hashes[at] ^ change ^ (MIRRORED if at % 2 else np.uint64(0))
    found = {
        (*sorted(ends), mirrored): apart
        for one, other, bits, mirrored in _close(hashes, threshold, lambda *_: None)
        for *ends, apart in zip(one.tolist(), other.tolist(), bits.tolist(), strict=True)
    }
    wanted = {}
    for mirrored, turned in ((False, np.uint64(0)), (True, MIRRORED)):
        apart = np.bitwise_count(hashes[:, None] ^ hashes ^ turned)
        for one, other in zip(*np.nonzero(apart <= threshold), strict=True):
            if one < other:
                wanted[(int(one), int(other), mirrored)] = int(apart[one, other])
    assert found == wanted
    assert {mirrored for *_, mirrored in found} == {False, True}


def test_same_bytes_come_first(files: list[bytes]) -> None:
    prints = prints_of(files[0], files[1], files[0], files[0])
    found = links_of(prints, [b"a", b"b", b"a", b"a"])
    assert found == [(0, 2, True, False), (0, 3, True, False)]


def test_unusable_photos_are_left_out(files: list[bytes]) -> None:
    prints = prints_of(files[0], files[0], files[0])
    keys = np.array([b"a", b"a", b"c"], "S16").view("V16")
    usable = np.array([True, False, True])
    (link,) = find_copies(keys, prints, usable, 8, lambda *_: None)
    assert (link.first, link.second, link.is_exact) == (0, 2, False)


def test_groups_are_joined_by_their_links(files: list[bytes]) -> None:
    prints = prints_of(*(files[at] for at in (0, 1, 0, 2, 1, 0)))
    keys = np.array([b"%d" % at for at in range(6)], "S16").view("V16")
    groups = gather(find_copies(keys, prints, np.ones(6, bool), 8, lambda *_: None))
    assert [members.tolist() for members, _ in groups] == [[0, 2, 5], [1, 4]]
    assert [len(links) for _, links in groups] == [2, 1]
    assert gather([]) == []


def test_forests_join_each_group_once() -> None:
    random = np.random.default_rng(0)
    forest, one, other = _Forest(200), random.integers(0, 200, 150), random.integers(0, 200, 150)
    used = forest.join(one, other)
    groups = [{at} for at in range(200)]
    for a, b in zip(one, other, strict=True):
        first, second = (next(group for group in groups if end in group) for end in (a, b))
        if first is not second:
            groups.remove(second)
            first |= second
    assert sorted(map(sorted, groups)) == sorted(
        np.flatnonzero(forest.roots == root).tolist() for root in np.unique(forest.roots)
    )
    assert len(used) == 200 - len(groups)
    assert len(forest.join(one, other)) == 0
