"""Paths that are meant as addresses, and bad ones."""

from pathlib import Path

import pytest

from pipelines.errors import UsageError
from pipelines.remote.address import beside, name_of, remote_address, show


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket",
        "s3://bucket/photos/a b.zip",
        "gs://bucket/x",
        "hf://datasets/owner/name@main/data",
        "https://127.0.0.1:8000/x.zip?signature=1",
        "memory://b/x",
        "file:///folder/x",
    ],
)
def test_an_address_survives_a_path(address: str):
    assert remote_address(address) == address
    assert remote_address(Path(address)) == address
    assert show(Path(address)) == address.partition("?")[0]


@pytest.mark.parametrize(
    "path", ["photos", "/data/x.zip", "C:/x", "s3:bucket", "..", "a/s3://b", "odd:"]
)
def test_local_paths_are_no_addresses(path: str):
    assert remote_address(Path(path)) is None
    assert show(Path(path)) == str(Path(path))


def test_a_file_by_that_name_stays_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("s3:/b").mkdir(parents=True)
    Path("s3:/b/x").touch()
    assert remote_address(Path("s3://b/x")) is None
    assert remote_address(Path("s3://b/y")) == "s3://b/y"
    Path("odd:").mkdir()
    assert remote_address(Path("odd:/new")) is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/x.zip", "ftp://host/x.zip: begins with ftp, expected s3://"),
        ("ftp://me:SECRET@host/x", "ftp://host/x: begins with ftp"),
        ("s4://bucket/x", "begins with s4"),
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
        ("gs:///", "names no bucket"),
        ("s3://KEY:SECRET@bucket/x", "an address with a login"),
        ("https://me:word@host/x.zip", "an address with a login"),
        ("https:///x.zip", "names no server"),
        ("https://?x", "names no server"),
        ("http://host:port/x", "is no address"),
        ("hf://name", "names no repository"),
        ("s3://bucket/../other", "holds . or .."),
        ("s3://bucket/a\nb", "cannot be printed"),
    ],
)
def test_bad_addresses_are_refused(address: str, said: str):
    with pytest.raises(UsageError) as caught:
        remote_address(address)
    assert said in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_names_are_those_of_files_here():
    assert name_of("s3://bucket/photos/") == "photos"
    assert name_of("s3://bucket") == "bucket"
    assert name_of("https://host/a%2Fb%20c.zip?key=1") == "b c.zip"
    assert name_of("s3://bucket/..hidden") == "hidden"
    assert len(name_of("s3://bucket/" + "é" * 300).encode()) <= 180
    assert beside("https://host/a.zip?key=1", ".sha256") == "https://host/a.zip.sha256?key=1"
    assert beside("s3://b/a?b", ".sha256") == "s3://b/a?b.sha256"
