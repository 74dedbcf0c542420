import os
from pathlib import Path

import pytest

from pipelines.atomic import AtomicFile


def test_published_replaces_and_takes_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    old = os.umask(0o027)
    try:
        with AtomicFile(path) as file:
            os.write(file.descriptor, b"one")
            (temporary,) = path.parent.iterdir()
            assert temporary.stat().st_mode & 0o777 == 0o600
            file.publish()
    finally:
        os.umask(old)
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["a"]


def test_left_unpublished_leaves_what_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), AtomicFile(tmp_path / "a") as file:  # noqa: PT012
        os.write(file.descriptor, b"new")
        raise KeyError
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
