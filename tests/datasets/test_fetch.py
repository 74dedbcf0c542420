from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sites import SHA1, SHA256, Site, names, serve
from typer.testing import CliRunner

from fastft.cli import fetch as cli_fetch
from fastft.datasets.fetch import KNOWN, FetchConfig, KnownSet, fetch
from fastft.datasets.unpack import MARKER
from pipelines.errors import DataError, UsageError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serve() as site:
        yield site


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "hotdogs"}, "hotdogs: no known data set, expected hotdog or http"),
        ({"source": "file:///etc/passwd"}, "begins with file, expected http:// or https://"),
        ({"source": "ftp://host/x.zip"}, "begins with ftp"),
        ({"source": "data:text/plain,x"}, "begins with data"),
        ({"source": "host:80/x.zip"}, "begins with host"),
        ({"source": "http:///x.zip"}, "no name of a server"),
        ({"source": "http://a b/x.zip"}, "no name of a server"),
        ({"source": "http://[x/x.zip"}, "not an address"),
        ({"source": "http://host:port/x.zip"}, "not an address"),
        ({"source": "http://a..b/x.zip"}, "not an address"),
        ({"source": "http://me:secret@host/x.zip"}, "^http://host/x.zip: an address with a login"),
        ({"source": "http://host/"}, "ends without a file's name, expected an address such as"),
        ({"source": "http://host/%2e%2e"}, "ends without a file's name"),
        ({"source": "http://host/x", "sha1": "00"}, "--sha1: '00', expected 40 hex digits"),
        ({"source": "http://host/x", "sha1": "g" * 40}, "expected 40 hex digits"),
        ({"source": "http://host/x", "sha256": SHA1}, "expected 64 hex digits"),
        ({"source": "http://host/x", "sha1": SHA1, "sha256": SHA256}, "given with --sha256"),
        ({"source": "hotdog", "sha1": SHA1}, "--sha1: given with hotdog"),
        ({"source": "hotdog", "out": Path(__file__)}, "is a file, expected a folder"),
        ({"source": "hotdog", "retries": -1}, "below zero"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FetchConfig(**options)


# --- the command -------------------------------------------------------------------------------


def zip_of(*members: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in members:
            archive.writestr(name, b"photo")
    return made.getvalue()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in an empty folder; gives its output."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(cli_fetch.fetch)

    def call(*arguments: str) -> str:
        return CliRunner().invoke(app, arguments, catch_exceptions=False).output

    return call


def test_a_known_set(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    site.body = zip_of(
        *(
            f"hotdog/{split}/{name}/{i}.png"
            for split, count in (("train", 3), ("test", 2))
            for name in ("hotdog", "not-hotdog")
            for i in range(count)
        )
    )
    mini = KnownSet(f"{site.base}/hotdog.zip", hashlib.sha1(site.body).hexdigest(), "hotdog")
    assert re.fullmatch("[0-9a-f]{40}", KNOWN["hotdog"].sha1)
    monkeypatch.setitem(KNOWN, "hotdog", mini)
    lines = run("hotdog").splitlines()
    assert lines[0].startswith("hotdog: 10 files, 0.0 MB received, its hash is right")
    assert lines[1:] == [
        "train: 3 hotdog, 3 not-hotdog",
        "test: 2 hotdog, 2 not-hotdog",
        "Next: fastft convert hotdog data",
        "      fastft train --data data --out run",
    ]
    assert names(tmp_path) == ["hotdog"]
    assert json.loads((tmp_path / "hotdog" / MARKER).read_text())["files"] == 10
    assert "10 files, there already" in run("hotdog")
    assert len(site.asked) == 1
    assert "my data/hotdog.zip: the archive, kept" in run("hotdog", "my data", "--keep")
    assert "fastft convert 'my data/hotdog' data" in run("hotdog", "my data")
    (tmp_path / "hotdog/test/hotdog/0.png").unlink()
    with pytest.raises(DataError, match="9 files, expected the 10 that were unpacked; remove it"):
        run("hotdog")
    (tmp_path / "hotdog" / MARKER).unlink()
    with pytest.raises(DataError, match="hotdog: there already, not from this file"):
        run("hotdog")
    assert len(site.asked) == 2


def test_an_archive_without_a_hash(site: Site, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "unpacking":
            raise KeyboardInterrupt

    config = FetchConfig(source=f"{site.base}/set.zip", out=tmp_path)
    site.body = zip_of("set/1.png", "../evil")
    with pytest.raises(DataError, match=r"set\.zip: \.\./evil: leads out of the folder"):
        fetch(config)
    assert names(tmp_path) == []
    site.body = zip_of("set/1.png", "set/2.png")
    with pytest.raises(KeyboardInterrupt):
        fetch(config, interrupt)
    assert names(tmp_path) == ["set.zip.part", "set.zip.part.json"]
    result = fetch(config)
    assert (result.files, result.received_bytes, names(tmp_path)) == (2, 0, ["set"])
    assert fetch(config).was_there
    assert site.asked == [None, None, f"bytes={len(site.body)}-"]


def test_a_file_without_a_hash(site: Site, run: Any) -> None:
    text = run(f"{site.base}/x.bin?key=secret", "data")
    assert f"--sha256 {SHA256}" in text
    assert "secret" not in text
    with pytest.raises(DataError, match="no hash to know it by; give its hash or remove it"):
        run(f"{site.base}/x.bin", "data")
    with pytest.raises(DataError, match=f"x.bin: SHA-1 {SHA1}, expected {'0' * 40}; remove it"):
        run(f"{site.base}/x.bin", "data", "--sha1", "0" * 40)
    assert "a file, there already" in run(f"{site.base}/x.bin", "data", "--sha1", SHA1)
    assert len(site.asked) == 1
