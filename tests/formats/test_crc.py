"""CRC-32 is zlib's, whoever computes it."""

import importlib
import sys
import zlib

import numpy as np
import pytest

from pipelines.formats import crc


@pytest.mark.parametrize("size", [0, 1, 7, 64, 4095, 112_000])
def test_it_is_zlibs(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    wanted = zlib.crc32(data.tobytes())
    assert crc.crc32(data.tobytes()) == crc.crc32(data) == crc.crc32(memoryview(data)) == wanted
    half = size // 2
    assert crc.crc32(data[half:], crc.crc32(data[:half])) == wanted


def test_zlib_computes_it_where_isal_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("isal", "isal.isal_zlib"):
        monkeypatch.setitem(sys.modules, module, None)
    with monkeypatch.context() as here:
        here.delitem(sys.modules, "pipelines.formats.crc")
        assert importlib.import_module("pipelines.formats.crc").crc32 is zlib.crc32
    assert sys.modules["pipelines.formats.crc"] is crc
