"""Faults under a loader's threads and processes: each reaches the caller, and all else ends."""

import errno
import io
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterable
from multiprocessing import process
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import TINY, begin
from effort import choose, rest
from loader_kinds import KINDS, OF_FOLDERS, alike, by_sample, make_kind, nothing_left, wait_until
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pipelines.errors import DataError
from pipelines.formats.beton import Index
from pipelines.formats.encode import EncodePolicy, Encoder
from pipelines.formats.layout import Stored
from pipelines.formats.source import open_source
from pipelines.images.damage import Checker
from pipelines.images.jpeg import read_header
from pipelines.images.scans import TOO_MANY_SCANS, has_too_many_scans
from pipelines.loaders import make_loader, worker_processes

Tried = Callable[..., None]
#: Of the second batch, so that there is one before it.
FLAWED = 12


@pytest.fixture
def flaw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[type[BaseException]], Path]:
    """Lets a sample's reading raise an error for as long as a file is there; gives that file."""

    def make(type_: type[BaseException]) -> Path:
        there, stored = tmp_path / "flaw", Index.stored
        there.touch()

        def raise_it(index: Index, sample: int) -> Stored:
            if sample == FLAWED and there.exists():
                raise type_("it", "said so")
            return stored(index, sample)

        monkeypatch.setattr(Index, "stored", raise_it)
        return there

    return make


#: The last three are none of `Exception`.
ERRORS = [
    DataError,
    RuntimeError,
    OSError,
    MemoryError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
]


#: In an ordinary run each kind meets one, and those that are caught in places of their own a few.
MET = [
    *((kind, DataError) for kind in ("torchvision", "ffcv", "dali", "resident")),
    *(("torchvision", type_) for type_ in (MemoryError, SystemExit)),
    ("resident", SystemExit),
    ("ffcv", SystemExit),
]
OTHERS = [(kind, type_) for kind in KINDS for type_ in ERRORS if (kind, type_) not in MET]


@pytest.fixture
def torch_looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks after its workers every five seconds."""
    wait = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(wait, "__defaults__", (0.1,))


@pytest.mark.usefixtures("torch_looks_often")
@pytest.mark.parametrize(("kind", "type_"), [*MET, *rest(*OTHERS)])
def test_an_error_of_any_kind_reaches_the_caller(
    kind: str, type_: type[BaseException], flaw: Any, data: Path, tmp_path: Path, tried: Tried
) -> None:
    """As an error, whatever it is: a thread's SystemExit must not end the program.

    DALI alone reads in the thread of the caller, whose own such things are.
    """
    source = open_source(data / "train.beton")
    with make_kind(kind, source, tmp_path) as loader:
        wanted = by_sample(loader)
    (tmp_path / "pixels.store").unlink(missing_ok=True)
    with nothing_left():
        flawed = flaw(type_)
        with make_kind(kind, source, tmp_path) as loader:
            batches = iter(loader)
            if issubclass(type_, Exception):
                next(batches)  # what is wrong with the second batch waits for its turn
            met, said = what_is_met(batches)
            if kind == "torchvision" and type_ in (MemoryError, *ERRORS[4:]):
                assert met is DataError
                assert "loader process" in said
            else:
                assert kind == "dali" or issubclass(met, Exception)
                assert type_.__name__ in f"{met.__name__} {said}"
                assert "said so" in said
            flawed.unlink()
            assert alike(by_sample(loader), wanted)
    tried("an error in a decoding thread or process")


def what_is_met(batches: Iterable[Any]) -> tuple[type[BaseException], str]:
    """The error that an epoch ends with; nothing holds on to its frames."""
    try:
        for _ in batches:
            pass
    except BaseException as error:
        return type(error), str(error)
    pytest.fail("nothing was met")


SIGNALS = choose(
    [signal.SIGKILL],
    [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT],
)


def workers_of(loader: Any) -> Any:
    """What torch keeps of a loader's processes; None when they have ended."""
    return (loader._loader if hasattr(loader, "_loader") else loader._workers)._iterator


def kill_a_worker(loader: Any, number: signal.Signals) -> None:
    """And wait until that is known; torch would raise its error there, in the midst of anything."""
    victim = workers_of(loader)._workers[1]
    os.kill(victim.pid, number)
    wait_until(lambda: not victim.is_alive(), lambda: "it lives on")


@pytest.fixture
def torch_is_watching() -> None:
    """A DataLoader of the user's own lets torch raise at the death of a child, from then on."""
    assert list(DataLoader([1, 2], batch_size=None, num_workers=1)) == [1, 2]
    assert signal_handling._SIGCHLD_handler_set


@pytest.mark.usefixtures("torch_is_watching", "torch_looks_often")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("kind", ["torchvision", *rest("stock")])
def test_a_worker_that_dies_is_an_error(
    kind: str, number: signal.Signals, data: Path, tmp_path: Path, tried: Tried
) -> None:
    """And the next epoch has new ones."""
    options = {"normalize": True, "batch_size": 2} if kind == "stock" else {"batch_size": 2}
    source = open_source(data / "train.beton")
    with nothing_left(), make_kind(kind, source, tmp_path, **options) as loader:
        batches = iter(loader)
        next(batches)
        kill_a_worker(loader, number)
        met, said = what_is_met(batches)
        assert met is DataError
        assert "a loader process ended: " in said
        assert "\n" not in said
        assert workers_of(loader) is None  # the others have ended, too
        assert sum(len(labels) for _, labels in loader) == 33
        kill_a_worker(loader, number)  # between two epochs nobody has lost anything
        assert sum(len(labels) for _, labels in loader) == 33
    tried("a worker process killed by a signal", 2)


@pytest.mark.parametrize("kind", ["stock", *rest("torchvision")])
def test_shared_memory_that_is_too_small_is_named(
    kind: str, data: Path, tmp_path: Path, tried: Tried
) -> None:
    """A limit on files stands for a small /dev/shm: what a worker puts there is one."""
    options = {"normalize": True} if kind == "stock" else {}
    source = open_source(data / "train.beton")
    with nothing_left(), make_kind(kind, source, tmp_path, **options) as loader:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            batches = iter(loader)
            with pytest.raises(
                DataError, match=r"^/dev/shm: no room for a batch of 0\.\d MB"
            ) as no:
                next(batches)
            pids = [worker.pid for worker in psutil.Process().children()]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "--shm-size" in str(no.value)

        def left() -> list[Path]:
            return [name for pid in pids for name in Path("/dev/shm").glob(f"torch_{pid}_*")]

        wait_until(lambda: not left(), lambda: str(left()))  # another worker may just be at it
    tried("/dev/shm too small for a worker's batch")


# A small file that takes minutes.


def jpeg_of_scans(frame: int, scans: int) -> bytes:
    """A JPEG whose frame has the marker of baseline, progressive or arithmetic coding."""
    target = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(target, "JPEG", progressive=frame == 0xC2)
    whole = target.getvalue()
    if frame == 0xC2:  # each says of no block's coefficients anything new
        scan, before = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + bytes(40), whole[2:-2]
    else:  # one component each
        scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(40)
        before = whole[2 : whole.index(b"\xff\xda")].replace(b"\xff\xc0", bytes((0xFF, frame)))
        before += scan.replace(b"\1\1\0", b"\1\2\x11") + scan.replace(b"\1\1\0", b"\1\3\x11")
    # What looks like a scan within other segments is none, and what is no marker is skipped.
    comment = b"\xff\xfe\x08\x02" + b"\xff\xda" * 1024
    more = scan * (scans - before.count(b"\xff\xda"))
    return whole[:2] + comment + before + more + whole[-2:]


@pytest.fixture
def of_many_scans(tmp_path: Path) -> Callable[[int], Path]:
    """A class folder of one whole photo and one JPEG of 5,000 scans."""

    def make(frame: int) -> Path:
        folder = tmp_path / f"{frame}" / "a"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(folder / "0.jpg")
        (folder / "1.jpg").write_bytes(jpeg_of_scans(frame, 5000))
        return folder.parent

    return make


#: Baseline, extended, progressive, arithmetic.
FRAMES = [0xC0, 0xC1, 0xC2, 0xC9]


@pytest.mark.parametrize("frame", FRAMES)
def test_scans_are_counted_as_libjpeg_turbo_counts_them(frame: int, tried: Tried) -> None:
    for scans in (10, 500, 501, 5000):
        data = jpeg_of_scans(frame, scans)
        assert has_too_many_scans(data) == (scans > 500)
        header = read_header(data)
        assert header is not None
        if Checker()._library is not None:
            broken = Checker().check(data, header).broken
            assert (TOO_MANY_SCANS in broken) == (scans > 500), (scans, broken)
    assert has_too_many_scans(data[:2] + b"\xff\xfe\0\4abgarbage" + data[2:])
    assert not has_too_many_scans(b"")
    assert not has_too_many_scans(b"\0" + data)
    assert not has_too_many_scans(data[:700])  # no frame
    assert not has_too_many_scans(data[: len(data) // 20])
    tried("a JPEG of very many scans", 4)


def test_scans_behind_a_full_one_are_uncounted() -> None:
    """Decoders stop at the second one."""
    target = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(target, "JPEG")
    whole = target.getvalue()
    more = whole[:-2] + whole[whole.index(b"\xff\xda") : -2] * 600 + whole[-2:]
    assert not has_too_many_scans(more)
    with Image.open(io.BytesIO(more)) as image, pytest.raises(OSError, match="broken data stream"):
        image.load()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("mode", ["passthrough", "raw"])
@pytest.mark.parametrize("verify", [True, False])
def test_convert_decodes_none_of_very_many_scans(frame: int, mode: Any, verify: bool) -> None:
    encoder = Encoder(EncodePolicy(mode=mode, verify=verify))
    encoded = encoder.encode(jpeg_of_scans(frame, 501), 0)
    assert encoded.stored is None
    assert encoded.reason == TOO_MANY_SCANS


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        *((kind, 0xC2) for kind in OF_FOLDERS),
        ("stock", 0xC0),
        ("resident", 0xC0),
        *rest(*((kind, 0xC0) for kind in OF_FOLDERS if kind != "resident"), ("stock", 0xC2)),
    ],
)
def test_images_of_many_scans_are_refused(
    kind: str, frame: int, of_many_scans: Any, tmp_path: Path, tried: Tried
) -> None:
    """By the decoders that have no limit of their own, too."""
    options = {"normalize": kind == "stock"}
    with make_kind(kind, of_many_scans(frame), tmp_path, **options) as loader:
        met, said = what_is_met(loader)
    assert met is DataError
    assert "a/1.jpg: " in said
    assert "more than 500 scans" in said
    tried("a JPEG of very many scans")


def test_a_truncated_store_is_an_error(data: Path, tmp_path: Path, tried: Tried) -> None:
    """To read or write the memory that was mapped to it would end the process."""
    path = tmp_path / "pixels.store"
    for epochs_before in range(2):
        path.unlink(missing_ok=True)
        with make_kind("resident-file", data / "train.beton", tmp_path) as loader:
            if epochs_before:
                by_sample(loader)
            os.truncate(path, 4096)
            met, said = what_is_met(loader)
            assert met is DataError
            assert said.startswith(f"{path}: is now 4,096 bytes long, expected")
        tried("a store's file cut short while it is used")


@pytest.mark.parametrize("kind", ["torchvision", *rest("stock")])
def test_a_low_limit_of_open_files_is_named(
    kind: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before any process is started: torch would be stopped in the midst of it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = len(os.listdir("/proc/self/fd"))
    said = "loader processes: too many open files, as this process may have {}; raise the limit by"
    with make_kind(kind, data / "train.beton", tmp_path, normalize=kind == "stock") as loader:
        for room in (4, 9, 15):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files + room, before[1]))
            try:
                met, text = what_is_met(loader)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert met is DataError
            assert text.startswith(said.format(files + room))
        by_sample(loader)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("received 0 items of ancdata"),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError(
            "Too many open files. Communication with the workers is no longer possible. P"
        ),
    ],
    ids=str,
)
def test_torchs_open_files_error_is_one_line(
    error: Exception, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise error

    with make_kind("torchvision", data / "train.beton", tmp_path) as loader:
        monkeypatch.setattr(worker_processes, "iterate", refuse)
        met, text = what_is_met(loader)
    assert met is DataError
    assert "raise the limit by ulimit -n 4096" in text


def test_long_temporary_paths_harm_no_worker(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)
    with make_loader("torchvision", data / "train.beton", size=32, workers=1) as loader:
        assert len(list(loader)) == len(loader)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))


def test_too_few_open_files_are_named(data: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), *TINY]
    arguments += ["--weights", "none", "--loader", "torchvision"]
    status, _, err = begin(arguments, tmp_path / "begun", limit_files).end()
    assert status == 1
    assert "too many open files, as this process may have 20; raise the limit by ulimit -n" in err
