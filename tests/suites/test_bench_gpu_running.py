"""`bench.gpu` as a whole: its runs and their limits, what is kept of them, its table."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loader_kinds import wait_until
from rich.console import Console

from bench.gpu import __main__ as command
from bench.gpu import (
    augmented,
    end_to_end,
    loaders,
    parts,
    pixels,
    running,
    steady,
    steps,
    table,
)
from bench.gpu.parts import PARTS, PHOTOS, RUN_LIMIT_S, RUNS, Part, choose, sum_of_limits
from bench.gpu.rows import ROWS
from pipelines.errors import DataError

TASK = replace(command.make_task(Path("nowhere"), rehearse=True), device="cuda", times=3)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_ends_within_nine_minutes(run: str) -> None:
    chosen = choose(RUNS[run])
    assert chosen[0] is PHOTOS
    assert sum_of_limits(chosen) <= 540
    assert RUN_LIMIT_S <= 540


def test_runs_have_every_part_once() -> None:
    assert sorted(name for run in RUNS.values() for name in run) == sorted(
        part.name for part in PARTS
    )


def test_limit_is_startup_plus_three_times_expected() -> None:
    part = Part(name="x", seconds=10, times=3, processes=2, variants=("a", "b"), apart=True)
    assert part.limit_s == 3 * (2 * parts.START_UP_S + 3 * 10)
    assert part.limit_in_all_s == 2 * part.limit_s
    assert all(each.limit_s >= parts.START_UP_S + 3 * each.seconds for each in PARTS)


def test_the_limits_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["bench.gpu", "--limits"])
    assert command.main() == 0
    said = capsys.readouterr().out
    for run, names in RUNS.items():
        assert f"run {run}: {sum_of_limits(choose(names)):.0f} s at most, of 540" in said
    assert all(f"  {part.name} " in said for part in PARTS)


class Children:
    """Takes `run_child`'s place: writes what each process is to find, and ends as it is to end."""

    def __init__(self, path: Path, found: dict[str, list[Any]], end: dict[str, Any]) -> None:
        self.path, self.found, self.end = path, found, end
        self.limits: list[tuple[str, float]] = []
        self.tasks: list[dict[str, Any]] = []

    def __call__(self, module: str, arguments: list[str], limit_s: float) -> dict[str, Any]:
        self.limits.append((module, limit_s))
        task = json.loads(arguments[0])
        self.tasks.append(task)
        with open(task["rows"], "a") as rows:
            for variant in task["variants"]:
                for found, done in self.found.get(variant, []):
                    line = {"variant": variant, "found": found, "done": done}
                    rows.write(json.dumps(line) + "\n")
                    rows.flush()
                    self.await_kept(module.rpartition(".")[2], variant, found)
        return self.end

    def await_kept(self, section: str, variant: str, found: Any) -> None:
        """The JSON has what was found while the process still runs."""

        def is_kept() -> bool:
            if not self.path.exists():
                return False
            kept = json.loads(self.path.read_text())["parts"]
            return bool(kept.get(section, {}).get(variant) == found)

        wait_until(is_kept, lambda: f"{variant} was not kept")


def run(
    children: Children, chosen: tuple[Part, ...], folder: Path, monkeypatch: Any, **options: Any
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    monkeypatch.setattr(running, "run_child", children)
    monkeypatch.setattr(running, "_LOOK_S", 0.01)
    results: dict[str, Any] = {"parts": options.pop("before", {}), "seconds": {}}
    told: list[tuple[str, str]] = []
    running.run_parts(
        chosen, options.pop("task", TASK), folder, results, children.path,
        budget_s=options.pop("budget_s", 1e6),
        tell=lambda section, variant, found: told.append((section, variant)),
    )  # fmt: skip
    assert json.loads(children.path.read_text()) == results
    return results, told


def test_a_part_that_is_ended_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"a": [({"n": 1}, False), ({"n": 2}, True)], "b": [({"n": 3}, False)]}
    children = Children(tmp_path / "x.json", found, {"failed": "took longer than 5 s"})
    part = Part(name="x", seconds=1, variants=("a", "b", "c"))
    results, told = run(children, (part,), tmp_path, monkeypatch)
    assert results["parts"]["x"] == {
        "a": {"n": 2}, "b": {"n": 3, "failed": "took longer than 5 s"},
        "c": {"failed": "took longer than 5 s"},
    }  # fmt: skip
    assert told == [("x", "a"), ("x", "b"), ("x", "c")]
    assert children.limits == [("bench.gpu.x", parts.START_UP_S + 3)]


def test_parts_apart_have_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {name: [({"n": 1}, True)] for name in "ab"}
    children = Children(tmp_path / "x.json", found, {})
    part = Part(name="y", module="x", seconds=1, variants=("a", "b"), apart=True, times=3)
    before = {"x": {"a": {"failed": "of an earlier run"}, "z": {"n": 9}}}
    results, _ = run(children, (part,), tmp_path, monkeypatch, before=before)
    assert results["parts"]["x"] == {"a": {"n": 1}, "b": {"n": 1}, "z": {"n": 9}}
    assert [task["variants"] for task in children.tasks] == [["a"], ["b"]]
    assert {task["times"] for task in children.tasks} == {3}
    assert set(results["seconds"]) == {"y a", "y b"}


def test_what_there_is_no_time_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(tmp_path / "x.json", {}, {})
    part = Part(name="x", seconds=100, variants=("a", "b"))
    results, _ = run(children, (part,), tmp_path, monkeypatch, budget_s=50)
    assert not children.limits
    assert {each["failed"] for each in results["parts"]["x"].values()} == {
        f"not begun: 50 s left, {100 + parts.START_UP_S:.0f} expected"
    }


def test_a_budget_cuts_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(tmp_path / "x.json", {"": [({"n": 1}, True)]}, {})
    run(children, (Part(name="x", seconds=100),), tmp_path, monkeypatch, budget_s=150)
    ((_, limit_s),) = children.limits
    assert 149 < limit_s <= 150


def test_without_photos_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(tmp_path / "x.json", {}, {"failed": "no room"})
    results, _ = run(children, (PHOTOS, Part(name="x", seconds=1)), tmp_path, monkeypatch)
    assert results["parts"]["x"][""] == {"failed": "not begun: no photos: no room"}
    assert [module for module, _ in children.limits] == ["bench.gpu.photos"]


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    seen: list[Any] = []
    rows = running.Rows(tmp_path / "rows", lambda *row: seen.append(row))
    line = json.dumps({"variant": "a", "found": {"n": 1}, "done": True}) + "\n"
    (tmp_path / "rows").write_text(line + line[:9])
    rows.read()
    assert len(seen) == 1
    (tmp_path / "rows").write_text(line + line)
    rows.read()
    assert seen == [("a", {"n": 1}, True)] * 2


def test_every_part_has_rows_and_a_module() -> None:
    sections = {part.section for part in (PHOTOS, *PARTS)}
    assert sections == set(ROWS)
    for section in sections:
        assert callable(importlib.import_module(f"bench.gpu.{section}").main)
    variants = {part.name: part.variants for part in PARTS}
    assert variants["steps"] == tuple(steps.WAYS)
    assert variants["pixels"] == pixels.VARIANTS
    assert variants["steady"] == steady.VARIANTS
    assert variants["augmented"] == augmented.VARIANTS
    ended = [each for part in PARTS if part.section == "end_to_end" for each in part.variants]
    assert tuple(ended) == end_to_end.VARIANTS


def results() -> dict[str, Any]:
    """Such as a run leaves that measured each part once, and failed in one."""
    distance = {"mean": 0.2, "most": 9}
    rows = [{"stage": "whole", "view": "train", "distance": distance}]
    batch = {"batch": 256, "img_per_s": 9000.0, "cores": 3.0, "gpu_bytes": 10**9, "clocks": {}}
    call = {"cudaMalloc in thread 1": {"per_step": 0.25, "ms_per_step": 0.1}}
    costs = {"imports": 4.0, "curves": 0.5}
    ended = {"seconds": 10.0, "run_s": 4.0, "train_s": [0.5], "eval_s": [0.25], "accuracy": 0.9,
             "costs_s": costs}  # fmt: skip
    tutorial = {"seconds": 55.0, "epochs_s": [9.0], "imported_s": 3.0, "accuracy": 0.9}

    def turns(*rates: float) -> dict[str, Any]:
        rest = {"waited_s": 0.1, "seconds": 1.0, "cores": 2.0}
        rounds = [{"img_per_s": each, **rest} for each in rates]
        return {"rounds": rounds, "first_batch_s": 2.0}

    same = {"images": 0, "labels": 0, "levels": 0.0}
    off = {"mean": 0.0002, "most": 1, "passed": True}
    return {
        "what": "gpu", "date": "2026-01-02", "rehearsal": False, "seconds": {"all": 400.0},
        "machine": {"environment": {"gpu": "NVIDIA H200", "cpus": 16}, "cuda": "13.0",
                    "driver": {"driver_version": "580.1"}},
        "parts": {
            "photos": {"": {"photos": 2000, "draw_s": 2.0}},
            "probe": {"": {"ways": {
                "whole, fancy": {"failed": "", "img_per_s": 9000.0, "cpu_ms": 0.2, "mean": 0.2,
                                 "most": 9},
                "region, plain": {"failed": "crashed: SIGSEGV"}}, "takes_regions": False}},
            "suite": {"": {"tests": 9, "passed": 6, "skipped": 1, "failures": {"a": "assert 1"},
                           "running": "b", "not_collected": {}, "failed": "took longer"}},
            "corruption": {
                "ffcv": {"outputs": {"uint8": {"corrupt": [], "passes": {"slow": same}}}},
                "dali": {"outputs": {"uint8": {"corrupt": ["slow"], "passes": {"slow": same}}}}},
            "machine": {"": {"bytes_per_s": {"within_device": 4e12}}},
            "pixels": {"dali": {"rows": rows, "verdicts": [{"stated": None, "passed": True}]}},
            "kernel": {"": {"rows": [
                {"store": "rgb", "dtype": "bf16", "batch": 1024, "img_per_s": 2.5e6,
                 "bytes_per_s": 1e12, "share_of_copy": 0.25}]}},
            "changing": {"": {"copied_bytes_per_s": 4e12, "rows": [
                {"asked": "rand", "batch": 1024, "passes": 2, "bytes_per_image": 600_000,
                 "img_per_s": [3e6, 2e6, 1e6], "whole": off, "operation": off},
                {"asked": "jitter", "batch": 1024, "img_per_s": []}]}},
            "augmented": {"resident": {"batch": 256, "steps": 40, "contenders": {
                augmented.NOTHING: turns(100, 200, 300),
                "rand": {**turns(80, 100, 180), "check": {**off, "passed": False}},
                "mixup": {"rounds": []}}}},
            "steps": {f"{steps.OURS}, eager": {"rows": [batch]},
                      f"{steps.OURS}, compiled": {"rows": [{**batch, "img_per_s": 9900.0}]},
                      "fp32, eager": {"rows": [batch]}},
            "fed": {"large batch": {"batch": 256, "steps": 40, "contenders": {
                        "bound": turns(100, 200, 300), "resident": turns(90, 200, 240),
                        "ffcv": {"rounds": [], "missing": "not installed"}},
                        "clocks": {"sm_mhz": {"median": 1700, "max": 1980}},
                        "trainer": {"loader": "resident", "img_per_s": [180.0, 200.0],
                                    "waited_s": [0.0], "train_s": [2.0], "settings": {}}},
                    "small batch": {"failed": "crashed: SIGSEGV"}},
            "loaders": {"dali": {"rows": [batch]},
                        loaders.STOCK_DALI: {"rows": [{**batch, "img_per_s": 4500.0}]},
                        loaders.SWEEP: {"rows": [{**batch, "hw_decoder_load": 0.9}]}},
            "end_to_end": {"resident": {"epochs": 5, "runs": [ended, {**ended, "seconds": 11.0}]},
                           end_to_end.TUTORIAL: {"epochs": 5, "runs": [tutorial]}},
            "startup": {"resident": {"epochs": 1, "runs": [{**ended, "costs_s": {}}]}},
            "steady": {"dali": {"busy_share": 0.97, "gaps": {"count": 3, "share": 0.02},
                                "synchronizing": {}, "allocating": call}},
        },
    }  # fmt: skip


def test_table_shows_results_and_failures() -> None:
    rows = {
        what: (figure, beside, goal)
        for what, figure, beside, goal in table.find_rows(results()["parts"])
    }
    assert rows["fed small batch"] == ("failed", "crashed: SIGSEGV", "")
    assert rows["DALI decodes: whole, fancy"][0] == "9,000 img/s"
    assert rows["DALI decodes: region, plain"][1] == "crashed: SIGSEGV"
    assert rows["tests for a GPU"][0] == "6 of 9 passed"
    assert "ended in b" in rows["tests for a GPU"][1]
    assert rows["slow caller of ffcv"][0] == "no batch changed"
    assert rows["slow caller of dali"][0] == "CORRUPT"
    bound = rows["compute bound, batch 256"]
    assert bound[0] == "200 (100 to 300) img/s"
    assert "1,700 MHz (at most 1,980)" in bound[1]
    share = rows["training through `resident`, batch 256, share of the bound"]
    assert share[::2] == ("0.900 (0.800 to 1.000)", "0.99")
    assert rows["training through `ffcv`, batch 256, share of the bound"][0] == "not here"
    assert rows["`fastft train`, `resident`, batch 256, share of the bound"][0] == "0.950"
    whole = rows["process start to checkpoint, `resident`"]
    assert whole[::2] == ("10.5 (10.0 to 11.0) s", "5x the tutorial's: 5.2")
    assert "imports 4.00, curves 0.50" in whole[1]
    assert "told no costs" in rows["first training with `resident`"][1]
    step = rows["training step, bf16, channels_last, batch 256: eager / compiled"]
    assert step[:2] == ("9,000 / 9,900 img/s", "compiled: 1.100 of eager")
    assert rows["`dali` alone, batches of 256"][2] == "1.0x stock DALI: 2.00"
    assert rows["fused kernel, rgb to bf16, batches of 1024"][0] == "2.50 M img/s"
    alone = rows["operations alone, rand, batches of 1024"]
    assert alone[::2] == ("2.00 M img/s", "the definition's pixels")
    assert "passes: 2; 30% of what copies allow; levels off: one operation mean 0.0002" in alone[1]
    assert rows["`resident`, nothing asked, batch 256"][0] == "200 (100 to 300) img/s"
    share = rows["`resident`, rand, batch 256, share of nothing asked"]
    assert share[::2] == ("0.600 (0.500 to 0.800)", "the definition's pixels: MISSED")
    assert "2.0 cores; levels off: mean 0.0002, most 1" in share[1]
    assert "0.2 allocations by the driver" in rows["GPU busy, trained through `dali`"][1]
    text = table.as_markdown(results())
    assert "NVIDIA H200, driver 580.1" in text
    assert text.count("\n| ") == len(rows) + 1
    shown = Console(record=True, quiet=True, width=300)
    shown.print(table.as_table(results()))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{", "no JSON"), ('{"what": "x"}', "JSON of something else")],
)
def test_another_json_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=said):
        table.read_results(tmp_path / "x.json")


def test_two_runs_make_one_table() -> None:
    first, second = results(), results()
    second["parts"] = {"fed": {"small batch": {"failed": "again"}}, "kernel": {}}
    merged = table.merge([first, second], [Path("a"), Path("b")])
    assert merged["parts"]["fed"]["small batch"] == {"failed": "again"}
    assert "large batch" in merged["parts"]["fed"]
    assert merged["seconds"]["all"] == 800
    second["machine"] = {"environment": {"gpu": "NVIDIA H100"}}
    with pytest.raises(DataError, match="b: NVIDIA H100, expected NVIDIA H200, as in a"):
        table.merge([first, second], [Path("a"), Path("b")])


def test_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def status(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["bench.gpu", *map(str, arguments)])
        return command.main()

    with pytest.raises(SystemExit, match="2"):
        status(tmp_path, "--only", "kernel,nothing")
    assert "expected parts out of probe, suite" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        status("--run", "1")
    assert "expected one folder" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert status(tmp_path) == 2
    assert "sees no CUDA GPU" in capsys.readouterr().err
    assert status(tmp_path / "x.json", "--table") == 1
    (tmp_path / "x.json").write_text(json.dumps(results()))
    (tmp_path / "README.md").write_text(f"a\n{table.BEGIN}\nof before\n{table.END}\nb\n")
    assert status(tmp_path / "x.json", "--table", "--write", tmp_path / "README.md") == 0
    text = (tmp_path / "README.md").read_text()
    assert "of before" not in text
    assert "NVIDIA H200" in text


def test_a_second_run_adds_to_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def status(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["bench.gpu", *map(str, arguments)])
        return command.main()

    seen: list[list[str]] = []

    def run_parts(parts: tuple[Part, ...], *arguments: Any, **_: Any) -> None:
        seen.append([part.name for part in parts])
        for part in parts:
            arguments[2]["parts"][part.section] = {"": {"failed": part.name}}

    monkeypatch.setattr(command, "run_parts", run_parts)
    assert status(tmp_path, "--rehearse", "--only", "kernel") == 1
    assert status(tmp_path, "--rehearse", "--run", "2") == 1
    (file,) = tmp_path.iterdir()
    assert seen == [["photos", "kernel"], [part.name for part in choose(RUNS["2"])]]
    assert {"kernel", "end_to_end", "startup"} <= set(json.loads(file.read_text())["parts"])
    file.write_text("{")
    assert status(tmp_path, "--rehearse", "--only", "kernel") == 1
