import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from compiled_kernels import begin
from effort import leave_out_long, pytest_itemcollected, tried  # noqa: F401  # part of this file
from PIL import Image

from fastft.cli.main import execute
from fastft.datasets.synth import SynthConfig, write_synth
from fastft.system.signals import Interruptions
from pipelines.conversion.run import ConvertConfig, convert

if TYPE_CHECKING:
    import torch
    from commands import Case

    from fastft.runs.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
_COMPILING = pytest.StashKey[Any]()

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each test process has a core: more threads would wait for each other. Before torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and what `nohup` starts the end of its terminal, and so
# would what is started here, to which both are sent.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_sessionstart(session: pytest.Session) -> None:
    if getattr(session.config.option, "numprocesses", None):  # in the process that starts them
        session.config.stash[_COMPILING] = begin()


def pytest_sessionfinish(session: pytest.Session) -> None:
    compiling = session.config.stash.get(_COMPILING, None)
    if compiling is not None:
        compiling.kill()
        compiling.wait()


def pytest_collection_finish() -> None:
    """Tests that collect garbage need not go through all that was imported by now, and stays."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)  # after -m and -k have taken their share
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out_long(config, items)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return  # torch takes seconds to load
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a driver that is too old
        if torch.cuda.is_available():
            return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU; torch sees none"))


_STOCK_FFCV = """
import os, sys
import numba.typed
import numpy as np
numba.typed.Dict = dict  # as in ffcv_loader: two numbers' own dict is compiled for 5 s
from ffcv.fields.basics import IntDecoder
from ffcv.fields.ndarray import NDArrayDecoder, NDArrayField
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import Compiler
from ffcv.reader import Reader
side, compiled, out, *files = sys.argv[1:]
side, found = int(side), {}
Compiler.set_enabled(compiled == "True")
for at in range(len(files) // 2):
    path, os_cache = files[2 * at : 2 * at + 2]
    decoder = CenterCropRGBImageDecoder((side, side), 1) if side else SimpleRGBImageDecoder()
    has_rows = isinstance(Reader(path).handlers["label"], NDArrayField)
    batches = Loader(
        path, batch_size=7, num_workers=1, order=OrderOption.SEQUENTIAL,
        os_cache=os_cache == "True", drop_last=False,
        pipelines={"image": [decoder], "label": [(NDArrayDecoder if has_rows else IntDecoder)()]},
    )
    images, labels = zip(*[(image.copy(), label.copy()) for image, label in batches])
    labels = np.concatenate(labels)
    labels = labels if has_rows else labels.ravel()
    found |= {f"images{at}": np.concatenate(images), f"labels{at}": labels}
np.savez(out, **found)
os._exit(0)
"""


@pytest.fixture
def read_by_stock_ffcv(tmp_path: Path) -> Callable[..., list[tuple[np.ndarray, np.ndarray]]]:
    """Reads .betons by FFCV's own loader: images, cropped to `side` unless it is 0, and labels.

    Of each is said whether through the system's cache. In a process of its own: FFCV sets torch's
    threads, and makes a numba type read-only that functions are filed under in this one. What FFCV
    would compile for seconds is left to the interpreter in an ordinary run.
    """
    if find_spec("ffcv") is None:
        pytest.skip("ffcv is not installed")
    from effort import choose
    from processes import run_program  # torch takes seconds to load

    def read(*files: tuple[Path, bool], side: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        out, program = tmp_path / "stock.npz", tmp_path / "stock.py"
        program.write_text(_STOCK_FFCV)
        arguments = side, choose(False, True), out, *(each for file in files for each in file)
        ended = run_program(program, *arguments, folder=tmp_path, within_s=200)
        assert not ended.returncode, ended.stderr
        with np.load(out) as found:
            return [(found[f"images{at}"], found[f"labels{at}"]) for at in range(len(files))]

    return read


@pytest.fixture(scope="session")
def hymenoptera() -> Path:
    """Real photos of ants and bees, train/ and val/; one GIF hides among them."""
    path = ROOT.parent / "shared" / "data" / "hymenoptera"
    if not path.is_dir():
        pytest.skip(f"no real photos at {path}")
    return path


@pytest.fixture(scope="session")
def few_photos(hymenoptera: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class folder of every tenth of them."""
    out = tmp_path_factory.mktemp("few") / "photos"
    for file in sorted((hymenoptera / "val").rglob("*.jpg"))[::10]:
        (out / file.parent.name).mkdir(parents=True, exist_ok=True)
        (out / file.parent.name / file.name).symlink_to(file)
    return out


@pytest.fixture(scope="session")
def odd() -> Path:
    """Class folders `jpegs` and `others` of small odd images, see tests/data/make.py."""
    return ROOT / "tests" / "data" / "odd"


@pytest.fixture(scope="session")
def odd_beton(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd images, converted."""
    out = tmp_path_factory.mktemp("odd") / "odd.beton"
    convert(ConvertConfig(src=odd, out=out))
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic photos of 3 classes: 33 in train/, 6 in test/."""
    out = tmp_path_factory.mktemp("synth") / "photos"
    write_synth(SynthConfig(out=out, classes=3, per_class=11, test_per_class=2, size=(90, 70)))
    return out


@pytest.fixture(scope="session")
def data(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic photos, converted: train.beton and test.beton."""
    out = tmp_path_factory.mktemp("data")
    convert(ConvertConfig(src=photos, out=out))
    return out


@pytest.fixture(scope="session")
def trained(data: Path) -> "Checkpoint":
    """What a training on `data` could have come to."""
    from runs import make_checkpoint  # torch takes seconds to load

    from pipelines.formats.beton import read_index

    return make_checkpoint(data, read_index(data / "test.beton").classes)


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Trainings take a network of three layers for a ShuffleNet."""
    from tiny import make_tiny  # torch takes seconds to load

    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        yield


@pytest.fixture(scope="module")
def dropping() -> Iterator[None]:
    """They take one with dropout, whose draws a run has to repeat."""
    from tiny import make_tiny  # torch takes seconds to load

    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch, drop=0.2)
        yield


@pytest.fixture
def shallow_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same transformer with 2 layers instead of 12 that are alike."""
    from torchvision.models import vision_transformer

    real = vision_transformer.VisionTransformer
    make = lambda **options: real(**{**options, "num_layers": 2})  # noqa: E731
    monkeypatch.setattr(vision_transformer, "VisionTransformer", make)


@pytest.fixture
def run(trained: "Checkpoint", tmp_path: Path) -> Path:
    """A run folder that holds it."""
    from fastft.runs.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "run" / "best.safetensors", trained)
    return tmp_path / "run"


@pytest.fixture(scope="session")
def cases(
    photos: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[dict[str, Case]]":
    """Every command with valid arguments, which has a run to work on."""
    from commands import begin, make_cases  # torch takes seconds to load
    from sites import serve
    from zips import STORED, zip_folder

    folder = tmp_path_factory.mktemp("cases")
    with serve() as site:
        site.body = zip_folder(photos, folder / "zip", STORED, "photos/").read_bytes()
        found = make_cases(photos, data, folder / "place" / "run", f"{site.base}/photos.zip")
        status, _, err = begin(found["train"].call(folder / "place"), folder).end()
        assert status == 0, err
        yield found


@pytest.fixture(scope="session", autouse=True)
def draw_curves() -> Iterator[Callable[[Path, Path], None]]:
    """The real one: trainings leave an empty curves.png, as drawing takes as long as they do."""
    from fastft.runs import curves

    with pytest.MonkeyPatch.context() as patch:
        real = curves.draw_curves
        patch.setattr(curves, "draw_curves", lambda metrics, out: out.write_bytes(b""))
        yield real


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations leave empty pictures: drawing takes longer than they do."""
    for draw in ("draw_confusion", "draw_top_losses"):
        monkeypatch.setattr(f"fastft.evaluate.class_report.{draw}", lambda *_: b"")


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that groups of processes take for /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr("pipelines.resident.shared_file.SHM", folder)
    return folder


@pytest.fixture(scope="session")
def load_kernels() -> Callable[..., ModuleType]:
    """Loads a file of Triton kernels as a module of another name.

    Triton settles at import whether its kernels are interpreted.
    """
    parts = ("pipelines.kernels.passes", "pipelines.kernels.preparing")

    def load(name: str, file: str = "gpu.py") -> ModuleType:
        spec = spec_from_file_location(name, ROOT / "pipelines" / "kernels" / file)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            for part in parts:
                patch.delitem(sys.modules, part, raising=False)
            spec.loader.exec_module(module)
            for part in parts:
                sys.modules.pop(part, None)
        return module

    return load


@pytest.fixture(scope="session")
def triton_kernels(load_kernels: Callable[..., ModuleType]) -> tuple[ModuleType, str]:
    """The Triton kernels, and the device they run on: a GPU, else interpreted on the CPU."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a driver that is too old
        if torch.cuda.is_available():
            return load_kernels("compiled_gpu"), "cuda"
    # Before the setting, which is for these kernels alone. Older ones' interpreter meets an error
    # of NumPy 2.4.
    pytest.importorskip("triton", minversion="3.7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        module = load_kernels("interpreted_gpu")
    from interpreted import quicken_interpreter

    quicken_interpreter()
    # An operation takes the interpreter as long on many pixels as on few.
    vars(module).update(_ACROSS_LINES=64, _ACROSS_COLUMNS=64, _DOWN_LINES=4, _DOWN_VALUES=256)
    return module, "cpu"


@pytest.fixture(scope="session")
def gpu(triton_kernels: tuple[ModuleType, str]) -> ModuleType:
    """The Triton kernels."""
    return triton_kernels[0]


@pytest.fixture(scope="session")
def device(triton_kernels: tuple[ModuleType, str]) -> "torch.device":
    """The device that they run on."""
    import torch

    return torch.device(triton_kernels[1])


@pytest.fixture(scope="session")
def parameters_kept() -> Iterator[None]:
    """Typer reads the parameters of all commands off their functions once, not for each call."""
    with pytest.MonkeyPatch.context() as patch:
        read = typer.main.get_params_from_function
        patch.setattr(typer.main, "get_params_from_function", cache(read))
        yield


@pytest.fixture
def fastft(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], parameters_kept: None
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line here; gives exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastft", *map(str, arguments)])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # it sets its own
        interruptions = Interruptions()
        try:
            with pytest.raises(SystemExit) as ended:
                execute(interruptions)
        finally:
            interruptions.end()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def refuses(fastft: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Runs the command line on bad input; gives the one line that it ends with, which says why."""

    def check(name: str, arguments: Sequence[object], wanted: int, message: str) -> str:
        status, out, err = fastft(*arguments)
        assert status == wanted, (name, out, err)
        assert err.count("\n") == 1, (name, err)
        assert message in err, (name, err)
        assert "Traceback" not in err
        return err

    return check
