"""How numbers are written, and JSON is read back."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fastft.results import read
from fastft.results.numbers import (
    count,
    mean,
    write_bytes,
    write_measure,
    write_number,
    write_rate,
    write_ratio,
    write_span,
)
from fastft.results.read import check, check_line, flatten, parse_object, read_bytes
from pipelines.errors import DataError, FormatError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (write_rate(13_743.9), "13,744"),
        (write_rate(46.5), "46.5"),
        (write_rate(3.75e7), "37.5 M"),
        (write_rate(1.234e11), "1.23e+11"),
        (write_rate(None), "\u2013"),
        (write_rate(0.0), "0"),
        (write_measure(1.4), "1.40"),
        (write_measure(0.0004), "4.00e-04"),
        (write_measure(0), "0.000"),
        (write_bytes(999), "0.999 kB"),
        (write_bytes(1_928_966_144), "1.93 GB"),
        (write_number(100_000), "100,000"),
        (write_number(0.01), "0.01"),
        (write_ratio(0.012), "0.012"),
        (write_ratio(12.3456), "12.35"),
        (write_span(None, 0.3), "one seed"),
        (write_span(0.1, 0.3), "0.100 to 0.300"),
        (count(1, "image"), "1 image"),
        (count(1000, "image"), "1,000 images"),
    ],
)
def test_numbers_are_written_short(text: str, wanted: str) -> None:
    assert text == wanted


def test_means_pass_over_what_is_unknown() -> None:
    assert mean([1.0, None, float("nan"), 3.0]) == 2.0
    assert mean([None]) is None


@dataclass(frozen=True)
class Part:
    size: int


@dataclass(frozen=True)
class Whole:
    name: str
    rate: float | None
    parts: tuple[Part, ...]


def test_json_becomes_the_dataclass_it_was() -> None:
    found = parse_object(b'{"name": "a\\u202eb", "rate": NaN, "parts": [{"size": 3}], "x": 1}', "f")
    assert check(Whole, found, "f") == Whole(r"a\u202eb", None, (Part(3),))
    assert check_line(Part, b'{"size": 3}', "f") == Part(3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "a", "rate": 1}', "f: parts: missing"),
        (b'{"name": 3, "rate": 1, "parts": []}', "f: name: the value 3, expected a valid string"),
        (b'{"name": "", "rate": true, "parts": []}', "f: rate: the value true, expected a valid"),
        (b'{"name": "", "rate": "1", "parts": []}', "f: rate: the text '1', expected a valid"),
        (b'{"name": "", "rate": 1, "parts": [{"size": 2.5}]}', "f: parts[0]: size: the value 2.5"),
        (b'{"name": "", "rate": 1, "parts": [{"size": ' + b"9" * 400 + b"}]}", "size: null"),
        (b'{"name": "", "rate": 1, "parts": {}}', "f: parts: an object, expected a valid array"),
        (b"[1]", "f: a list in JSON, expected an object"),
        (b"[" * 100_000, "f: not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "f: not JSON"),
        (b"\xff", "f: not JSON"),
    ],
)
def test_a_field_that_is_wrong_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as raised:
        check(Whole, parse_object(content, "f"), "f")
    assert str(raised.value).startswith(message) or message in str(raised.value)


def test_a_line_that_is_no_json_is_named() -> None:
    with pytest.raises(FormatError, match="f:3: not JSON"):
        check_line(Part, b"{", "f:3")


def test_long_texts_and_odd_numbers_are_tamed() -> None:
    found = parse_object(b'{"a": "' + b"x" * 1000 + b'", "b": Infinity, "c": [1e400, true]}', "f")
    assert found["a"] == "x" * 299 + "\u2026"
    assert (found["b"], found["c"]) == (None, [None, True])
    assert flatten({"a": {"b": 1.5, "c": None}, "d": [1, 2]}) == {
        "a.b": "1.5",
        "a.c": "",
        "d": "[1, 2]",
    }


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"x" * 11)
    assert read_bytes(tmp_path / "it", 11)
    with pytest.raises(DataError, match="more than 10 bytes, expected a smaller file"):
        read_bytes(tmp_path / "it", 10)
    with pytest.raises(DataError, match="no such file"):
        read_bytes(tmp_path / "none", 10)
    assert read.MOST_BYTES > 2**20
