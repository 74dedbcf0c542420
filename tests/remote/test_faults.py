"""Errors of libraries: in one line, and tried again where that may mend them."""

import socket
from collections.abc import Callable

import pytest
from objects import QUICK

from pipelines.errors import DataError, UsageError
from pipelines.remote import store as module
from pipelines.remote.faults import Denied, Missing, ShortRead, explain
from pipelines.remote.store import Patience, Store

ADDRESS = "https://host/x.zip?signature=secret"


def named(name: str, *bases: type[Exception], **fields: object) -> type[Exception]:
    """An error of a library that is not loaded."""
    return type(name, bases or (Exception,), fields)


def of_boto(status: int, code: str) -> Exception:
    response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}
    return named("ClientError", response=response)("said")


def of_web(status: int) -> Exception:
    return named("ClientResponseError", status=status)(f"{status}, url='{ADDRESS}'")


def of_hub(status: int) -> Exception:
    return named("HfHubHTTPError", response=type("Response", (), {"status_code": status}))("x")


MENDING = [
    of_boto(500, "InternalError"),
    of_boto(503, "SlowDown"),
    of_boto(400, "RequestTimeout"),
    of_web(500),
    of_web(502),
    of_web(429),
    of_web(408),
    of_hub(504),
    named("HttpError", code=503)("x"),
    named("HttpError", code="500")("x"),
    TimeoutError("slow"),
    ConnectionResetError("gone"),
    ShortRead("3 bytes came of 4"),
    named("ServerDisconnectedError", named("ClientConnectionError"))("x"),
    named("EndpointConnectionError", named("ConnectionError"))("x"),
    named("ReadTimeout", named("TransportError"))("x"),
]
LASTING = [
    (of_boto(403, "AccessDenied"), "access is denied (AccessDenied)"),
    (of_boto(403, "403"), "access is denied;"),
    (of_boto(404, "NoSuchKey"), "no such file or folder"),
    (of_boto(404, "NoSuchBucket"), "no such bucket"),
    (of_boto(400, "InvalidBucketName"), "HTTP status 400 (InvalidBucketName)"),
    (of_boto(301, "PermanentRedirect"), "HTTP status 301 (PermanentRedirect)"),
    (of_web(401), "access is denied"),
    (of_web(410), "no such file"),
    (of_web(501), "HTTP status 501"),
    (of_hub(404), "no such file"),
    (FileNotFoundError("b/x"), "no such file or folder"),
    (PermissionError("no"), "access is denied"),
    (named("NoCredentialsError")("Unable to locate"), "no login was found"),
    (socket.gaierror(-2, "Name or service not known"), "its server is not known"),
    (ValueError(f"odd {ADDRESS} answer\nsecond line"), "odd https://host/x.zip answer;"),
    (KeyError(), "KeyError"),
]


@pytest.mark.parametrize("error", MENDING, ids=repr)
def test_what_may_mend_is_tried_again(error: Exception):
    waited: list[float] = []
    answers: list[Exception | str] = [error, error, "there"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(attempts=3, first_s=0.5, wait=waited.append).retry(ADDRESS, ask) == "there"
    assert waited == [0.5, 1.0]


@pytest.mark.parametrize(("error", "said"), LASTING, ids=repr)
def test_what_lasts_is_said_at_once(error: Exception, said: str):
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise error

    with pytest.raises(DataError) as caught:
        QUICK.retry(ADDRESS, ask)
    assert len(asked) == 1
    assert f"https://host/x.zip: {said}" in str(caught.value) + ";"
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_patience_ends():
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise of_web(503)

    with pytest.raises(DataError, match=r"x\.zip: HTTP status 503; try it later"):
        QUICK.retry(ADDRESS, ask)
    assert len(asked) == QUICK.attempts


def test_causes_are_looked_through():
    error = OSError(5, "Input/output error")
    error.__cause__ = of_boto(404, "NoSuchKey")
    assert isinstance(explain("s3://b/x", error)[0], Missing)
    error.__cause__ = named("NoCredentialsError")()
    told, mends = explain("s3://b/x", error)
    assert isinstance(told, Denied)
    assert "AWS_PROFILE" in str(told)
    assert not mends


@pytest.mark.parametrize("error", [MemoryError(), UsageError("--x", "wrong"), KeyboardInterrupt()])
def test_errors_of_others_pass(error: BaseException):
    def ask() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        QUICK.retry(ADDRESS, ask)
    assert caught.value is error


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("s3://b/x", 'pip install "fastft[s3]"'),
        ("gs://b/x", 'pip install "fastft[gcs]"'),
        ("hf://datasets/a/b", 'pip install "fastft[hf]"'),
        ("https://host/x", 'pip install "fastft[http]"'),
        ("memory://x/y", 'pip install "fsspec"'),
    ],
)
def test_a_missing_library_gives_its_command(
    address: str, command: str, monkeypatch: pytest.MonkeyPatch
):
    real: Callable[[str], object] = module.import_module

    def refuse(name: str) -> object:
        if name != "fsspec" or "memory" in address:
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(module, "import_module", refuse)
    with pytest.raises(UsageError) as caught:
        Store(address)
    assert command in str(caught.value)
