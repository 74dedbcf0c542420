import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from records import JPEG, MAGIC, MAGIC_BYTES, frame, pack, part, write_photos, write_rec
from runs import Command

from pipelines.conversion.inputs import open_listings
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.recordio import open_records
from pipelines.formats.source import open_source

PNG = b"\x89PNG\r\n a drawing"


def read_all(path: Path, classes: tuple[str, ...] = ()) -> dict[str, tuple[int, bytes]]:
    """Every sample of a file by name: label and bytes."""
    with open_records(path, classes) as records:
        assert [records.size_bytes(i) for i in range(len(records))] == [
            len(records.read(i)) for i in range(len(records))
        ]
        return {
            name: (int(records.labels[i]), records.read(i)) for i, name in enumerate(records.names)
        }


def failure(path: Path, classes: tuple[str, ...] = ()) -> str:
    """What a file is refused with: one line."""
    with pytest.raises(DataError) as caught, open_records(path, classes):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Three records, of 36, 45 and 36 bytes of data: labels 1, 0, 1."""
    path = tmp_path / "x.rec"
    write_rec(path, [pack(JPEG, 1, 7), pack(PNG + b"12345", 0, 11), pack(JPEG[::-1], 1, 5)])
    return path


def test_order_and_names_are_the_files(rec: Path) -> None:
    found = read_all(rec, ("cold", "hot"))
    assert list(found) == ["hot/07.jpg", "cold/11.png", "hot/05"]
    assert list(found.values()) == [(1, JPEG), (0, PNG + b"12345"), (1, JPEG[::-1])]
    assert list(read_all(rec)) == ["1/07.jpg", "0/11.png", "1/05"]


@pytest.mark.parametrize("key", [3, MAGIC, MAGIC << 32 | MAGIC], ids=hex)
@pytest.mark.parametrize("labels", [(), (1,)], ids=str)
@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"odd",
        MAGIC_BYTES,
        MAGIC_BYTES * 3,
        b"1234" + MAGIC_BYTES + b"12345678" + MAGIC_BYTES + b"1",
        b"12" + MAGIC_BYTES + b"34",
        bytes(9000) + MAGIC_BYTES + bytes(5001),
    ],
    ids=lambda image: f"{len(image)} bytes",
)
def test_parts_are_joined(tmp_path: Path, image: bytes, labels: tuple[int, ...], key: int) -> None:
    path = tmp_path / "x.rec"
    data = pack(image, 0, key, labels)
    apart = any(data[i : i + 4] == MAGIC_BYTES for i in range(0, len(data), 4))
    assert (frame(data) == part(data)) is not apart
    label = len(labels)
    write_rec(path, [pack(b"first", 0, 1), data, pack(b"last", 1, 2)])
    found = read_all(path, ("zero", "one"))
    assert list(found.values()) == [(0, b"first"), (label, image), (1, b"last")]
    assert f"{key}" in list(found)[1]


def test_small_and_large_records_are_all_found(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    images = [random.bytes(int(n)) for n in random.choice([0, 1, 30, 4000, 4096, 9999], 400)]
    path = tmp_path / "x.rec"
    write_rec(path, [pack(image, i % 3, i) for i, image in enumerate(images)])
    found = read_all(path)
    assert [image for _, image in found.values()] == images
    assert [label for label, _ in found.values()] == [i % 3 for i in range(400)]


def test_an_index_decides_on_order_and_keys(rec: Path) -> None:
    starts = [0, 44, 100]
    rec.with_suffix(".idx").write_bytes(b"100\t%d\r\n3\t%d\n\n" % (starts[1], starts[0]))
    assert list(read_all(rec).items()) == [
        ("0/100.png", (0, PNG + b"12345")),
        ("1/003.jpg", (1, JPEG)),
    ]
    with open_records(rec) as records:
        assert records.ignored == {"records that x.idx leaves out": 1}


def test_a_single_label_behind_the_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    write_rec(path, [pack(JPEG, 9, 0, [1]), pack(PNG, 0, 1), pack(PNG, 9, 2, [0])])
    found = read_all(path)
    assert found == {"1/0.jpg": (1, JPEG), "0/1.png": (0, PNG), "0/2.png": (0, PNG)}


def test_names_are_unique_where_ids_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    write_rec(path, [pack(JPEG, 0, 5) for _ in range(11)])
    assert list(read_all(path)) == [f"0/{i:02d}.jpg" for i in range(11)]


START = 44  # where the second record starts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda x: b"", "holds no records"),
        (lambda x: b"\xff\xd8" + x, "record 0 at byte 0: 0x230ad8ff at byte 0, expected Rec"),
        (lambda x: x[:START] + b"z" + x[START + 1 :], "record 1 at byte 44: 0xced7237a at byte 44"),
        (lambda x: x + b"\0\0\0", "record 3 at byte 144: cut short by the file's end at 147"),
        (lambda x: x[:-1], "record 2 at byte 100: cut short by the file's end at 143, expected 1"),
        (lambda x: x[: START + 5], "record 1 at byte 44: cut short by the file's end at 49"),
        (lambda x: x + part(b"4444", 3), "record 3 at byte 144: part flag 3 at byte 144"),
        (lambda x: x + part(b"4444", 2), "expected 0 (whole) or 1 (first)"),
        (lambda x: x + part(b"4444", 5), "part flag 5"),
        (lambda x: x + part(b"4444", 1), "record 3 at byte 144: cut short"),
        (lambda x: x + part(b"4444", 1) + x, "part flag 0 at byte 156, expected 2 (middle) or 3"),
        (lambda x: x + part(b"4", 1) + part(b"4", 1), "part flag 1 at byte 156"),
        (lambda x: x + part(bytes(23)), "record 3 at byte 144: 23 bytes of data, expected at"),
        (lambda x: x + frame(pack(b"", labels=[1]))[:-4].replace(b"\x1c", b"\x18"), "at least 28"),
        (lambda x: x + part(bytes(4), 1) + part(bytes(12), 3), "20 bytes of data, expected at"),
        (lambda x: x + frame(pack(JPEG, labels=[0, 1])), "flag 2, so many labels, expected one"),
        (lambda x: x + frame(b"\xff" * 40), "flag 4294967295, so many labels"),
        (lambda x: x + frame(pack(JPEG, 0.5)), "record 3 at byte 144: label 0.5, expected a class"),
        (lambda x: x + frame(pack(JPEG, -1)), "label -1"),
        (lambda x: x + frame(pack(JPEG, float("nan"))), "label nan"),
        (lambda x: x + frame(b"\0\0\0\0\1\0\x80\x7f" + bytes(20)), "label nan"),  # a signalling one
        (lambda x: x + frame(pack(JPEG, float("inf"))), "label inf"),
        (lambda x: x + frame(pack(JPEG, 1e30)), "label 1.0000000150474662e+30"),
        (lambda x: x + frame(pack(JPEG, 2)), "record 3 at byte 144: label 2, expected 0 to 1, for"),
        (lambda x: x[:START], "class cold (label 0) has no records"),
        (lambda x: x[START:100], "class hot (label 1) has no records"),
    ],
)
def test_what_is_wrong_is_said(rec: Path, content: Callable[[bytes], bytes], said: str) -> None:
    rec.write_bytes(content(rec.read_bytes()))
    message = failure(rec, ("cold", "hot"))
    assert message.startswith(f"{rec}: ")
    assert said in message


def test_unused_labels_are_named_without_classes(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    write_rec(path, [pack(JPEG, label) for label in (0, 1, 16_000_000)])
    assert "label 2 has no records, expected each of 16000001" in failure(path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("", "x.idx: lists no records"),
        ("0\t0\n1\t43\n", "x.idx: line 2: position 43, expected where one of the 3 records of"),
        ("0\t144\n", "line 1: position 144"),
        ("0\t999999999999999999\n", "line 1: position 999999999999999999"),
        ("0\t9999999999999999999\n", "line 1: '0\\t9999999999999999999', expected key, tab"),
        ("0\t0\n\n0\t44\n", "line 3: key 0 again, expected each key once"),
        ("5\t0\n4\t44\n3\t0\n", "line 3: position 0 again"),
        ("cat\t0\n", "line 1: 'cat\\t0', expected key, tab, position"),
        ("0\t-4\n", "line 1: '0\\t-4'"),
        ("0 \n", "line 1: '0 '"),
        ("0\t0\t0\n", "line 1: '0\\t0\\t0'"),
        ("\xff\t0\n", "line 1: "),
    ],
)
def test_an_index_that_disagrees_is_refused(rec: Path, index: str, said: str) -> None:
    rec.with_suffix(".idx").write_bytes(index.encode("latin-1"))
    message = failure(rec)
    assert said in message
    assert "remove it to take the order of x.rec" in message


def test_nobody_waits_for_a_piped_index(rec: Path) -> None:
    os.mkfifo(rec.with_suffix(".idx"))
    assert (
        failure(rec)
        == f"{rec.with_suffix('.idx')}: is no plain file, expected text, a line for each record"
    )


def test_an_index_gives_only_its_own_labels(rec: Path) -> None:
    rec.write_bytes(rec.read_bytes() + frame(pack(JPEG, labels=[1, 2])))
    assert "so many labels" in failure(rec)
    rec.with_suffix(".idx").write_text("0\t0\n1\t44\n")
    assert list(read_all(rec)) == ["1/0.jpg", "0/1.png"]


def test_every_cut_is_noticed(rec: Path) -> None:
    content = rec.read_bytes() + frame(pack(MAGIC_BYTES + b"1234" + MAGIC_BYTES, 0, 9))
    whole = (44, 100, 144)
    for cut in range(1, len(content)):
        rec.write_bytes(content[:cut])
        if cut in whole:
            continue
        assert "cut short" in failure(rec), cut


def test_flipped_bits_are_read_or_refused(rec: Path) -> None:
    content = rec.read_bytes() + frame(pack(MAGIC_BYTES + b"1234" + MAGIC_BYTES, 0, 9))
    refused = 0
    for bit in range(0, 8 * len(content), 3):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        rec.write_bytes(changed)
        try:
            read_all(rec)
        except FastftError:
            refused += 1
    assert refused > 200  # the others change a label, an id or an image


@pytest.mark.parametrize("parted", [False, True])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, parted: bool) -> None:
    path = tmp_path / "x.rec"
    write_rec(path, [pack(JPEG), pack(MAGIC_BYTES * parted + JPEG)])
    with open_records(path) as records:
        records.read(1)
        os.truncate(path, path.stat().st_size - 9)
        with pytest.raises(DataError, match=r"0/1\S*: the file has changed"):
            records.read(1)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert "no such file" in failure(tmp_path / "none.rec")


def test_a_rec_converts_as_the_folder_does(odd: Path, odd_beton: Path, tmp_path: Path) -> None:
    rec = tmp_path / "odd.rec"
    write_photos(odd, rec)
    outputs = set()
    for workers in (1, 3):
        out = tmp_path / f"{workers}.beton"
        convert(ConvertConfig(src=rec, out=out, classes=("jpegs", "others"), workers=workers))
        outputs.add(out.read_bytes())
    assert len(outputs) == 1
    ours, folders = read_index(out), read_index(odd_beton)
    assert ours.classes == folders.classes
    assert ours.labels.tolist() == folders.labels.tolist()
    for sample in range(len(folders)):
        assert bytes(ours.stored(sample).data) == bytes(folders.stored(sample).data)
    assert ours.name(0) == "jpegs/00.jpg"


def test_splits_of_records_share_the_classes(photos: Path, tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    write_photos(photos / "train", src / "shapes_train.rec")
    write_photos(photos / "test", src / "shapes-test.rec")
    (src / "readme.txt").touch()
    reports = convert(ConvertConfig(src=src, out=out, classes=("a", "b", "c")))
    assert [(report.out.name, report.images) for report in reports] == [
        ("train.beton", 33),
        ("test.beton", 6),
    ]
    assert {report.classes for report in reports} == {("a", "b", "c")}
    with open_listings(src) as listings:
        assert listings["test"].classes == ("0", "1", "2")
    write_rec(src / "shapes-test.rec", [pack(JPEG, label) for label in (0, 2)])
    (src / "shapes-test.idx").unlink()
    with pytest.raises(DataError, match=r"shapes-test.rec: class 1 \(label 1\) has no records"):
        convert(ConvertConfig(src=src, out=out))
    write_rec(src / "shapes-test.rec", [pack(JPEG, label) for label in (0, 1, 2, 3)])
    with pytest.raises(DataError, match=r"label 3, expected 0 to 2, for 3 classes"):
        convert(ConvertConfig(src=src, out=out))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train.rec", "x_train.rec"], "holds train.rec and x_train.rec, expected one file for"),
        (["test.rec"], "has test but no train.rec"),
        (["train.rec", "retest.rec"], "retest.rec: is no split by its name"),
        (["x.rec"], "x.rec: is no split by its name"),
        (["train.rec", "cats/1.jpg"], "holds train.rec and the folder cats"),
    ],
)
def test_a_folder_of_unclear_records_is_refused(
    tmp_path: Path, names: list[str], said: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rec(tmp_path / name, [pack(JPEG)])
    with pytest.raises(DataError) as caught, open_listings(tmp_path):
        pass
    assert said in str(caught.value)


def test_a_broken_record_is_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    rec, out = tmp_path / "x.rec", tmp_path / "out.beton"
    files = write_photos(photos / "test", rec)
    content = rec.read_bytes()
    rec.write_bytes(content.replace(files[3].read_bytes()[-200:], bytes(200)))
    (report,) = convert(ConvertConfig(src=rec, out=out, max_bad="1"))
    assert [bad.name for bad in report.quarantined] == ["1/3.jpg"]
    assert json.loads(out.with_suffix(".quarantine.json").read_text())[0]["name"] == "1/3.jpg"
    assert len(read_index(out)) == 5
    with pytest.raises(DataError, match=f"{rec}: 1/3.jpg: .*expected at most 0 broken"):
        convert(ConvertConfig(src=rec, out=out, max_bad="0"))
    write_rec(rec, [pack(files[0].read_bytes(), 0, 1), pack(b"", 1, 2)])
    rec.with_suffix(".idx").unlink()
    with pytest.raises(DataError, match=r"every image is broken, the first \(1/2\): the file is e"):
        convert(ConvertConfig(src=rec, out=out, max_bad="1"))


def test_only_records_take_classes(photos: Path, tmp_path: Path) -> None:
    zipped = shutil.make_archive(str(tmp_path / "x"), "zip", photos)
    for src in (photos, photos / "train", Path(zipped)):
        with pytest.raises(UsageError, match="--classes: given for"):
            convert(ConvertConfig(src=src, out=tmp_path / "out", classes=("a", "b", "c")))


@pytest.mark.parametrize("classes", [("a", "a"), ("a", ""), (" ",), ("a/b",), ("a\0",)])
def test_class_names_are_checked(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--classes"):
        ConvertConfig(src=Path("x.rec"), out=Path("x.beton"), classes=classes)


def test_the_command_names_classes(photos: Path, tmp_path: Path, fastft: Command) -> None:
    rec = tmp_path / "x_test.rec"
    write_photos(photos / "test", rec)
    assert fastft("convert", rec, tmp_path, "--classes", "a, b,c")[0] == 0
    assert read_index(tmp_path / "x_test.beton").classes == ("a", "b", "c")
    status, out, _ = fastft("convert", rec, tmp_path)
    assert read_index(tmp_path / "x_test.beton").classes == ("0", "1", "2")
    assert (status, "x_test.beton" in out) == (0, True)


@pytest.mark.parametrize("name", ["x.rec", "x.zip"])
def test_what_trains_says_how_to_convert(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"first run fastft convert .*{name}"):
        open_source(tmp_path / name)
