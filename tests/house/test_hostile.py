"""Every reader of files from elsewhere against files made to harm it.

What holds for each: it reads the file or refuses it by one line that names it, soon and in little
memory. The long form is part of `./dev soak`; `fuzz.py` goes on for as long as one likes.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from effort import SOAK_H, scale
from hostile import Attempts, Found, Number, Target, as_it_is, boundaries, no_numbers
from hostile import edit as change
from hostile_beton import BETONS, beton_of, image_of, odd_jsons, shard_of, with_json
from hostile_targets import TARGETS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipelines.decoder import Decoder
from pipelines.errors import DataError
from pipelines.formats.source import open_source

Tried = Callable[..., None]
#: In the short form the same ones each time; what they find need not be made smaller.
EFFORT = settings(
    max_examples=scale(6, 3000),
    derandomize=not SOAK_H,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
#: In the short form one in so many values of the numbers in a file.
STRIDE = scale(211, 1)


def of(name: str) -> tuple[Target, list[bytes]]:
    """A target, and valid files for it."""
    return TARGETS[name], TARGETS[name].seeds()


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path / "box")


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_read(name: str, attempts: Attempts) -> None:
    target, seeds = of(name)
    for content in seeds:
        for each in {content, target.mend(content)}:
            assert attempts(target, each) is None


@pytest.mark.parametrize("name", TARGETS)
def test_files_changed_anywhere_are_read_or_refused(
    name: str, attempts: Attempts, tried: Tried
) -> None:
    target, seeds = of(name)
    numbers = [target.numbers(content) for content in seeds]

    @EFFORT
    @given(st.randoms(use_true_random=False), st.integers(0, len(seeds) - 1), st.booleans())
    def try_one(random: Random, seed: int, mended: bool) -> None:
        content = change(seeds[seed], random, numbers[seed], target.tokens, seeds)
        attempts(target, target.mend(content) if mended else content)

    try_one()
    # The few changes of an ordinary run may all be harmless; files that are cut are refused below.
    assert attempts.refused or target.heals or not SOAK_H
    tried(target.fuzzed, attempts.count)


@pytest.mark.parametrize("name", [name for name in TARGETS if TARGETS[name].numbers != no_numbers])
def test_every_number_may_be_anything(name: str, attempts: Attempts, tried: Tried) -> None:
    target, seeds = of(name)
    tries: list[tuple[bytes, Number, int]] = []
    for content in seeds:
        numbers = target.numbers(content)
        for number in numbers:
            tries += [(content, number, v) for v in boundaries(number, content, numbers)]
    for content, number, value in tries[::STRIDE]:
        changed = bytearray(content)
        number.write(changed, value)
        attempts(target, target.mend(bytes(changed)))
    assert attempts.refused or target.heals
    tried(target.fuzzed, attempts.count)


@pytest.mark.parametrize("name", TARGETS)
def test_files_cut_anywhere_are_read_or_refused(
    name: str, attempts: Attempts, tried: Tried
) -> None:
    target, seeds = of(name)
    for content in seeds:
        for size in range(0, len(content), max(1, len(content) // scale(3, 500))):
            attempts(target, content[:size])
            if target.mend != as_it_is:
                attempts(target, target.mend(content[:size]))
    assert attempts.refused or target.heals
    tried(target.fuzzed, attempts.count)


@pytest.mark.parametrize("target", BETONS[::2], ids=lambda target: target.name)
def test_class_names_may_be_any_json(target: Target, attempts: Attempts, tried: Tried) -> None:
    whole = beton_of(3, shard=shard_of(1))
    assert attempts(target, with_json(whole, odd_plain())) is None
    for text in odd_jsons()[:: scale(5, 1)]:
        attempts(target, with_json(whole, text))
    assert attempts.refused > scale(30, 150)
    tried(target.fuzzed, attempts.count)


def odd_plain() -> bytes:
    """What the writer itself puts there."""
    whole = beton_of(3, shard=shard_of(1))
    at = whole.index(b'{"classes"')
    return whole[at : whole.rindex(b"}") + 1]


def test_a_photo_that_grows_is_not_decoded(tmp_path: Path) -> None:
    photo = tmp_path / "a" / "1.jpg"
    photo.parent.mkdir()
    photo.write_bytes(image_of("JPEG", 24, 17))
    decoder = Decoder(open_source(tmp_path))
    target = np.full(24 * 17 * 3 + 9000, 113, np.uint8)
    photo.write_bytes(image_of("JPEG", 40, 30))
    for decode in (decoder.to_rgb, decoder.to_planes):
        with pytest.raises(DataError, match="is now 40 x 30 px, expected 24 x 17 px"):
            decode(0, target)
    assert (target == 113).all()


def reader(action: object) -> Target:
    """One that does something that no reader may do."""

    def read(path: Path) -> object:
        if callable(action):
            return action(path)
        raise action  # type: ignore[misc]

    return Target(name="x", group="x", file="x", read=read, seeds=list)


def spend(path: Path) -> None:
    for _ in itertools.repeat(None):
        pass


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (KeyError("x"), "KeyError"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (AssertionError("x"), "AssertionError"),
        (DataError("elsewhere", "x"), "a message that no one can use: elsewhere"),
        (lambda path: bytes(130 << 20), "bytes of memory for a file of 3"),
        (lambda path: (path.parents[1] / "escaped").mkdir(), "something beside the folder"),
        (spend, "more than 0.2 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_looked_for_is_found(
    action: object, said: str, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostile.MOST_CPU_S", 0.2)
    with pytest.raises(Found, match=said):
        attempts(reader(action), b"abc")
