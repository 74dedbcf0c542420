"""A class folder to `.beton`: `fastft convert` against FFCV's own writer.

FFCV's decodes and encodes every photo anew; ours stores the file's bytes, by default after a
decode that only looks for damage. `fastft merge` is held against `cp` of the same bytes.
"""

from __future__ import annotations

import filecmp
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.conftest import Contender, Duel, Photos
from pipelines.conversion.merge import merge
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.formats.beton import read_index

pytest.importorskip("ffcv", reason="the baseline needs ffcv")
from ffcv.fields import IntField, RGBImageField
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

pytestmark = pytest.mark.benchmark(group="convert")
#: Of the conversion that is merged.
SHARDS = 8


def write_by_ffcv(root: Path, out: Path, cores: int) -> int:
    """Source: https://docs.ffcv.io/writing_datasets.html."""
    dataset = ImageFolder(str(root))  # opens by Pillow, converts to RGB
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(out), fields, num_workers=cores).from_indexed_dataset(dataset)
    return len(dataset)


def write_by_fastft(root: Path, out: Path, cores: int, verify: bool) -> int:
    (report,) = convert(ConvertConfig(src=root, out=out, workers=cores, verify=verify))
    return report.images


def by_ffcv(photos: Photos, out: Path, cores: int) -> Contender:
    run = partial(write_by_ffcv, photos.root, out, cores)
    return Contender("ffcv DatasetWriter", run, partial(out.unlink, missing_ok=True))


def by_fastft(photos: Photos, out: Path, cores: int, verify: bool) -> Contender:
    run = partial(write_by_fastft, photos.root, out, cores, verify)
    name = "fastft convert" + ("" if verify else " --no-verify")
    return Contender(name, run, partial(out.unlink, missing_ok=True))


@pytest.mark.parametrize(
    ("verify", "goal"), [(True, "ratio >= 3"), (False, "ratio >= 10")], ids=["verify", "no-verify"]
)
def test_fastft_convert(
    verify: bool, goal: str, duel: Duel, photos: Photos, workspace: Path, cores: int
) -> None:
    stock_out, out = workspace / "ffcv.beton", workspace / "fastft.beton"
    duel(by_fastft(photos, out, cores, verify), by_ffcv(photos, stock_out, cores), goal)
    assert_labels(stock_out, photos)
    assert_labels(out, photos)
    index = read_index(out)
    for sample, path in enumerate(photos.files):
        assert bytes(index.stored(sample).data) == path.read_bytes()


def assert_labels(out: Path, photos: Photos) -> None:
    """Stock FFCV's reader sees every sample with its label."""
    reader = Reader(str(out))
    assert reader.num_samples == len(photos)
    np.testing.assert_array_equal(reader.metadata["f1"], photos.labels)


def copy_whole(whole: Path, copy: Path, images: int) -> int:
    subprocess.run(["cp", "--reflink=never", whole, copy], check=True)
    return images


def merge_shards(out: Path) -> int:
    (report,) = merge(out)
    return report.images


@pytest.mark.benchmark(group="merge")
def test_fastft_merge(duel: Duel, photos: Photos, workspace: Path, cores: int) -> None:
    """The merged file's bytes once more through a checksum, against a plain copy of them."""
    whole, copy, out = (workspace / f"{name}.beton" for name in ("whole", "copy", "merged"))
    write_by_fastft(photos.root, whole, cores, verify=False)
    for index in range(1, SHARDS + 1):
        convert(
            ConvertConfig(
                src=photos.root, out=out, workers=cores, verify=False, shard=f"{index}/{SHARDS}"
            )
        )
    duel(
        Contender("fastft merge", partial(merge_shards, out), partial(out.unlink, missing_ok=True)),
        Contender(
            "cp",
            partial(copy_whole, whole, copy, len(photos)),
            partial(copy.unlink, missing_ok=True),
        ),
        "ratio >= 0.4",
    )
    assert filecmp.cmp(whole, out, shallow=False)
