"""`fastft predict`'s way from files to probabilities, ResNet-18 at 224 px: how much of its bound.

The bound of a CPU: all photos decoded by all cores, then the model alone on all cores, with nothing
in between. A batch that is there already is computed again and again, by torch's threads together
or by a thread for each core; both are tried, as either may be the faster one. The other baseline is
the loop that people write: ImageFolder, DataLoader's processes, the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from bench.conftest import CLASSES, Contender, Duel, Photos, Tables
from fastft.evaluate.pipeline import CPU_BATCH, Setting, answer
from fastft.model.classifier import build_model, restore_model
from fastft.runs.checkpoint import Checkpoint
from fastft.system.environment import pick_amp
from pipelines.loaders.image_files import FileRenderer
from pipelines.loaders.stock_loader import stock_transform

SIZE, SMALL_SIZE = 224, 64
#: Of a round: 3 s on 2 cores with bfloat16.
PHOTOS = 512
#: Pairs: a round takes seconds.
MOST_ROUNDS = 5
CPU = torch.device("cpu")
#: Of probabilities in bfloat16, computed in other batches.
LOOSELY = 0.02


@pytest.fixture(scope="module")
def rounds(rounds: int) -> int:
    return min(rounds, MOST_ROUNDS)


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and photos to ask it about."""

    paths: tuple[str, ...]
    checkpoint: Checkpoint
    model: nn.Module
    setting: Setting

    def predict(self) -> int:
        """All of it, as `fastft predict` does; returns how many."""
        with closing(answer(self.paths, self.checkpoint, self.model, self.setting)) as found:
            return sum(len(each.numbers) for each in found)

    def decode(self) -> int:
        """Read, decode and cut alone."""
        parts = range(0, len(self.paths), self.setting.batch_size)
        with closing(self._renderer()) as files:
            run = lambda at: len(files.cut(self._part(at)).numbers)  # noqa: E731
            return sum(files.threads.map(run, parts))

    def compute(self, *, together: bool) -> int:
        """The model alone, on a batch that is there."""
        count = self.setting.batch_size
        images = torch.randn(count, 3, self.checkpoint.size, self.checkpoint.size)
        images = images.contiguous(memory_format=torch.channels_last)
        steps, before = -(-len(self.paths) // count), torch.get_num_threads()
        amp = self.setting.amp_dtype

        @torch.inference_mode()
        def run(times: int) -> None:
            if not together:
                torch.set_num_threads(1)
            with torch.autocast("cpu", dtype=amp, enabled=amp is not None):
                for _ in range(times):
                    self.model(images)

        if together:
            run(steps)
        else:
            workers = self.setting.workers
            shares = [len(part) for part in np.array_split(np.arange(steps), workers)]
            with ThreadPoolExecutor(workers) as threads:
                list(threads.map(run, shares))
            torch.set_num_threads(before)
        return len(self.paths)

    def bound(self, *, together: bool) -> int:
        """One after the other."""
        self.decode()
        return self.compute(together=together)

    def stock(self, root: Path) -> int:
        """Source: torchvision's "Transfer Learning for Computer Vision Tutorial"."""
        data = ImageFolder(root, stock_transform("eval", self.checkpoint.size))
        loader = DataLoader(data, batch_size=64, num_workers=self.setting.workers)
        amp, done = self.setting.amp_dtype, 0
        with torch.inference_mode():
            for images, _ in loader:
                with torch.autocast("cpu", dtype=amp, enabled=amp is not None):
                    done += len(self.model(images).softmax(1))
                if done >= len(self.paths):
                    break
        return done

    def _renderer(self) -> FileRenderer:
        return FileRenderer(
            self.paths,
            view="eval",
            size=self.checkpoint.size,
            batch=self.setting.batch_size,
            workers=self.setting.workers,
        )

    def _part(self, at: int) -> range:
        return range(at, min(at + self.setting.batch_size, len(self.paths)))


@pytest.fixture(params=["float32", "bfloat16"])
def served(request: pytest.FixtureRequest, photos: Photos, cores: int) -> Served:
    amp = torch.bfloat16 if request.param == "bfloat16" else None
    if amp is not None and pick_amp("auto", CPU) is None:
        pytest.skip("this processor computes bfloat16 by other instructions")
    size = SMALL_SIZE if photos.is_smoke else SIZE
    built = build_model(CLASSES, "none", seed=0, arch="resnet18", size=size)
    classes = tuple(f"class {number}" for number in range(CLASSES))
    checkpoint = Checkpoint(
        model=built.model.state_dict(),
        arch="resnet18",
        classes=classes,
        size=size,
        view="eval",
        epoch=1,
        accuracy=0.5,
        optimizer={},
        scaler={},
        config={},
    )
    paths = tuple(map(str, photos.files[:PHOTOS]))
    setting = Setting(device=CPU, amp_dtype=amp, batch_size=CPU_BATCH, workers=cores)
    return Served(paths, checkpoint, restore_model(checkpoint, Path("bench")), setting)


@pytest.mark.parametrize("together", [True, False], ids=["torch's threads", "a thread a core"])
def test_share_of_the_bound(
    together: bool,
    served: Served,
    duel: Duel,
    benchmark: BenchmarkFixture,
    tables: Tables,
) -> None:
    kind = "bfloat16" if served.setting.amp_dtype else "float32"
    name = "torch's threads together" if together else "a thread for each core"
    benchmark.group = f"predict, ResNet-18, {kind}: share of decoding alone, then the model alone"
    duel(
        Contender(f"predict, against {name}", served.predict),
        Contender(f"decode, then the model by {name}", lambda: served.bound(together=together)),
    )
    if not benchmark.disabled:
        _note_parts(served, benchmark, tables, kind, name, together=together)


@pytest.mark.benchmark(group="predict, ResNet-18, against the usual loop")
def test_usual_loop(served: Served, photos: Photos, duel: Duel) -> None:
    kind = "bfloat16" if served.setting.amp_dtype else "float32"
    usual = lambda: served.stock(photos.root)  # noqa: E731
    duel(
        Contender(f"predict, {kind}", served.predict),
        Contender(f"ImageFolder, DataLoader, {kind}", usual),
    )
    ours = answer(served.paths, served.checkpoint, served.model, served.setting)
    with closing(ours):
        found = next(ours)
    data = ImageFolder(photos.root, stock_transform("eval", served.checkpoint.size))
    images = torch.stack([data[at][0] for at in found.numbers])
    with torch.inference_mode():
        wanted = served.model(images).softmax(1).numpy()
    np.testing.assert_allclose(found.rows, wanted, atol=LOOSELY)


def _note_parts(
    served: Served,
    benchmark: BenchmarkFixture,
    tables: Tables,
    kind: str,
    name: str,
    *,
    together: bool,
) -> None:
    """The two parts of the bound, each once."""
    rates = {
        "decode": _rate(served.decode),
        "model": _rate(lambda: served.compute(together=together)),
    }
    benchmark.extra_info.update({f"{part}_img_per_s": rate for part, rate in rates.items()})
    head = ["images/s, each part alone, once", "decode", "model"]
    table = tables.setdefault("parts of the bound of predict", [head])
    table.append([f"{kind}, {name}", *(f"{rate:,.0f}" for rate in rates.values())])


def _rate(call: Callable[[], int]) -> float:
    started = time.perf_counter()
    return round(call() / (time.perf_counter() - started), 1)
