import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import find_overlaps
from effort import SOAK_H, rest
from PIL import Image
from processes import SERVER

from fastft.bench import run as bench
from fastft.bench import worker as gauge
from fastft.bench.plots import bench_panels
from fastft.bench.result import Bench
from fastft.bench.run import TABLE
from fastft.config.bench import CONTENDERS, BenchConfig
from fastft.config.checks import defaults
from fastft.results.read import check
from fastft.system import isolated as child
from pipelines.formats.beton import read_index

Run = Callable[..., tuple[int, str, str]]

STAGES = {
    "read_cold": 2000.0,
    "read_warm": 50_000.0,
    "decode_one_core": 1000.0,
    "decode_all_cores": 2000.0,
    "kernel_one_core": 4000.0,
    "kernel_all_cores": 8000.0,
    "copy_to_device": None,
    "model_step": 100.0,
}
LOADER = {
    "img_per_s": 800.0,
    "first_epoch_img_per_s": 400.0,
    "cpu_s_per_image": 0.00123,
    "peak_rss_bytes": 10**9,
    "import_s": 2.0,
    "first_batch_s": 0.5,
}
Answers = dict[str, dict[str, Any]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """The answers of processes, by loader (empty: the stages); `tasks` lists what they were."""
    stages = [
        {"name": name, "label": name.replace("_", " "), "img_per_s": rate, "note": "about it"}
        for name, rate in STAGES.items()
    ]
    found: Answers = {name: dict(LOADER) for name in CONTENDERS}
    found[""] = {"stages": stages}
    found["tasks"] = {"all": []}

    def run_child(module: str, arguments: list[str], limit_s: float) -> dict[str, Any]:
        assert module == "fastft.bench.worker"
        task = json.loads(arguments[0])
        found["tasks"]["all"].append(task)
        if task["cold"] and task["loader"]:
            return {key: 321.0 if key.startswith("first_epoch") else 1.0 for key in LOADER}
        return found[task["loader"]]

    monkeypatch.setattr(bench, "run_child", run_child)
    monkeypatch.setattr(bench, "evict", lambda files: 0.0)
    return found


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command leaves an empty picture: drawing takes longer than all else."""
    monkeypatch.setattr(bench, "save_panels", lambda panels, out, heading: out.write_bytes(b""))


def measured(answers: Answers) -> list[tuple[str, int, bool]]:
    tasks = answers["tasks"]["all"]
    return [(task["loader"], task["workers"], task["cold"]) for task in tasks if task["loader"]]


def test_the_json_has_what_reports_read(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, text, _ = fastft("bench", data, "--out", out, "--workers", 2, "--device", "cpu")
    assert status == 0
    found = json.loads((out / "bench.json").read_text())
    assert list(found) == [
        "kind",
        "version",
        "environment",
        "config",
        "data",
        "seconds",
        "stages",
        "loaders",
        "skipped",
        "recommendation",
    ]
    assert (found["kind"], found["version"]) == ("fastft bench", 1)
    assert found["config"]["workers"] == [2]
    index = read_index(data / "train.beton")
    assert found["data"].keys() == {
        "path",
        "images",
        "classes",
        "mean_px",
        "mean_bytes",
        "stored_bytes",
    }
    assert (found["data"]["images"], found["data"]["classes"]) == (33, 3)
    areas = index.widths.astype(int) * index.heights
    assert found["data"]["mean_px"] == round(areas.mean())
    assert found["data"]["mean_bytes"] == round(index.sizes.mean())
    assert found["data"]["stored_bytes"] == index.sizes.sum()
    assert [stage["name"] for stage in found["stages"]] == list(STAGES)
    assert [row["loader"] for row in found["loaders"]] == list(CONTENDERS)
    row = found["loaders"][2]
    assert row == {
        **LOADER,
        "loader": "ffcv",
        "workers": 2,
        "cold_img_per_s": 321.0,
        "train_img_per_s": 88.9,
        "bytes_per_image": found["data"]["mean_bytes"],
        "binds": "decode_all_cores",
        "ceiling_img_per_s": 1600.0,
        "share_of_ceiling": 0.5,
    }
    resident = found["loaders"][-1]
    assert resident["binds"] == "kernel_all_cores"
    assert resident["bytes_per_image"] == pytest.approx(3 * areas.mean(), rel=0.01)
    assert (found["skipped"], found["recommendation"]["loader"]) == ([], "torchvision")
    assert found["recommendation"]["line"] in text
    assert found["recommendation"]["reason"] in text
    with Image.open(out / "bench.png") as picture:
        assert picture.format == "PNG"
    assert {path.name for path in out.iterdir()} == {"bench.json", "bench.png"}


@pytest.mark.usefixtures("unpictured")
def test_each_worker_count_is_tried(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path
) -> None:
    loaders = "resident,ffcv,resident"
    status, text, _ = fastft(
        "bench", data, "--out", tmp_path, "--loaders", loaders, "--workers", "4,1,4,2"
    )
    assert status == 0
    runs = [(1, False), (2, False), (4, False), (4, True)]
    assert measured(answers) == [(name, *run) for name in ("resident", "ffcv") for run in runs]
    rows = json.loads((tmp_path / "bench.json").read_text())["loaders"]
    assert [row["cold_img_per_s"] for row in rows] == [None, None, 321.0] * 2
    assert "about" in text


@pytest.mark.usefixtures("unpictured")
def test_files_on_tmpfs_are_not_cold(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "evict", lambda files: 0.5)
    arguments = ("bench", data, "--out", tmp_path, "--loaders", "ffcv", "--workers", 1)
    assert fastft(*arguments)[0] == 0
    assert measured(answers) == [("ffcv", 1, False)]
    answers[""]["stages"][0]["img_per_s"] = None
    monkeypatch.setattr(bench, "evict", None)  # nobody asks again what the stages have found
    assert fastft(*arguments)[0] == 0
    assert json.loads((tmp_path / "bench.json").read_text())["loaders"][0]["cold_img_per_s"] is None


@pytest.mark.usefixtures("unpictured")
def test_without_cold_nothing_is_evicted(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path
) -> None:
    answers[""]["stages"][0]["img_per_s"] = None
    assert fastft("bench", data, "--out", tmp_path, "--no-cold")[0] == 0
    assert not any(task["cold"] for task in answers["tasks"]["all"])


@pytest.mark.usefixtures("unpictured")
def test_a_loader_that_fails_is_a_line(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path
) -> None:
    answers["dali"] = {"failed": "crashed: SIGSEGV"}
    answers["ffcv"] = {
        "failed": "loader 'ffcv': missing",
        "error": ["UsageError", "a", "b", "", ""],
    }
    status, text, _ = fastft("bench", data, "--out", tmp_path, "--workers", "1,2", "--no-cold")
    assert status == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["skipped"] == [
        {"loader": "ffcv", "reason": "workers 1: loader 'ffcv': missing"},
        {"loader": "dali", "reason": "workers 1: crashed: SIGSEGV"},
    ]
    assert "skipped: dali: workers 1: crashed: SIGSEGV" in text
    assert ("dali", 2, False) not in measured(answers)
    assert {row["loader"] for row in found["loaders"]} == {"stock", "torchvision", "resident"}


def test_without_any_loader_nothing_is_written(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path
) -> None:
    answers["resident"] = {"failed": "its pixels fit into no memory"}
    out = tmp_path / "out"
    status, _, error = fastft("bench", data, "--out", out, "--loaders", "resident")
    assert status == 1
    assert "no loader could be measured (its pixels fit into no memory)" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"failed": "", "error": ["UsageError", "--arch", "'x'", "a model", ""]}, 2, "--arch: 'x'"),
        ({"failed": "", "error": ["DataError", "a.jpg", "broken", "", ""]}, 1, "a.jpg: broken"),
        ({"failed": "crashed: SIGKILL"}, 1, "measuring the stages crashed: SIGKILL; take a"),
    ],
)
def test_what_ends_the_stages_ends_the_command(
    answer: dict[str, Any],
    status: int,
    message: str,
    answers: Answers,
    fastft: Run,
    data: Path,
    tmp_path: Path,
) -> None:
    answers[""] = answer
    found, _, error = fastft("bench", data, "--out", tmp_path / "out")
    assert found == status
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_no_folder_and_no_process(
    answers: Answers, fastft: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "interrupts.py").write_text(
        "import os, pathlib, signal\n"
        "def main(arguments):\n"
        f"    pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    signal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(bench, "run_child", lambda *_: child.run_child("interrupts", [], 60))
    status, _, _ = fastft("bench", data, "--out", tmp_path / "out")
    assert status == 128 + signal.SIGTERM
    assert not (tmp_path / "out").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--loaders", "ffcv,keras", "--loaders: 'keras'"),
        ("--workers", "1,x", "--workers: '1,x'"),
        ("--workers", "", "--workers: ''"),
        ("--workers", "4000", "--workers: 4000"),
        ("--seconds", "0", "--seconds: 0.0"),
        ("--size", "16", "--size: 16"),
        ("--view", "native", "--view: 'native'"),
        ("--amp", "int8", "--amp: 'int8'"),
        ("--batch-size", "0", "--batch-size: 0"),
        ("--device", "tpu", "--device: 'tpu'"),
    ],
)
def test_settings_out_of_range(
    option: str, value: str, message: str, fastft: Run, data: Path, tmp_path: Path
) -> None:
    status, _, error = fastft("bench", data, "--out", tmp_path / "out", option, value)
    assert (status, error.startswith(message)) == (2, True), error
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there(fastft: Run, tmp_path: Path) -> None:
    status, _, error = fastft("bench", tmp_path / "none.beton", "--out", tmp_path / "out")
    assert status == 1
    assert "no such file" in error


def test_every_option_has_the_configs_default() -> None:
    usual = defaults(BenchConfig)
    assert BenchConfig(data=Path("x")).workers == usual.workers == (0,)


def test_help_teaches(fastft: Run) -> None:
    status, text, _ = fastft("bench", "--help")
    assert status == 0
    assert "$ fastft bench data" in text


@pytest.mark.usefixtures("unpictured")
@pytest.mark.parametrize(
    ("workers", "model"), [("1,2,4,8", 3.4), ("2", 2e6), *rest(("2", 3.4), ("1,2,4,8", 90.0))]
)
def test_no_text_of_the_picture_covers_another(
    workers: str, model: float, answers: Answers, fastft: Run, data: Path, tmp_path: Path
) -> None:
    # The widest spread of figures, and the model's line where the longest texts are.
    answers[""]["stages"][1]["img_per_s"] = 2_345_678.0
    answers[""]["stages"][7]["img_per_s"] = model
    answers["stock"]["img_per_s"] = 3.21
    assert fastft("bench", data, "--out", tmp_path, "--workers", workers)[0] == 0
    path = tmp_path / TABLE
    heading, panels = bench_panels(check(Bench, json.loads(path.read_text()), str(path)))
    assert len(panels) == (3 if "," in workers else 2)
    assert find_overlaps(panels, heading) == []


@pytest.mark.usefixtures("unpictured")
def test_three_photos_of_one_class_end_to_end(
    fastft: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages are measured here; a loader in a process of its own, which is forked."""
    (tmp_path / "here").mkdir()

    def run_child(module: str, arguments: list[str], limit_s: float) -> dict[str, Any]:
        given = [*arguments, str(tmp_path / "here")]
        if not json.loads(arguments[0])["loader"]:
            gauge.main(given)
        elif SOAK_H:
            return child.run_child(module, arguments, limit_s)
        else:
            process = SERVER.Process(target=gauge.main, args=(given,))
            process.start()
            process.join()
            assert process.exitcode == 0
        found: dict[str, Any] = json.loads((tmp_path / "here" / child.ANSWER).read_text())
        return found

    monkeypatch.setattr(bench, "run_child", run_child)
    only = tmp_path / "photos" / "only"
    only.mkdir(parents=True)
    for number, photo in enumerate(sorted((photos / "train").rglob("*.jpg"))[:3]):
        (only / f"{number}.jpg").write_bytes(photo.read_bytes())
    out = tmp_path / "out"
    status, text, error = fastft(
        "bench",
        only.parent,
        "--out",
        out,
        "--loaders",
        "resident",
        "--size",
        40,
        "--workers",
        1,
        "--seconds",
        0.1,
        "--no-cold",
        "--arch",
        "squeezenet1_1",
    )
    assert status == 0, error
    found = json.loads((out / "bench.json").read_text())
    assert [row["loader"] for row in found["loaders"]] == ["resident"]
    for row in found["loaders"]:
        for figure in (
            "img_per_s",
            "first_epoch_img_per_s",
            "peak_rss_bytes",
            "first_batch_s",
            "ceiling_img_per_s",
            "share_of_ceiling",
        ):
            assert row[figure] > 0, figure
        assert row["import_s"] > 0 or not SOAK_H  # whoever is forked has imported all
        assert row["cpu_s_per_image"] >= 0
    assert found["skipped"] == []
    assert "skipped" not in text
    assert len(found["data"]) == 6
    assert found["data"]["images"] == 3
