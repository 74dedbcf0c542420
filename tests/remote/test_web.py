"""Web servers, and S3 where it answers with errors."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from objects import QUICK, Site, serve_files
from sites import names

from pipelines.conversion.run import ConvertConfig
from pipelines.errors import DataError, UsageError
from pipelines.remote import fetching
from pipelines.remote.cache import localize
from pipelines.remote.conversion import convert_remote
from pipelines.remote.faults import Denied, Missing, StoreError
from pipelines.remote.fetching import fetch_file
from pipelines.remote.store import Store

BODY = bytes(range(256)) * 41


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "_RANGE_BYTES", 1000)
    with serve_files({"/x.bin": BODY}) as site:
        yield site


@pytest.fixture
def s3_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A bucket `b` that holds `x.bin`."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    site.files = {"/b/x.bin": BODY}
    for name, value in {
        "AWS_ENDPOINT_URL": site.base,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return site


def get(site: Site, target: Path, name: str = "x.bin") -> bytes:
    address = f"{site.base}/{name}"
    return fetch_file(address, target, store=Store(address, QUICK)).read_bytes()


def test_a_file_of_a_web_server_comes_in_ranges(site: Site, tmp_path: Path):
    assert get(site, tmp_path / "x", "x.bin?signature=1") == BODY
    assert site.asked.count("GET /x.bin") == len(range(0, len(BODY), 1000))


def test_a_server_without_ranges_is_read_in_one_go(site: Site, tmp_path: Path):
    site.ranges = False
    assert get(site, tmp_path / "x") == BODY
    site.says_length = False
    assert get(site, tmp_path / "y") == BODY


def test_a_download_that_knows_no_length_is_checked(site: Site, tmp_path: Path):
    site.fields["Content-MD5"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    with pytest.raises(DataError, match=r"x\.bin: MD5 \w+ of what came, expected 0000"):
        get(site, tmp_path / "x")
    assert names(tmp_path) == []


def test_errors_of_web_servers_are_tried_again(site: Site, tmp_path: Path):
    site.statuses = [500, 503, 429]
    assert get(site, tmp_path / "x") == BODY


@pytest.mark.parametrize(("status", "kind"), [(403, Denied), (404, Missing), (410, Missing)])
def test_refusals_of_web_servers_are_final(
    site: Site, tmp_path: Path, status: int, kind: type[StoreError]
):
    site.statuses = [status] * 9
    with pytest.raises(kind):
        Store(site.base, QUICK).read(f"{site.base}/x.bin", 0, 10)
    assert site.count("GET") == 1


def test_errors_of_s3_are_tried_again(s3_site: Site, tmp_path: Path):
    s3_site.statuses = [500, 503, 500]
    store = Store("s3://b", QUICK)
    assert store.read("s3://b/x.bin", 0, 10) == BODY[:10]
    assert s3_site.count("GET") == 4


@pytest.mark.parametrize(("status", "kind"), [(403, Denied), (404, Missing)])
def test_refusals_of_s3_are_final(s3_site: Site, status: int, kind: type[StoreError]):
    s3_site.statuses = [status] * 9
    with pytest.raises(kind):
        Store("s3://b", QUICK).read("s3://b/x.bin", 0, 10)
    assert s3_site.count("GET") == 1


def test_a_server_that_is_not_there_is_named(site: Site, tmp_path: Path):
    address = "http://127.0.0.1:9/x.bin?signature=1"
    with pytest.raises(StoreError, match=r"^http://127.0.0.1:9/x.bin: the connection failed") as it:
        fetch_file(address, tmp_path / "x", store=Store(address, QUICK))
    assert "signature" not in str(it.value)


def test_betons_of_a_web_server_are_copied(site: Site, data: Path, tmp_path: Path):
    for name in ("train.beton", "test.beton"):
        site.files[f"/data/{name}"] = (data / name).read_bytes()
    site.fields["ETag"] = '"one"'
    here = localize(Path(f"{site.base}/data"), tmp_path)
    assert names(here) == ["test.beton", "train.beton"]
    assert (here / "train.beton").read_bytes() == (data / "train.beton").read_bytes()
    site.asked.clear()
    assert localize(Path(f"{site.base}/data"), tmp_path) == here
    assert not {"GET /data/train.beton", "GET /data/test.beton"} & set(site.asked)
    with pytest.raises(DataError, match=r"other: holds no .beton, expected train.beton"):
        localize(Path(f"{site.base}/other"), tmp_path)


def test_a_web_server_is_no_output_and_no_folder(site: Site, photos: Path, tmp_path: Path):
    config = ConvertConfig(src=photos, out=Path(f"{site.base}/data"))
    with pytest.raises(UsageError, match="/data: is on a web server, expected s3://"):
        convert_remote(config, work=tmp_path)
    site.files["/photos"] = b"<html>"
    with pytest.raises(DataError):
        convert_remote(
            ConvertConfig(src=Path(f"{site.base}/photos"), out=tmp_path / "x"), work=tmp_path / "w"
        )
    assert names(tmp_path) == ["w"]
    assert names(tmp_path / "w") == []
