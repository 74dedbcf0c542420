"""The proof on a GPU, as far as it can be tried without one."""

import importlib
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.gpu import __main__ as command
from bench.gpu import end_to_end, fed, loaders, pixels, startup, steady, steps, suite, table
from bench.gpu.task import Task, answer
from bench.gpu.timeline import merge, shared, summarize
from fastft.child import ANSWER
from pipelines.errors import DataError

needs_dali = pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI")


@pytest.fixture(scope="module")
def task(photos: Path, data: Path) -> Task:
    return Task(
        variant="", device="cpu", root=str(command.ROOT), photos=str(photos), data=str(data),
        many=str(data / "train.beton"), size=40, batches=(4, 8), batch=4, epochs=1, seconds=0.01,
        workers=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("part", "variant", "has"),
    [
        ("machine", "", {"environment", "bytes_per_s"}),
        pytest.param("probe", "", {"setup", "ways", "takes_regions"}, marks=needs_dali),
        ("pixels", "resident", {"rows", "verdicts"}),
        ("steps", "bf16, channels_last", {"rows"}),
        ("fed", "resident", {"share", "waited_s", "img_per_s"}),
        ("loaders", "resident", {"rows"}),
        ("loaders", loaders.STOCK_TORCHVISION, {"rows"}),
    ],
)
def test_a_part_measures(part: str, variant: str, has: set[str], task: Task) -> None:
    found = importlib.import_module(f"bench.gpu.{part}").measure(replace(task, variant=variant))
    assert has <= set(found)
    json.dumps(found)


def test_every_loader_and_batch_size_has_a_row(task: Task) -> None:
    found = loaders.measure(replace(task, variant="resident"))
    assert [row["batch"] for row in found["rows"]] == [4, 8]
    # So short a reading may take no tick of the processor's clock.
    assert all(row["img_per_s"] > 0 and row["cores"] >= 0 for row in found["rows"])


def test_what_a_part_raises_is_a_finding(task: Task, tmp_path: Path) -> None:
    def measure(task: Task) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    answer(measure, [task.as_json(), str(tmp_path)])
    found = json.loads((tmp_path / ANSWER).read_text())
    assert found["failed"] == "RuntimeError: CUDA error: an illegal memory access"


def kernel(begin: float, us: float, name: str = "conv") -> dict[str, Any]:
    return {"ph": "X", "cat": "kernel", "name": name, "ts": begin, "dur": us}


def host(name: str, begin: float, us: float, tid: int = 1, cat: str = "cuda_runtime") -> Any:
    return {"ph": "X", "cat": cat, "name": name, "ts": begin, "dur": us, "tid": tid}


def test_a_trace_is_summed_up() -> None:
    copy = {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "ts": 50,
            "dur": 100, "args": {"bytes": 4096}}  # fmt: skip
    found = summarize(
        [
            kernel(0, 100), kernel(90, 10, "bn"), kernel(300, 100), kernel(410, 590), copy,
            host("cudaStreamSynchronize", 100, 200), host("cudaMalloc", 500, 30, tid=2),
            host("cudaLaunchKernel", 280, 10), host("aten::to", 95, 210, cat="cpu_op"),
            {"ph": "M", "name": "process_name"},
        ],
        steps=2,
    )  # fmt: skip
    assert found["span_ms"] == 1.0
    assert found["busy_share"] == pytest.approx(0.79)
    assert found["gaps"]["count"] == 1  # that of 10 us lies between any two kernels
    assert found["gaps"]["share"] == pytest.approx(0.2)
    (gap,) = found["gaps"]["longest"]
    assert gap["us"] == 200
    assert gap["host"] == ["cudaStreamSynchronize", "aten::to"]
    (copies,) = found["copies"].values()
    assert copies == {
        "per_step": 0.5, "ms_per_step": 0.05, "bytes_per_step": 2048, "beside_kernels": 0.5,
    }  # fmt: skip
    assert found["synchronizing"] == {
        "cudaStreamSynchronize in thread 1": {"per_step": 0.5, "ms_per_step": 0.1}
    }
    assert found["allocating"] == {
        "cudaMalloc in thread 2": {"per_step": 0.5, "ms_per_step": 0.015}
    }
    assert [each["name"] for each in found["kernels"]] == ["conv", "bn"]


def test_a_trace_without_kernels_says_so() -> None:
    assert "no kernels" in summarize([host("cudaMalloc", 0, 1)], 1)["failed"]


def test_spans() -> None:
    assert merge([(5, 7), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 7)]
    assert shared((2, 6), [(0, 4), (5, 7)]) == 3


REPORT = """<?xml version="1.0"?><testsuites><testsuite tests="4">
<testcase classname="tests.test_a" name="test_x"/>
<testcase classname="tests.test_a" name="test_y[1]"><failure message="assert 3 == 4">long</failure>
</testcase>
<testcase classname="tests.test_a" name="test_z"><skipped message="no nvJPEG"/></testcase>
<testcase classname="tests.test_a" name="test_w"/></testsuite></testsuites>"""


def test_tests_are_counted() -> None:
    assert suite.read_report(REPORT) == {
        "tests": 4, "passed": 2, "skipped": 1,
        "failures": {"tests.test_a::test_y[1]": "assert 3 == 4"},
    }  # fmt: skip


def test_files_with_tests_for_a_gpu_are_found() -> None:
    tests = command.ROOT / "tests"
    found = {file.name for file in tests.glob("test_*.py") if suite._is_for_a_gpu(file)}
    assert {"test_gpu_kernel.py", "test_loaders.py", "test_saving.py"} <= found
    assert "test_plan.py" not in found


def results() -> dict[str, Any]:
    """Such as a run leaves that measured each part once, and failed in one."""
    distance = {"mean": 0.2, "most": 9}
    rows = [{"stage": "whole", "view": "train", "distance": distance}]
    batch = {"batch": 256, "img_per_s": 9000.0, "cores": 3.0, "gpu_bytes": 10**9}
    call = {"cudaMalloc in thread 1": {"per_step": 0.25, "ms_per_step": 0.1}}
    end = {"seconds": 10.0, "epochs_s": [1.0, 0.5], "accuracy": 0.9}
    return {
        "what": "gpu", "date": "2026-01-02", "rehearsal": False, "seconds": {"all": 400.0},
        "parts": {
            "probe": {"": {"ways": {
                "whole, fancy": {"failed": "", "img_per_s": 9000.0, "cpu_ms": 0.2, "mean": 0.2,
                                 "most": 9},
                "region, plain": {"failed": "crashed: SIGSEGV"}}, "takes_regions": False}},
            "machine": {"": {"environment": {"gpu": "NVIDIA H200", "cpus": 16}, "cuda": "13.0",
                             "bytes_per_s": {"within_device": 4e12}}},
            "pixels": {"dali": {"rows": rows, "verdicts": [{"stated": None, "passed": True}]}},
            "kernel": {"": {"rows": [
                {"store": "rgb", "dtype": "bf16", "batch": 1024, "img_per_s": 2.5e6,
                 "bytes_per_s": 1e12, "share_of_copy": 0.25}]}},
            "steps": {"bf16, channels_last": {"rows": [batch]}},
            "fed": {"resident": {"share": 0.995, "img_per_s": 1.0, "bound_img_per_s": 2.0,
                                 "waited_s": 0.01, "seconds": 4.0},
                    "dali": {"failed": "crashed: SIGSEGV"}},
            "loaders": {"dali": {"rows": [batch]},
                        loaders.STOCK_DALI: {"rows": [{**batch, "img_per_s": 4500.0}]},
                        loaders.SWEEP: {"rows": [{**batch, "hw_decoder_load": 0.9}]}},
            "end_to_end": {"resident": end, end_to_end.TUTORIAL: {**end, "seconds": 55.0}},
            "startup": {"resident": {when: {"items": {"import torch": 2.0}, "seconds": 4.0}
                                     for when in (startup.FIRST, startup.AGAIN)}},
            "steady": {"dali": {"busy_share": 0.97, "gaps": {"count": 3, "share": 0.02},
                                 "synchronizing": {}, "allocating": call}},
            "suite": {"": {"passed": 60, "skipped": 1, "failures": {}}},
        },
    }  # fmt: skip


def test_the_table_says_what_was_measured_and_what_failed() -> None:
    rows = {
        what: (figure, beside, goal) for what, figure, beside, goal in table.find_rows(results())
    }
    assert rows["fed dali"] == ("failed", "crashed: SIGSEGV", "")
    assert rows["DALI decodes: whole, fancy"][0] == "9,000 img/s"
    assert rows["DALI decodes: region, plain"][1] == "crashed: SIGSEGV"
    assert rows["DALI decodes from now on"][0] == "whole images"
    assert rows["training through `resident`, share of the compute bound"][::2] == ("0.995", "0.99")
    assert rows["process start to checkpoint, `resident`"][2] == "5x the tutorial's: 5.5"
    assert rows["`dali` alone, batches of 256"][2] == "1.0x stock DALI: 2.00"
    assert rows["fused kernel, rgb to bf16, batches of 1024"][0] == "2.50 M img/s"
    assert "0.2 allocations by the driver" in rows["GPU busy, trained through `dali`"][1]
    text = table.as_markdown(results())
    assert "NVIDIA H200" in text
    assert text.count("\n| ") == len(rows) + 1
    shown = Console(record=True, quiet=True, width=300)
    shown.print(table.as_table(results()))


def test_every_part_has_rows_and_a_module() -> None:
    assert {part.name for part in command.PARTS} == set(table._ROWS)
    for part in command.PARTS:
        name = command.MODULES.get(part.name, part.name)
        assert callable(importlib.import_module(f"bench.gpu.{name}").main)
    variants = {part.name: part.variants for part in command.PARTS}
    assert variants["pixels"] == pixels.VARIANTS
    assert {*variants["steps"], *variants["compiled"]} == set(steps.WAYS)
    assert variants["steady"] == steady.VARIANTS
    assert variants["fed"] == fed.VARIANTS


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{", "no JSON"), ('{"what": "x"}', "JSON of something else")],
)
def test_another_json_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=said):
        table.read_results(tmp_path / "x.json")


def test_what_there_is_no_time_for_is_said(
    tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "make_data", lambda folder, rehearse: task)
    parts = [part for part in command.PARTS if part.name in ("machine", "kernel")]
    silent = Console(quiet=True)
    found = command.run(parts, tmp_path, tmp_path / "out", silent, True, budget_s=0)
    assert {each[""]["failed"][:9] for each in found["parts"].values()} == {"not begun"}
    (file,) = (tmp_path / "out").iterdir()
    assert json.loads(file.read_text())["parts"] == found["parts"]


def test_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def status(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["bench.gpu", *map(str, arguments)])
        return command.main()

    with pytest.raises(SystemExit, match="2"):
        status(tmp_path, "--only", "kernel,nothing")
    assert "expected parts out of probe, machine" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert status(tmp_path) == 2
    assert "sees no CUDA GPU" in capsys.readouterr().err
    assert status(tmp_path / "x.json", "--table") == 1
    (tmp_path / "x.json").write_text(json.dumps(results()))
    (tmp_path / "README.md").write_text(f"a\n{table.BEGIN}\nold\n{table.END}\nb\n")
    assert status(tmp_path / "x.json", "--table", "--write", tmp_path / "README.md") == 0
    text = (tmp_path / "README.md").read_text()
    assert "old" not in text
    assert "NVIDIA H200" in text
