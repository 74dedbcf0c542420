"""Hostile files that are kept: each is named `reader.what-it-is.suffix`, and refused for that.

Most were thought of; some were found by `fuzz.py`. `tests/data/hostile` holds them as bytes, since
what writes files today will not write the same ones tomorrow.
"""

import sys
import warnings
from pathlib import Path

import pytest
from effort import SOAK_H, rest
from hostile import attempt
from hostile_targets import TARGETS

from fastft.runs import torch_file

KEPT = Path(__file__).parents[1] / "data" / "hostile"
OUTSIDE, CLASSES = "lies outside the file's pages", "its class names cannot be read"
NO_CHECKPOINT = "not readable as a checkpoint"
#: File -> what it is refused with; None where it may be read.
CASES: dict[str, str | None] = {
    "beton.brackets-without-end.beton": CLASSES,
    "beton.classes-in-one-word.beton": CLASSES,
    "beton.class-that-is-a-number.beton": CLASSES,
    "beton.no-classes.beton": CLASSES,
    "beton.extra-before-the-pages.beton": "its extra data lie outside the file",
    "beton.names-2-to-the-62-bytes.beton": "its extra data lie outside the file",
    "beton.name-end-below-zero.beton": "its source names are out of order",
    "beton.name-end-behind-the-names.beton": "its source names are out of order",
    "beton.name-ends-in-disorder.beton": "its source names are out of order",
    "beton.name-ends-that-wrap-around.beton": "its source names are out of order",
    "beton.jpeg-larger-than-stored.beton": "a/1.jpg: of another size than stored",
    "beton.jpeg-of-255-components.beton": "cannot handle 255-bit layers",
    "beton.jpeg-of-60000x60000.beton": "sample 0 has more than 268,435,456 pixels",
    "beton.progressive-of-600-scans.beton": "a/1.jpg: Progressive JPEG image has more than 500",
    "beton.name-that-has-changed.beton": "its class or source names have changed",
    "beton.sample-that-has-changed.beton": "b/1.jpg: its bytes have changed",
    "beton.samples-2-to-the-40.beton": "expected 1,099,511,627,776 samples",
    "beton.samples-that-wrap-around.beton": "expected 768,614,336,404,564,651 samples",
    "beton.table-behind-the-end.beton": "cut short at 3,872 bytes",
    "beton-of-ffcv.half-an-entry.beton": "its allocation table ends in the middle",
    "beton-of-ffcv.label-2-to-the-62.beton": "labels from 0 to 4611686018427387904",
    "beton-of-ffcv.mode-2.beton": "sample 0 has a mode other than",
    "beton-of-ffcv.no-samples.beton": "holds no samples",
    "beton-of-ffcv.table-within-the-metadata.beton": "cut short at 3,872 bytes",
    "beton-of-ffcv.two-labels.beton": "2 fields of types [1, 1]",
    "beton-of-ffcv.page-size-zero.beton": "page size 0",
    "beton-of-ffcv.pointer-before-the-pages.beton": OUTSIDE,
    "beton-of-ffcv.pointer-behind-the-file.beton": OUTSIDE,
    "beton-of-ffcv.size-that-wraps-around.beton": OUTSIDE,
    "beton-of-ffcv.size-zero.beton": OUTSIDE,
    "beton-of-ffcv.raw-larger-than-its-bytes.beton": "sample 1 has a raw size that is not",
    "beton-of-ffcv.sample-without-an-entry.beton": "sample 0 is not in the allocation table",
    "beton-of-ffcv.three-fields.beton": "3 fields of types",
    "beton-of-ffcv.width-zero.beton": "sample 0 has no pixels",
    "beton-shard.begins-behind-its-end.beton": CLASSES,
    "beton-shard.more-samples-than-64-bits-count.beton": CLASSES,
    "beton-shard.seven-samples-missing.beton": "ends at image 8, expected 15",
    "checkpoint.old-file-with-a-text-of-2-gigabytes.pt": NO_CHECKPOINT,
    "checkpoint.program.pt": NO_CHECKPOINT,
    "checkpoint.record-that-is-compressed.pt": "data.pkl is compressed",
    "checkpoint.record-that-is-longer-than-the-file.pt": NO_CHECKPOINT,
    "checkpoint.records-that-overlap.pt": "archive/byteorder is damaged",
    "checkpoint.settings-of-a-billion-lists.pt": "more text than any run's",
    "checkpoint.state-of-a-billion-lists.pt": "more text than any run's",
    "checkpoint.state-of-a-huge-number.pt": "a number of many digits",
    "checkpoint.storage-behind-its-record.pt": NO_CHECKPOINT,
    "checkpoint.tar-with-a-header-full-of-digits.pt": NO_CHECKPOINT,
    "checkpoint.version-of-a-billion-lists.pt": "more text than any run's",
    "checkpoint.weights-without-names.pt": "a name that is a int in 'model'",
    "checkpoint.accuracy-that-is-no-number.safetensors": "holds a wrong 'accuracy': nan",
    "checkpoint.bit-of-a-weight-that-has-changed.safetensors": "it is damaged or cut short",
    "checkpoint.brackets-without-end.safetensors": "recursion depth exceeded",
    "checkpoint.many-wrong-classes.safetensors": "holds a wrong 'classes.0': 3",
    "checkpoint.no-checksum.safetensors": "its beginning is damaged",
    "config-json.brackets-without-end.json": "does not parse (maximum recursion depth",
    "config-json.path-that-is-no-text.json": r"data: 'a\ud800b', expected a path",
    "config.brackets-without-end.toml": "does not parse",
    "config.epochs-of-5000-hexadecimal-digits.toml": "epochs: a number of many digits",
    "config.path-with-a-nul.toml": r"data: 'a\x00b', expected a path",
    "config.rate-of-400-digits.toml": "lr: a number of many digits",
    "config.table-in-2000-tables.toml": (
        "lr: a table, expected a number"
        if sys.version_info >= (3, 11)
        else "does not parse"  # tomli
    ),
    "config.table-in-5000-tables.toml": "a line of 10,008 letters",
    "fetched-packed-tar.a-terabyte-of-zeros.tar.bz2": "unpacks to more than 1,073,741,824",
    "fetched-packed-tar.dictionary-of-a-gigabyte.tar.xz": "Memory usage limit exceeded",
    "fetched-tar.header-8-gigabytes-long.tar": "a header of 8,589,934,592 bytes",
    "fetched-tar.header-full-of-digits.tar": "a header full of digits",
    "fetched-tar.link-that-leads-out.tar": "set/x.jpg: a link",
    "fetched-tar.name-that-leads-out.tar": "../x.jpg: leads out of the folder",
    "fetched-tar.size-2-to-the-40.tar": "damaged archive",
    "fetched-tar.size-below-zero.tar": "x.tar: ",  # in words of Python's own, which change
    "fetched-zip.name-of-1500-bytes.zip": "set/train/a/1.jpg: damaged (File name in directory",
    "image.frame-header-cut-short.bin": "a/1.jpg: ",
    "image.jpeg-of-60000x60000.bin": "60000 x 60000 px is more than 178,956,970 pixels",
    "image.png-of-60000x60000.bin": "a/1.jpg: 60000 x 60000 px is more than 178,956,970 pixels",
    "image.postscript.bin": "a/1.jpg: is a PostScript drawing, such as EPS (save it as",
    "image.segment-shorter-than-its-length.bin": None,
    "metrics.a-number.jsonl": "not a row of metrics",
    "metrics.brackets-without-end.jsonl": "not a row of metrics",
    "metrics.not-utf-8.jsonl": "not a row of metrics",
    "recordio-index.blank-lines.idx": "4,604 bytes for 3 records, expected a line for each",
    "recordio-index.position-2-to-the-63.idx": "line 1: ",
    "recordio.half-a-header.rec": "cut short by the file's end at 1,950, expected 8 bytes",
    "recordio.head-behind-the-end.rec": "0 bytes of data, expected at least 24",
    "recordio.label-16777216.rec": "label 16777216.0, expected a class number",
    "recordio.label-behind-the-data.rec": "24 bytes of data, expected at least 28",
    "recordio.length-2-to-the-29.rec": "expected 536,870,848 bytes more",
    "recordio.parts-without-an-end.rec": "cut short by the file's end at 2,436",
    "recordio.two-to-the-32-labels.rec": "flag 4294967295, so many labels",
    "journal.last-entry-that-has-changed.journal": None,
    "marker.brackets-without-end.json": None,
    "page.brackets-without-end.json": "not JSON",
    "page.workers-of-400-digits.json": "workers: ",
    "sidecar.brackets-without-end.json": "not left by fastft fetch",
    # Of an optimizer's settings, which no file of today holds and nobody reads any more.
    "states.a-tensor-for-parameters.bin": None,
    "states.group-without-dampening.bin": None,
    "states.rate-of-300-digits.bin": None,
    "synth-marker.twenty-million-photos.json": None,
    "weights.brackets-without-end.safetensors": NO_CHECKPOINT,
    "weights.bytearray-of-a-terabyte.pt": "it asks for memory of its own",
    "weights.dtype-of-6-bits.safetensors": NO_CHECKPOINT,
    "weights.header-of-4-exabytes.safetensors": NO_CHECKPOINT,
    "weights.lists-60000-deep.pt": "a list for 'a'",
    "weights.methods-that-are-numbers.pt": None,
    "weights.offsets-that-overlap.safetensors": NO_CHECKPOINT,
    "weights.shape-beyond-64-bits.safetensors": NO_CHECKPOINT,
    "weights.tensor-made-of-a-number.pt": NO_CHECKPOINT,
    "weights.tensor-of-4-terabytes.pt": "larger than what is stored of it",
    "store.no-magic.store": "is no store file",
    "zip.absolute-name.zip": "has a member named '/etc/x.jpg', expected plain relative names",
    "zip.directory-2-gigabytes-long.zip": "cannot be read as a zip",
    "zip.file-in-a-file.zip": "a/1.jpg/2.jpg: lies in a/1.jpg, which is a file",
    "zip.folders-200-deep.zip": "expected plain relative names",
    "zip.member-behind-the-end.zip": "a/1.jpg: lies outside the zip",
    "zip.member-longer-than-the-zip.zip": "a/1.jpg: lies outside the zip",
    "zip.name-that-leads-out.zip": "has a member named 'a/../../x.jpg'",
    "zip.name-twice.zip": "a/1.jpg: is there twice",
    "zip.name-with-a-backslash.zip": "expected plain relative names",
    "zip.offset-beyond-63-bits.zip": "x.zip: ",  # the same
}


def test_each_kept_file_has_its_reason() -> None:
    assert sorted(CASES) == sorted(path.name for path in KEPT.iterdir())
    assert {name.partition(".")[0] for name in CASES} == {*TARGETS}


#: Lists by the billion take seconds to refuse, wherever they are; one stands for the others, and is
#: refused a little sooner than it is elsewhere.
SHORTER = "checkpoint.version-of-a-billion-lists.pt"
LONG = (
    "checkpoint.settings-of-a-billion-lists.pt",
    "checkpoint.state-of-a-billion-lists.pt",
)


@pytest.mark.parametrize("name", [*(each for each in CASES if each not in LONG), *rest(*LONG)])
def test_hostile_files_are_refused_with_a_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == SHORTER and not SOAK_H:
        monkeypatch.setattr(torch_file, "MOST_LETTERS", torch_file.MOST_LETTERS // 64)
    (tmp_path / "box" / "in").mkdir(parents=True)
    target, said = TARGETS[name.partition(".")[0]], CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what it is about to refuse
        error = attempt(target, (KEPT / name).read_bytes(), tmp_path / "box" / "in")
    if said is None:
        assert error is None
    else:
        assert error is not None
        assert said in str(error)
        assert len(str(error)) < 1000  # whatever the file's own words are
