from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sites import BODY, SHA1, SHA256, Site, get, names, serve

from fastft.datasets.download import check_url, file_name
from fastft.datasets.fetch import FetchConfig, fetch
from fastft.datasets.part import Part
from pipelines.errors import DataError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serve() as site:
        yield site


def start(site: Site, out: Path, size: int = 40_000) -> None:
    """Leave a part of that size behind."""
    site.cuts = [size]
    with pytest.raises(DataError):
        get(site, out, retries=0)
    assert names(out) == ["x.bin.part", "x.bin.part.json"]
    assert (out / "x.bin.part").stat().st_size == size
    site.asked.clear()
    site.sent.clear()


# --- what comes --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{}, {"sha1": SHA1.upper()}, {"sha256": SHA256}])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_comes_whole(
    site: Site, tmp_path: Path, option: dict[str, str], says_length: bool
) -> None:
    site.says_length = says_length
    result = get(site, tmp_path / "new" / "folder", **option)
    assert result.path == tmp_path / "new" / "folder" / "x.bin"
    assert result.path.read_bytes() == BODY
    assert (result.digests.sha1, result.digests.sha256) == (SHA1, SHA256)
    assert (result.files, result.received_bytes, result.was_there) == (1, len(BODY), False)
    assert names(result.path.parent) == ["x.bin"]


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_lost_connection_is_taken_up(site: Site, tmp_path: Path, ending: str) -> None:
    site.cuts, site.ending = [30_000], ending
    result = get(site, tmp_path, sha256=SHA256)
    assert result.path.read_bytes() == BODY
    if ending != "reset":  # which may overtake what was sent
        assert site.asked == [None, "bytes=30000-"]
        assert site.sent == [30_000, len(BODY) - 30_000]


def test_silence_is_a_lost_connection(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, connect, timeouts = HTTPResponse.read1, socket.create_connection, []

    def fall_silent(answer: HTTPResponse, size: int) -> bytes:
        if (tmp_path / "x.bin.part").stat().st_size:
            raise TimeoutError("timed out")
        return read(answer, min(size, 100))

    def note(address: Any, timeout: float, *rest: Any) -> socket.socket:
        timeouts.append(timeout)
        return connect(address, timeout, *rest)

    monkeypatch.setattr(HTTPResponse, "read1", fall_silent)
    monkeypatch.setattr(socket, "create_connection", note)
    with pytest.raises(DataError, match=r"lost \(timed out\) after [1-9]\d* of 102,400 bytes; run"):
        get(site, tmp_path, timeout_s=12, retries=1)
    assert timeouts == [12, 12]


def test_a_connection_lost_again_and_again(site: Site, tmp_path: Path) -> None:
    site.cuts = [10_000] * 4
    with pytest.raises(DataError, match="lost after 40,000 of 102,400 bytes; run it again to cont"):
        get(site, tmp_path)
    assert len(site.asked) == 4
    result = get(site, tmp_path, sha1=SHA1)
    assert result.path.read_bytes() == BODY
    assert site.asked[-1] == "bytes=40000-"
    assert site.sent[-1] == result.received_bytes == len(BODY) - 40_000
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_validator_nothing_is_glued(site: Site, tmp_path: Path, etag: str) -> None:
    site.etag, site.cuts = etag, [10_000] * 4
    with pytest.raises(DataError, match="after 10,000 of 102,400 bytes; run it again; this server"):
        get(site, tmp_path)
    assert get(site, tmp_path).path.read_bytes() == BODY
    assert site.asked == [None] * 5


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"ranges": False}, ["bytes=40000-"]),
        ({"etag": '"two"', "body": BODY[::-1]}, ["bytes=40000-"]),
        ({"etag": '"two"', "body": BODY[::-1], "heeds_if_range": False}, ["bytes=40000-", None]),
        ({"shift": 7}, ["bytes=40000-", None]),
        ({"body": BODY[:50_000]}, ["bytes=40000-", None]),
        ({"body": BODY[:30_000]}, ["bytes=40000-", None]),
    ],
    ids=["no ranges", "changed", "changed, If-Range ignored", "shifted", "shorter", "416"],
)
def test_a_part_that_does_not_fit_is_dropped(
    site: Site, tmp_path: Path, change: dict[str, Any], asked: list[str | None]
) -> None:
    start(site, tmp_path)
    vars(site).update(change)
    assert get(site, tmp_path).path.read_bytes() == site.body
    assert site.asked == asked
    assert names(tmp_path) == ["x.bin"]


def test_parts_of_another_address_are_dropped(site: Site, tmp_path: Path) -> None:
    start(site, tmp_path)
    site.statuses = [404]
    with pytest.raises(DataError, match="404"):
        get(site, tmp_path, "other/x.bin")
    assert (tmp_path / "x.bin.part").stat().st_size == 40_000
    assert get(site, tmp_path, "other/x.bin").path.read_bytes() == BODY
    assert site.asked == [None, None]


def test_whole_parts_are_not_fetched_again(site: Site, tmp_path: Path) -> None:
    start(site, tmp_path, len(BODY) - 1)
    with (tmp_path / "x.bin.part").open("ab") as file:
        file.write(BODY[-1:])
    for option, asked in ({"sha1": SHA1}, []), ({}, [f"bytes={len(BODY)}-"]):
        copies = {path: path.read_bytes() for path in tmp_path.iterdir()}
        result = get(site, tmp_path, **option)
        assert (site.asked, sum(site.sent), result.received_bytes) == (asked, 0, 0)
        result.path.unlink()
        for path, content in copies.items():
            path.write_bytes(content)


def test_a_wrong_hash_leaves_nothing(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=f"SHA-256 {SHA256}, expected {'0' * 64}; it is deleted"):
        get(site, out, sha256="0" * 64)
    assert names(tmp_path) == []


# --- what does not come ------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 4), (503, 4)])
def test_what_the_server_refuses(site: Site, tmp_path: Path, status: int, requests: int) -> None:
    site.statuses = [status] * 4
    with pytest.raises(DataError, match=rf"x\.bin: HTTP status {status} [A-Z][a-z]+"):
        get(site, tmp_path)
    assert len(site.asked) == requests
    assert names(tmp_path) == []
    site.statuses = [503]
    assert get(site, tmp_path).path.read_bytes() == BODY


def test_redirections(site: Site, tmp_path: Path) -> None:
    site.redirect = f"{site.base}/far/x.bin"
    assert get(site, tmp_path, "go.bin").path == tmp_path / "go.bin"
    for target, message in (
        ("ftp://127.0.0.1/x", "unknown url type: ftp"),
        ("file:///etc/passwd", "is not allowed"),
        ("http://[x", "Invalid IPv6 URL"),
        (f"{site.base}/go.bin", "infinite loop"),
    ):
        site.redirect = target
        with pytest.raises(DataError, match=message) as caught:
            get(site, tmp_path / "other", "go.bin")
        assert "\\n" not in str(caught.value)
        assert names(tmp_path) == ["go.bin"]


def test_no_server(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.bin"
        with pytest.raises(DataError, match="Connection refused; check the address"):
            fetch(FetchConfig(source=url, out=tmp_path))

    def unknown(*arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DataError, match="Name or service not known; check the address"):
        fetch(FetchConfig(source="http://nowhere.invalid/x.bin?key=secret", out=tmp_path))
    assert names(tmp_path) == []


def test_the_disk(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=len(BODY) - 1))
        with pytest.raises(DataError, match=r"0\.1 MB free on the disk, expected 0\.1 MB; free"):
            get(site, tmp_path)

    def full(part: Part, block: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Part, "write", full)
        with pytest.raises(DataError, match="no space left on device; see to it"):
            get(site, tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a directory"):
        get(site, tmp_path / "file" / "x")
    site.body = b""
    with pytest.raises(DataError, match="an empty file"):
        get(site, tmp_path)


def test_whose_part_it_is(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "x.bin.part"
    part.write_bytes(b"a browser's")
    for sidecar in (None, "", "[]", "{}"):
        if sidecar is not None:
            (tmp_path / "x.bin.part.json").write_text(sidecar)
        with pytest.raises(DataError, match="not left by fastft fetch"):
            get(site, tmp_path)
    assert part.read_bytes() == b"a browser's"
    part.unlink()
    with Part(tmp_path / "x.bin", "", lambda *progress: None):
        with pytest.raises(DataError, match="another fetch is writing it"):
            get(site, tmp_path)
    (tmp_path / "far").touch()
    part.symlink_to("far")
    with pytest.raises(DataError, match="too many levels of symbolic links"):
        get(site, tmp_path)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/photos.zip?key=a/b.tar#top", "photos.zip"),
        ("http://h/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "etc_passwd"),
        ("http://h/..%5c..%5cx.zip", "x.zip"),
        ("http://h/.ssh", "ssh"),
        ("http://h/-rf", "rf"),
        ("http://h/Bild%20%C3%A4%00%0A.zip", "Bild_ä__.zip"),
        ("http://h/" + "x" * 300 + ".tar.gz", "x" * 173 + ".tar.gz"),
    ],
)
def test_names_are_safe(url: str, name: str) -> None:
    assert file_name(check_url(url)) == name
