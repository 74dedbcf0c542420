"""Names of exported files: safe, unique, and below their class."""

import os
import unicodedata
from pathlib import Path

from effort import choose
from hypothesis import given, settings
from hypothesis import strategies as st

from fastft.datasets.export_names import JPEG, PNG, FileNames, name_folders


def test_classes_become_different_folders(tmp_path: Path) -> None:
    classes = (
        "..",
        ".",
        "/",
        "a/b",
        "a_b",
        "A_B",
        "\0",
        "x" * 400,
        "x" * 401,
        "__MACOSX",
        ".git",
        " ",
        "\ud800",
    )
    folders = name_folders(classes)
    assert len({folder.casefold() for folder in folders}) == len(classes)
    for folder in folders:
        assert not folder.startswith((".", "__MACOSX"))
        assert "/" not in folder
        (tmp_path / folder).mkdir()
    assert name_folders(("ants", "bees")) == ("ants", "bees")


@settings(max_examples=choose(40, 200), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "A", "b"]),
            st.text(st.sampled_from("aAbé./\\\0 _2\n\u0301") | st.characters(), max_size=12)
            | st.text("a", min_size=190, max_size=400),
            st.sampled_from([JPEG, PNG]),
        ),
        max_size=30,
    )
)
def test_any_names_become_safe_and_unique(names: list[tuple[str, str, tuple[str, ...]]]) -> None:
    maker, files, folders = FileNames(), set[str](), set[str]()
    for folder, name, suffixes in names:
        path = maker.make(folder, name, suffixes)
        parts = path.split("/")
        assert parts[0] == folder
        assert path.lower().endswith(suffixes)
        assert all(part and not part.startswith(".") for part in parts)
        assert max(len(os.fsencode(part)) for part in parts) <= 255
        assert not set("\0\n\\") & set(path)
        folded = unicodedata.normalize("NFD", path).casefold()
        assert folded not in files
        files.add(folded)
        folders |= {folded.rsplit("/", count)[0] for count in range(1, len(parts))}
    assert not files & folders
