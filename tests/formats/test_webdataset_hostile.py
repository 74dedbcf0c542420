import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tars import NO_NAMES, PAIRS, Files, failure, read_all, write_tar

from pipelines.errors import DataError, FastftError, UsageError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.packed.webdataset import open_tars
from pipelines.images.limits import MAX_FILE_BYTES


@contextmanager
def member(path: Path) -> Iterator[Callable[..., None]]:
    """Lets members of any kind be added to a tar."""
    with tarfile.open(path, "w") as target:

        def add(name: str, content: bytes = b"", **said: object) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in said.items():
                setattr(info, key, value)
            target.addfile(info, io.BytesIO(content))

        yield add


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "holds no samples|cannot be read as a tar|no member that holds a label"),
        ([("../a.jpg", b""), *PAIRS], "has a member named '../a.jpg', expected plain relative"),
        ([("/etc/a.jpg", b""), *PAIRS], "has a member named '/etc/a.jpg'"),
        ([("a\\b.jpg", b""), *PAIRS], "has a member named"),
        ([("x/" * 200 + "b.jpg", b""), *PAIRS], "expected plain relative names"),
        ([*PAIRS, ("a.png", b"")], "a: comes again behind other samples, expected each key once"),
        ([*PAIRS, ("b.jpg", b"")], "b: has two .jpg, expected each part once"),
        ([*PAIRS, ("b.JPG", b"")], "b: has two .jpg"),
        ([*PAIRS, ("c.jpg", b"")], "c: has no label, expected a .cls, .txt or .json"),
        ([*PAIRS, ("b.png", b"")], "b: has the images .jpg and .png.*--image-column jpg"),
        ([("a.jpg", b""), ("a.cls", b"")], "a.jpg: no 'label', expected one for each image"),
        ([("a.jpg", b""), ("a.cls", b"\xff")], "a.cls: is no UTF-8, expected a number or a name"),
        ([("a.jpg", b""), ("a.cls", b"-1")], "'label' is '-1', expected a class number"),
        ([("a.jpg", b""), ("a.cls", b"0.5")], "'label' is '0.5'"),
        ([("a.jpg", b""), ("a.cls", b"9" * 5000)], "a.cls: a text of 5,000 letters, as captions"),
        ([("a.jpg", b""), ("a.txt", b"a cat\nand a dog")], "a text of 15 letters, as captions are"),
        ([("a.jpg", b""), ("a.cls", bytes(1 << 19))], "524,288 bytes long, expected a label of at"),
        ([*PAIRS, ("c.jpg", b""), ("c.cls", b"3")], "label 2 has no rows, expected each of 0 to 3"),
        ([("a.jpg", b""), ("a.json", b"{")], "a.json: is no JSON"),
        ([("a.jpg", b""), ("a.json", b"[" * 99999)], "a.json: is no JSON"),
        ([("a.jpg", b""), ("a.json", b"9" * 9999)], "a.json: is no JSON|holds no label"),
        ([("a.jpg", b""), ("a.json", b"{}")], "a: has no label"),
        ([("a.jpg", b""), ("a.json", b'{"label": {}}')], "'label' holds an object, expected text"),
        ([("a.jpg", b""), ("a.json", b'{"label": [[1]]}')], "'label' holds no label"),
        ([("a.jpg", b""), ("a.json", b'{"label": "\\ud800"}')], "expected Unicode text"),
        ([("a.jpg", b""), ("b.jpg", b"")], "no member that holds a label, expected .cls, .class"),
        ([("x/a.txt", b"")], "holds no images|no member that holds a label"),
        ([("train/a/1.jpg", b""), ("train/a", b"")], "is there twice|lies in a file"),
    ],
)
def test_bad_members_are_refused(tmp_path: Path, files: Files, said: str) -> None:
    path = write_tar(tmp_path / "x.tar", files)
    with pytest.raises(FastftError, match=said) as caught, open_tars(path, NO_NAMES):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: b"", "cannot be read as a tar (empty file), expected a whole tar"),
        (lambda x: b"no tar" * 999, "cannot be read as a tar"),
        (
            lambda x: b"\x1f\x8b" + x,
            "is compressed by gzip, expected a tar that is not; run gunzip",
        ),
        (lambda x: x[:1600], "cut short, or a damaged header, at byte 1,536"),
        (lambda x: x[:1536], "cut short, or a damaged header, at byte 1,536"),
        (lambda x: x[:1000], "'a.jpg' reaches beyond its end at 1,000"),
        (lambda x: x[:1536] + b"?" + x[1537:], "a damaged header, at byte 1,536"),
        (lambda x: x + x, "goes on behind its end"),
        (lambda x: x + bytes(1 << 21), "goes on behind its end"),
        (lambda x: sized(x, 8**11 - 1), "reaches beyond its end"),
        (lambda x: sized(x, -512), "an impossible header at byte 0"),
        (lambda x: sized(x, -1024), "an impossible header at byte 0"),
        (lambda x: sized(x, 1 << 62), "reaches beyond its end"),
    ],
)
def test_damaged_tars_are_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    path = write_tar(tmp_path / "x.tar", PAIRS)
    path.write_bytes(change(path.read_bytes()))
    message = failure(path)
    assert message.startswith(f"{path}: ")
    assert said in message


def sized(content: bytes, size: int) -> bytes:
    """A tar whose first member is said to have another size, its checksum right."""
    head = bytearray(content[:512])
    head[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content[512:]


def pax(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    return tarfile.TarInfo._create_pax_generic_header(records, kind, "utf-8")


@pytest.mark.parametrize(
    ("front", "said"),
    [
        (pax({"size": str(1 << 60)}), "reaches beyond its end"),
        (pax({"size": "-512"}), "an impossible header"),
        (pax({"path": "../../x.jpg"}), "has a member named '../../x.jpg'"),
        (pax({"comment": "x" * (1 << 19)}), "a header of 524,8"),
        (pax({"comment": "x"}) * 3000, "a header|cannot be read as a tar"),
        (pax({"path": "9" * 300 + ".jpg"}), "a header full of digits"),
        (
            b"".join(pax({f"k{i}": "x"}, tarfile.XGLTYPE) for i in range(200)),
            "an impossible header",
        ),
    ],
)
def test_headers_that_bomb_are_refused(tmp_path: Path, front: bytes, said: str) -> None:
    path = write_tar(tmp_path / "x.tar", PAIRS)
    path.write_bytes(front + path.read_bytes())
    with pytest.raises(DataError, match=said):
        read_all(path)


@pytest.mark.parametrize("place", [0, 1024, -1024])
def test_sizes_below_zero_lose_no_member(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def block(self: object, count: int) -> int:
        if count < 0:
            raise tarfile.InvalidHeaderError("invalid offset")  # type: ignore[attr-defined]
        return -(-count // 512) * 512

    # As newer releases of tarfile have it.
    monkeypatch.setattr(tarfile.TarInfo, "_block", block)
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"A"), ("a.cls", b"1")])
    content = path.read_bytes().rstrip(b"\0")
    content = content.ljust(-(-len(content) // 512) * 512, b"\0")
    assert len(content) == 2048
    place %= 2048
    path.write_bytes(content[:place] + pax({"size": "-512"}) + content[place:] + bytes(1024))
    with pytest.raises(DataError, match="an impossible header"):
        read_all(path)


def test_links_and_devices_are_broken_images(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    kinds = {
        tarfile.SYMTYPE: "is a link, which is not followed in a tar",
        tarfile.LNKTYPE: "is a link, which is not followed in a tar",
        tarfile.FIFOTYPE: "is no plain file but a device, a pipe or the like",
        tarfile.CHRTYPE: "is no plain file but a device, a pipe or the like",
    }
    with member(path) as add:
        for kind in kinds:
            add(f"{kind.decode()}.jpg", type=kind, linkname="/etc/passwd")
            add(f"{kind.decode()}.cls", b"0")
    found = [data for _, data in read_all(path)[""].values()]
    assert found == list(kinds.values())
    with member(path) as add:
        add("a.jpg", b"image")
        add("a.cls", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    assert "a.cls: is a link, which is not followed in a tar" in failure(path)


def test_sparse_images_are_broken(tmp_path: Path) -> None:
    sparse = tmp_path / "a.jpg"
    with sparse.open("wb") as file:
        file.truncate(1 << 20)
    (tmp_path / "a.cls").write_text("0")
    path = tmp_path / "x.tar"
    info = pax(
        {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "a.jpg",
            "GNU.sparse.realsize": "1048576",
        }
    )
    write_tar(path, [("p/a.jpg", b"1\n0\n1\n".ljust(512, b"\0") + b"x"), ("a.cls", b"0")])
    path.write_bytes(info + path.read_bytes())
    assert [data for _, data in read_all(path)[""].values()] == ["is stored with holes (sparse)"]


def test_an_image_beyond_all_limits_is_broken(tmp_path: Path) -> None:
    path, size = tmp_path / "x.tar", MAX_FILE_BYTES + 1
    with path.open("wb") as file:
        info = tarfile.TarInfo("a.jpg")
        info.size = size
        file.write(info.tobuf())
        file.seek((size + 511) // 512 * 512, os.SEEK_CUR)  # a hole: no disk is filled
        write_tar(tmp_path / "y.tar", [("a.cls", b"0")])
        file.write((tmp_path / "y.tar").read_bytes())
    with open_tars(path, NO_NAMES) as listings, pytest.raises(DataError, match="bytes, more than"):
        listings[""].read(0)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train-0.tar", "x.tar"], "x.tar: is no split by its name"),
        (["test-0.tar", "val-0.tar"], "has val, test but no train.tar"),
        (["test/0.tar"], "has test but no train folder"),
        (["train/0.tar", "Training/0.tar"], "expected one folder for train"),
        (["x-0.tar", "cats/1.jpg"], "holds x-0.tar and the folder cats, expected .tar files alone"),
        (["x.tar", "y.tar.gz"], "y.tar.gz: is compressed, expected a plain .tar"),
        (["train/x.tgz"], "x.tgz: is compressed"),
        (["x.txt"], "holds no .tar files"),
    ],
)
def test_unclear_folders_are_refused(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        write_tar(tmp_path / name, PAIRS)
    assert said in failure(tmp_path)


def test_splits_have_the_classes_of_train(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", PAIRS)
    write_tar(tmp_path / "val.tar", PAIRS[:2])
    with open_tars(tmp_path, NO_NAMES) as listings:
        assert listings["val"].classes == listings["train"].classes
    write_tar(tmp_path / "val.tar", [*PAIRS, ("c.png", b""), ("c.cls", b"2")])
    assert "split val: has the additional class 2" in failure(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    assert "x.tar: is no plain file, expected a .tar" in failure(tmp_path / "x.tar")
    assert "no such file or directory, expected a .tar" in failure(tmp_path / "none.tar")


def test_a_split_column_is_for_tables(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", PAIRS)
    with pytest.raises(UsageError, match=r"--split-column: 'fold', expected a table"):
        read_all(path, ColumnNames(split="fold"))
    assert read_all(path, ColumnNames(split="-"))


def _seed() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in [
            *PAIRS,
            ("ö" * 70 + ".jpg", b"C"),
            ("ö" * 70 + ".json", b'{"label":1}'),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


SEED = _seed()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.binary(max_size=12)), max_size=4),
    end=st.integers(0, len(SEED)) | st.just(len(SEED)),
    mended=st.booleans(),
)
@example(edits=[], end=len(SEED), mended=False)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, bytes]],
    end: int,
    mended: bool,
) -> None:
    content = bytearray(SEED)
    for at, piece in edits:
        content[at : at + len(piece)] = piece
    if mended:  # or all else would be hidden behind checksums
        for at in range(0, len(content) - 511, 512):
            if content[at + 257 : at + 262] == b"ustar":
                content[at + 148 : at + 156] = b" " * 8
                content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    path.write_bytes(content[:end])
    said = ""
    try:
        found = read_all(path)
    except FastftError as error:
        said = str(error)
    assert said.count("\n") == 0
    assert said or found
