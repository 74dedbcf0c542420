import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastft.bench import stages
from fastft.bench.stages import find_spots, measure_stages, throughput
from fastft.config.bench import Task
from pipelines.augment import USUAL
from pipelines.conversion.run import ConvertConfig, convert
from pipelines.errors import DataError, UsageError
from pipelines.formats.beton import read_index
from pipelines.formats.encode import decode
from pipelines.formats.source import open_source
from pipelines.loaders.stages import Copying, Decoding, Kernel
from pipelines.plan import DECODES, Decode, make_plan
from pipelines.reference import find_cover, render_batch

SIZE = 40


def task(data: Path, **other: object) -> Task:
    values: dict[str, object] = {
        "loader": "",
        "data": str(data),
        "workers": 2,
        "view": "train",
        "size": SIZE,
        "batch_size": 4,
        "decode": "exact",
        "augment": USUAL,
        "seconds": 0.02,
        "arch": "squeezenet1_1",
        "amp": "off",
        "device": "cpu",
        "seed": 0,
        "cold": False,
    }
    return Task(**{**values, **other})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["beton", "folder"])
def test_the_bytes_that_are_read_are_the_samples(kind: str, data: Path, photos: Path) -> None:
    source = open_source(data / "test.beton" if kind == "beton" else photos / "test")
    samples = np.array([4, 0, 2])
    read = find_spots(source).reader(samples)
    for at, sample in enumerate(samples.tolist()):
        assert bytes(read(slice(at, at + 1))) == bytes(source.stored(sample).data)


@pytest.mark.parametrize("how", DECODES)
def test_decoding_gives_the_reference_pixels(how: Decode, data: Path) -> None:
    source = read_index(data / "test.beton")
    plan = make_plan(source.widths, source.heights, view="train", size=8, decode=how)
    samples = np.array([3, 1, 5])
    work, rows = Decoding(source, samples, plan).worker(), plan.rows(samples)
    assert (rows.shrinks > 1).any() == (how == "scaled")
    for part, last in ((slice(0, 1), 0), (slice(0, 3), 2)):
        shrink = int(rows.shrinks[last])
        (top, left, height, width), _ = find_cover(rows.crops[last].tolist(), shrink)
        wanted = np.asarray(decode(source.stored(int(samples[last])), "x", shrink))
        assert np.array_equal(work(part), wanted[top : top + height, left : left + width])


@pytest.mark.parametrize(
    ("view", "how"), [("train", "exact"), ("eval", "exact"), ("eval", "scaled")]
)
def test_the_kernel_gives_the_reference_pixels(view: str, how: Decode, data: Path) -> None:
    """The exact ones, as it is given images that were decoded whole."""
    source = read_index(data / "test.beton")
    size = 8 if how == "scaled" else SIZE
    plan = make_plan(source.widths, source.heights, view=view, size=size)
    samples = plan.order[[5, 0, 3]]
    rows = plan.rows(samples)
    wanted = render_batch([source.stored(sample) for sample in samples], rows)
    asked = replace(plan, decode=how)
    work = Kernel(source, samples, asked, normalize=False).worker(2)
    for part in (slice(0, 2), slice(1, 3), slice(2, 3)):
        assert np.array_equal(work(part).reshape(-1, size, size, 3), wanted[part])


def test_broken_samples_fail_every_stage(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.beton"
    content = bytearray((data / "test.beton").read_bytes())
    index = read_index(data / "test.beton")
    content[int(index.pointers[1]) + 30] ^= 1
    path.write_bytes(content)
    source = read_index(path)
    plan = make_plan(source.widths, source.heights, view="train", size=SIZE)
    with pytest.raises(DataError, match="bytes have changed"):
        Kernel(source, plan.order, plan)
    with pytest.raises(DataError, match="bytes have changed"):
        throughput(Decoding(source, plan.order, plan).worker, 6, threads=2, budget_s=0.01)


def test_a_copy_is_of_all_bytes() -> None:
    copying = Copying(torch.device("cpu"), 300)
    copying._slot.array[:300] = np.arange(300) % 256
    assert copying().tolist() == [value % 256 for value in range(300)]


@pytest.mark.parametrize(("samples", "threads"), [(1, 1), (1, 3), (3, 2), (100, 2)])
def test_every_sample_is_taken_once_if_asked_for(samples: int, threads: int) -> None:
    taken: list[int] = []
    lock = threading.Lock()

    def work(part: slice) -> None:
        with lock:
            taken.extend(range(part.start, part.stop))

    rate = throughput(lambda: work, samples, threads=threads, budget_s=60, once=True)
    assert sorted(taken) == list(range(samples))
    assert rate > 0


def test_samples_repeat_until_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    taken: list[slice] = []
    # Looked at: started 0, then before each part but the first 1, 2 ..., ended 11: ten parts.
    rate = throughput(lambda: taken.append, 3, threads=1, budget_s=10)
    warm, *parts = taken
    assert warm == slice(0, 3)
    assert parts == [slice(0, 3)] * 10
    assert rate == pytest.approx(10 * 3 / 11)


def test_every_stage_of_a_beton(data: Path) -> None:
    found = {each["name"]: each for each in measure_stages(task(data / "test.beton"))}
    assert list(found) == [
        "read_cold",
        "read_warm",
        "decode_one_core",
        "decode_all_cores",
        "kernel_one_core",
        "kernel_all_cores",
        "copy_to_device",
        "model_step",
    ]
    missing = {name for name, each in found.items() if each["img_per_s"] is None}
    assert missing == {"read_cold", "copy_to_device"}
    assert all(each["img_per_s"] > 0 for name, each in found.items() if name not in missing)
    assert all(each["label"] and each["note"] for each in found.values())
    assert found["model_step"]["note"] == "squeezenet1_1, float32, batches of 4"


def test_one_raw_image_of_one_class(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tmp_path / "photos" / "only"
    only.mkdir(parents=True)
    (only / "a.jpg").write_bytes(next((photos / "test").rglob("*.jpg")).read_bytes())
    convert(ConvertConfig(src=tmp_path / "photos", out=tmp_path / "raw.beton", mode="raw"))
    monkeypatch.setattr(stages, "evict", lambda files: 0.0)  # whatever tmp_path lies on
    small = task(tmp_path / "raw.beton", batch_size=1, cold=True)
    found = {each["name"]: each for each in measure_stages(small)}
    assert found["decode_one_core"]["img_per_s"] is None
    assert found["decode_all_cores"]["note"] == "nothing to decode: pixels are stored"
    assert found["read_cold"]["img_per_s"] > 0
    assert found["kernel_all_cores"]["img_per_s"] > 0


def test_what_stays_in_memory_is_not_cold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "evict", lambda files: 0.4)
    spots, plan, _ = stages._look(task(data / "test.beton"))
    cold, warm = stages._measure_reading(spots, plan, 0.01, cold=True)
    assert cold.img_per_s is None
    assert cold.note.startswith("40% of it cannot be got out of memory")
    assert warm.img_per_s is not None


def test_unknown_models_fail_before_measuring(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_measure_reading", None)
    with pytest.raises(UsageError, match="--arch"):
        measure_stages(task(data / "test.beton", arch="resnet19"))


def test_batches_that_do_not_fit_are_noted(data: Path) -> None:
    def step(*_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    cpu = torch.device("cpu")
    found = stages._measure_model(step, task(data), 3, cpu, 0.01)  # type: ignore[arg-type]
    assert found.img_per_s is None
    assert "take a smaller --batch-size" in found.note


def test_what_the_first_one_pays_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 105.0, 105.0])
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    done: list[int] = []
    rate = stages._repeat(lambda: done.append(1), 2.0, torch.device("cpu"))
    assert (len(done), rate) == (2, pytest.approx(0.2))
