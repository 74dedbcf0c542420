"""Sources of pages, written as the commands write them, with figures made up."""

import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastft.config.checks import plain
from fastft.config.train import TrainConfig
from fastft.evaluate.scores import wilson_interval
from fastft.experiments.results import (
    FINE_TUNED,
    FROZEN,
    SCRATCH,
    Comparison,
    Run,
    Sweep,
    Variant,
    as_json,
    difference,
)
from fastft.parity.distance import Distance
from fastft.parity.equivalence import AccuracyResult, judge
from fastft.runs.folder import CONFIG, METRICS, SUMMARY, write_json
from fastft.runs.metrics import EpochMetrics, MetricsFile, StepMetrics

Json = dict[str, Any]

ENVIRONMENT = {
    "fastft": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "torchvision": "0.29.1",
    "nvidia-dali-cuda120": None, "ffcv": "1.0.2", "numba": "0.68.1", "numpy": "2.4.6",
    "pillow": "13.0.0", "cpu": "Some Processor", "cpus": 2, "gpu": None,
}  # fmt: skip
STAGES = (
    ("read_cold", "storage, cold cache", None, "the data lie in memory"),
    ("read_warm", "reading, warm cache", 91_200.0, ""),
    ("decode_one_core", "JPEG decode, one core", 1_032.0, ""),
    ("decode_all_cores", "JPEG decode, all cores", 2_051.0, ""),
    ("kernel_one_core", "kernel, one core", 9_316.0, ""),
    ("kernel_all_cores", "kernel, all cores", 18_120.0, ""),
    ("copy_to_device", "copy to the device", None, "there is no GPU"),
    ("model_step", "model step, resnet18", 46.5, ""),
)
#: Loader, images/s with one and two workers, CPU ms per image, what binds.
LOADERS = (
    ("resident", (7_120.4, 13_743.9), 0.1387, "kernel_all_cores"),
    ("ffcv", (1_160.2, 1_889.5), 0.8443, "decode_all_cores"),
    ("dali", (601.0, 1_097.4), 1.6126, "decode_all_cores"),
    ("torchvision", (540.1, 1_052.5), 1.8232, "decode_all_cores"),
)
#: Of the runs that are compared.
_SETTINGS = {"epochs": 1, "size": 64, "recipe": "default"}
#: Contender of the growth suite, side, images/s and bytes of memory on 1,000 samples.
GROWING = (
    ("fastft resident", "fastft", 13_743.0, 1.2e9), ("fastft ffcv", "fastft", 2_290.0, 9.2e8),
    ("FFCV", "stock", 1_410.0, 1.9e9),
    ("DALI", "stock", 1_204.0, 1.0e9),
    ("torchvision, Pillow", "stock", 713.0, 1.8e9),
)  # fmt: skip


def write_bench(folder: Path, **changes: Any) -> Path:
    """A `bench.json`; returns its folder."""
    ceilings = {name: rate for name, _, rate, _ in STAGES}
    loaders = [
        {
            "loader": loader, "workers": workers, "img_per_s": rates[workers - 1],
            "train_img_per_s": 45.0, "first_epoch_img_per_s": 0.7 * rates[workers - 1],
            "cold_img_per_s": None,
            "cpu_s_per_image": cpu_ms / 1e3, "peak_rss_bytes": 900_000_000 + workers * 120_000_000,
            "import_s": 1.1, "first_batch_s": 0.33, "bytes_per_image": 43_657, "binds": binds,
            "ceiling_img_per_s": ceilings[binds],
            "share_of_ceiling": rates[workers - 1] / (ceilings[binds] or 1.0),
        }
        for loader, rates, cpu_ms, binds in LOADERS
        for workers in (1, 2)
    ]  # fmt: skip
    content = {
        "kind": "fastft bench", "version": 1, "environment": ENVIRONMENT, "config": {"size": 224},
        "data": {
            "path": "data/train.beton", "images": 1024, "classes": 4, "mean_px": 194_449,
            "mean_bytes": 43_657, "stored_bytes": 44_900_000,
        },
        "seconds": 61.2,
        "stages": [
            {"name": name, "label": label, "img_per_s": rate, "note": note}
            for name, label, rate, note in STAGES
        ],
        "loaders": loaders,
        "skipped": [{"loader": "stock", "reason": "torchvision's own DataLoader is no candidate"}],
        "recommendation": {
            "loader": "resident", "workers": 2, "line": "take --loader resident --workers 2",
            "reason": "it is the fastest here, and the pixels of 0.6 GB fit in memory",
        },
    }  # fmt: skip
    return _write(folder / "bench.json", content | changes).parent


def write_suite(path: Path, *, growth: bool = True, factor: float = 1.0) -> Path:
    """A JSON of the suites: duels, a field, growth, memory, start-up."""
    stock = [name for name, side, *_ in GROWING if side == "stock"]
    benchmarks = [
        _benchmark("convert", "fastft convert", factor * 4123.6, 0.4606, baseline=(
            "FFCV's DatasetWriter", factor * 825.8, 2.2029, 5.079), goal="ratio >= 3"),
        _benchmark("a group of its own", "a contender", factor * 12.0, 0.1, baseline=(
            "another", factor * 10.0, 0.1, 1.2)),
        *(_benchmark("loaders: JPEG, 2 cores", name, factor * rate, 2e3 / rate, side=side,
                     reads="pixels" if "resident" in name else "jpeg",
                     ratio_to={other: [3.2, 3.1, 3.4] for other in stock if other != name})
          for name, side, rate, _ in reversed(GROWING)),
        *(_benchmark("memory", name, None, None, peak_bytes=0.9 * peak, peak_bytes_with_large=peak)
          for name, peak in (("fastft ffcv", 1.015e9), ("stock ffcv", 2.029e9))),
        _benchmark("start-up", "", None, None, contenders=[
            {"contender": name, "side": side, "imported_s": 1.1, "first_batch_s": first_s,
             "process_s": first_s + 1.2, "goal": "ratio <= 0.25", "ratio_to": {}}
            for name, side, first_s in (("FFCV", "stock", 6.563), ("fastft ffcv", "fastft", 0.07))
        ]),
        _benchmark("start-up of commands", "", None, None, command="python", seconds=0.02),
    ]  # fmt: skip
    for samples in (1_000, 10_000, 100_000) if growth else ():
        for workers in (1, 2):
            for name, side, rate, memory in GROWING:
                grown = math.log10(samples) - 3
                benchmarks.append(_benchmark(
                    "growth", name, rate * workers / 2 * (1 - 0.03 * grown), None, side=side,
                    samples=samples, workers=workers, first_batch_s=0.3 + grown,
                    peak_rss_bytes=int(memory * (1 + 0.2 * grown * (rate > 9_000))),
                ))  # fmt: skip
    content = {
        "machine_info": {
            "system": "Linux", "machine": "x86_64", "python": "3.11.7", "cpu": "Some Processor",
            "cores": 2, "versions": {"torch": "2.14.1", "numpy": "2.4.6"},
        },
        "commit_info": {"id": "82a8fe9c", "dirty": False}, "benchmarks": benchmarks,
        "datetime": "2026-11-21T08:00:00+00:00", "version": "5.3.1",
        "photos": {"photos": "synthetic", "images": 1024, "mean_px": 194_449,
                   "mean_bytes": 43_657, "cores": 2},
        "verdicts": [
            {"what": f"{ours} / best stock peer", "ours": ours, "theirs": theirs, "ratio": ratio,
             "low": 0.9 * ratio, "high": 1.1 * ratio, "goal": goal}
            for ours, theirs, ratio, goal in (
                ("fastft ffcv", "FFCV", 1.624, 1.4), ("fastft resident", "FFCV, raw", 5.62, 1.7),
                ("fastft dali", "DALI", 0.92, 0.95))
        ],
    }  # fmt: skip
    return _write(path, content)


def write_run(
    folder: Path, *, lr: float = 0.01, epochs: int = 6, ends: bool = True, of: int = 12
) -> Path:
    """A run folder of `of` steps an epoch; one that does not end has half an epoch more."""
    config = plain(TrainConfig(data=Path("data"), out=folder, weights="none", lr=lr))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, {"config": config, "environment": ENVIRONMENT})
    rows = MetricsFile(folder / METRICS)
    steps = epochs * of + (0 if ends else of // 2)
    for step in range(steps):
        loss = 1.4 * math.exp(-step / (60 * lr / 0.01)) + 0.1 * math.cos(2.4 * step) + 0.15
        rows.write(StepMetrics(
            epoch=step // of, step=step, loss=loss, lr=lr, wait_s=0.01, step_s=0.4, img_per_s=80.0,
        ))  # fmt: skip
        if (step + 1) % of == 0:
            done = (step + 1) / (of * 6) * lr / 0.01
            rows.write(EpochMetrics(
                epoch=step // of, size=64, train_loss=loss, train_accuracy=0.9 - 0.6 * 0.3**done,
                eval_loss=loss + 0.08, eval_accuracy=0.88 - 0.6 * 0.35**done,
                img_per_s=510 - 9 * (step % 5), wait_s=0.3, train_s=2.0, eval_s=0.4,
            ))  # fmt: skip
    rows.close()
    if ends:
        verdict = (
            "510 images/s, 15% of step time waiting for input\n"
            "model-bound: loader 2,050, model 530 images/s"
        )
        bottleneck = {
            "img_per_s": 510.0, "wait_share": 0.15, "loader_img_per_s": 2050.0,
            "model_img_per_s": 530.0, "shares_cores": True, "advice": "", "verdict": verdict,
        }  # fmt: skip
        summary = {"epochs": epochs, "best_accuracy": 0.87, "seconds": 14.2}
        write_json(folder / SUMMARY, {**summary, "bottleneck": bottleneck})
    return folder


def write_comparison(folder: Path) -> Path:
    """A `compare.json`; returns its folder."""
    variants = [_variant(name, accuracy) for name, accuracy in
                ((FINE_TUNED, 0.84), (SCRATCH, 0.60), (FROZEN, 0.75))]  # fmt: skip
    gains = {each.name: difference(variants[0], each) for each in variants[1:]}
    found = Comparison(_SETTINGS, ENVIRONMENT, tuple(variants), gains)
    return _write(folder / "compare.json", as_json(found)).parent


def write_sweep(folder: Path) -> Path:
    """A `sweep.json`; returns its folder."""
    rates = (0.001, 0.01, 0.1)
    variants = tuple(
        _variant(f"{start}, lr {lr:g}", accuracy - 0.05 * abs(math.log10(lr) + 2), lr)
        for start, accuracy in ((FINE_TUNED, 0.84), (SCRATCH, 0.60))
        for lr in rates
    )
    found = Sweep(_SETTINGS, ENVIRONMENT, variants, {FINE_TUNED: 0.01, SCRATCH: 0.01})
    return _write(folder / "sweep.json", as_json(found)).parent


def write_pixels(folder: Path) -> Path:
    """A `pixels.json` with its picture; returns its folder."""
    whole = {"torchvision": (0.0, 0), "ffcv": (0.0, 0), "resident": (0.0, 0), "dali": (0.162, 13)}
    rows = [
        {"loader": loader, "stage": stage, "view": view, "distance": asdict(_distance(*distance))}
        for loader, distance in whole.items()
        for stage, view in (("whole", "train"), ("whole", "eval"), ("resize", "train"))
    ]
    verdicts = [
        {"loader": loader, "stated": [0.25, 32] if mean else [0.0, 0], "passed": True,
         "in_order": True, "cause": "resize" if mean else "nothing"}
        for loader, (mean, _) in whole.items()
    ]  # fmt: skip
    content = {
        "config": {}, "environment": ENVIRONMENT, "seconds": 9.1, "images": 245, "passed": True,
        "rows": rows, "verdicts": verdicts,
        "worst": [{"loader": "dali", "view": "train", "name": "ants/1.jpg", "mean": 0.9}],
        "stock": [{"name": "ffcv", "evaluation": asdict(_distance(4.6, 209)), "crops": [],
                   "photos": [], "sharpness": 1.02}],
    }  # fmt: skip
    path = _write(folder / "pixels.json", content)
    path.with_name("pixels.png").write_bytes(make_png(60, 20))
    return folder


def write_accuracy(folder: Path) -> Path:
    """An `accuracy.json`; returns its folder."""
    names = ("torchvision", "ffcv", "dali", "stock")
    curve = tuple(1.2 * 0.9**step for step in range(16))
    losses = {name: tuple(tuple(loss + 1e-4 * (name == "dali") for loss in curve)
                          for _ in range(4)) for name in names}  # fmt: skip
    controls = tuple(tuple(loss + 2e-3 for loss in curve) for _ in range(2))
    accuracies = {
        trained: {evaluated: tuple(99 + 0.1 * ((seed + names.index(trained)) % 3)
                                   for seed in range(4)) for evaluated in names}
        for trained in names
    }  # fmt: skip
    findings = judge(
        losses, controls, accuracies, reference=names[0], baseline=names[-1], margin=1.0
    )
    result = AccuracyResult(
        passed=findings.passed,
        config={"seeds": 4, "batch_size": 64, "margin": 1.0, "weights": "warm"},
        environment=ENVIRONMENT, seconds=90.0, reference=names[0], baseline=names[-1],
        loaders=names, left_out=(), start="a body trained here first", train_images=1000,
        eval_images=200, steps=16, dtype="bfloat16", control_dtype="float32", findings=findings,
        losses=losses, control_losses=controls, accuracies=accuracies,
    )  # fmt: skip
    return _write(folder / "accuracy.json", asdict(result)).parent


def write_evaluation(folder: Path, classes: int = 4) -> Path:
    """An `evaluation.json` with its picture; returns its folder."""
    confusion = [
        [40 - 3 * at if at == to else at for to in range(classes)] for at in range(classes)
    ]
    right, samples = sum(confusion[at][at] for at in range(classes)), sum(map(sum, confusion))
    rows = [
        {"name": f"class {at}", "precision": 0.9, "recall": 0.8, "f1": 0.95 - 0.07 * at,
         "support": sum(confusion[at]), "predicted": 40}
        for at in range(classes)
    ]  # fmt: skip
    content = {
        "format": "fastft-evaluation", "version": 1, "config": {}, "environment": ENVIRONMENT,
        "checkpoint": {}, "data": "data/test.beton", "loader": "ffcv", "batch_size": 64,
        "device": "cpu", "dtype": "float32", "seconds": 1.5,
        "samples": samples, "right": right, "accuracy": right / samples,
        "interval": list(wilson_interval(right, samples)), "plain_accuracy": None, "loss": 0.61,
        "macro_f1": 0.8, "classes": rows,
        "confused": [{"truth": "class 3", "predicted": "class 1", "count": 3, "share": 0.07}],
        "confusion": confusion, "top_losses": [],
    }  # fmt: skip
    path = _write(folder / "evaluation.json", content)
    path.with_name("top_losses.png").write_bytes(make_png(40, 30))
    return folder


#: Each writes a source of one kind.
WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "bench": write_bench,
    "suite": lambda folder: write_suite(folder / "suite.json").parent,
    "run": write_run,
    "comparison": write_comparison,
    "sweep": write_sweep,
    "pixels": write_pixels,
    "accuracy": write_accuracy,
    "evaluation": write_evaluation,
}


def make_png(width: int, height: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x99" * width) * height)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def edit(path: Path, change: Callable[[Json], object]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _write(path: Path, content: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _benchmark(
    group: str,
    contender: str,
    img_per_s: float | None,
    cpu_ms: float | None,
    baseline: tuple[str, float, float, float] | None = None,
    **extra: Any,
) -> Json:
    info: Json = {**({"contender": contender} if contender else {}), **extra}
    if img_per_s is not None:
        info["img_per_s"] = img_per_s
    if cpu_ms is not None:
        info["cpu_ms_per_image"] = cpu_ms
    if baseline is not None:
        name, rate, cpu, ratio = baseline
        info |= {"baseline": name, "baseline_img_per_s": rate, "baseline_cpu_ms_per_image": cpu,
                 "ratio": ratio, "ratio_range": [0.9 * ratio, 1.1 * ratio]}  # fmt: skip
    stats = {"min": 0.9, "median": 1.0, "max": 1.2, "iqr": 0.1, "rounds": 7}
    name = f"bench/bench_it.py::test_{group.partition(':')[0]}"
    return {"group": group, "fullname": name, "stats": stats, "extra_info": info}


def _variant(name: str, accuracy: float, lr: float = 0.01) -> Variant:
    def run(seed: int) -> Run:
        reached = accuracy + 0.02 * math.sin(3.0 * seed + 10 * accuracy)
        row = EpochMetrics(
            epoch=0, size=64, train_loss=0.5, train_accuracy=0.9, eval_loss=0.6,
            eval_accuracy=reached, img_per_s=500.0, wait_s=0.1, train_s=1.0, eval_s=0.2,
        )  # fmt: skip
        return Run(seed=seed, epochs=(row,), seconds=1.5)

    return Variant(name=name, lr=lr, head_lr_factor=10.0, runs=tuple(map(run, range(4))))


def _distance(mean: float, most: int) -> Distance:
    return Distance(
        images=245, mean=mean, most_but_0_1_percent=most // 2, most=most,
        psnr_db=52.1 if mean else None, exact=0.84 if mean else 1.0,
    )  # fmt: skip
