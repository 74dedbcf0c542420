from collections.abc import Iterator

import pytest
from objects import make_bucket, memory_address, s3_server, settings_of


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in settings_of(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "*")
    return make_bucket(f"b{abs(hash(request.node.nodeid)):x}"[:40])


@pytest.fixture
def holder(request: pytest.FixtureRequest) -> str:
    """A store: in memory, unless a test's parameters say S3."""
    kind = getattr(request, "param", "memory")
    return request.getfixturevalue("bucket") if kind == "s3" else memory_address()
