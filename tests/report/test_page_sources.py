"""What `fastft report` recognizes, and what of it is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import find_overlaps
from effort import choose
from pages import WRITERS, Json, edit, write_evaluation, write_run, write_suite, write_sweep
from tiny import make_tiny

from fastft.report.page import Page, make_page, write_report
from fastft.report.sources import read_sources
from fastft.results.plots import Panel
from fastft.results.tables import Exhibit
from fastft.runs.result import read_run, thin_losses
from pipelines.errors import DataError, FormatError, UsageError


def test_a_run_brings_its_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation")
    found = read_sources([run])
    assert [(each.kind, each.name) for each in found] == [("run", "run"), ("evaluation", "run")]


@pytest.mark.usefixtures("undrawn")
def test_what_the_commands_write_is_read(
    data: Path,
    tmp_path: Path,
    fastft: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_tiny(monkeypatch)
    run, parity = tmp_path / "run", tmp_path / "parity"
    train = ("--data", data, "--out", run, "--weights", "none", "--arch", "shufflenet_v2_x0_5")
    small = ("--size", "40", "--batch-size", "16", "--workers", "1", "--epochs", "1")
    assert fastft("train", *train, *small, "--loader", "torchvision", "--seed", "3")[0] == 0
    assert fastft("evaluate", run, "--data", data)[0] == 0
    loaders = ("--loaders", "torchvision", "--images", "4", "--size", "40")
    assert fastft("parity", data, "--out", parity, *loaders)[0] == 0
    found = read_sources([run, parity])
    assert [each.kind for each in found] == ["run", "evaluation", "pixels"]
    trained, judged, compared = (each.parts for each in found)
    assert trained[0].settings.config["seed"] == 3
    assert trained[0].summary.bottleneck.verdict
    assert judged[0].samples == 6
    assert compared[1] is not None
    drawn = every_panel(make_page(found))[: choose(1, 99)]
    assert all(find_overlaps(panels) == [] for panels in drawn)


def every_panel(page: Page) -> list[tuple[Panel, ...]]:
    blocks = [block for section in page.sections for block in section.blocks]
    return [block.panels for block in blocks if isinstance(block, Exhibit)]


def test_a_folder_of_suites_is_all_of_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_suite(tmp_path / "results" / f"{name}.json")
    assert [each.name for each in read_sources([tmp_path / "results"])] == ["one", "two"]


def test_sources_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "x" / "run"),
        write_run(tmp_path / "y" / "run"),
        write_sweep(tmp_path / "swept"),
    ]
    found = read_sources([*paths, paths[0]])
    assert [each.name for each in found] == ["x/run", "y/run", "swept"]


def test_losses_of_many_steps_are_thinned_to_means(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", epochs=2, of=1000)
    found = thin_losses(read_run(run).steps)
    assert len(found) <= 240
    assert found[-1][0] == 2.0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "step"][:9]
    assert found[0][1] == pytest.approx(sum(losses) / len(losses))


def drop(*way: Any) -> Callable[[Json], None]:
    def change(content: Any) -> None:
        for step in way[:-1]:
            content = content[step]
        del content[way[-1]]

    return change


def put(value: Any, *way: Any) -> Callable[[Json], None]:
    def change(content: Any) -> None:
        for step in way[:-1]:
            content = content[step]
        content[way[-1]] = value

    return change


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("bench", drop("stages"), "bench.json: stages: missing"),
        (
            "bench",
            put("fast", "loaders", 1, "img_per_s"),
            "bench.json: loaders[1]: img_per_s: the text 'fast', expected a valid number;",
        ),
        ("bench", put(True, "loaders", 0, "img_per_s"), "the value true, expected a valid number"),
        ("bench", put(2.5, "loaders", 0, "workers"), "expected a valid integer"),
        ("bench", put([], "recommendation"), "recommendation: a list, expected an object"),
        ("bench", put([3], "skipped"), "skipped[0]: the value 3, expected an object"),
        ("bench", put(None, "stages", 0, "label"), "stages[0]: label: null, expected a valid str"),
        ("bench", put(2, "version"), "version: the value 2, expected 1"),
        ("suite", put(7, "benchmarks"), "benchmarks: the value 7, expected a valid array"),
        ("suite", drop("benchmarks", -1, "extra_info", "samples"), "a benchmark lacks 'samples'"),
        (
            "suite",
            put(["a"], "benchmarks", 0, "extra_info", "ratio_range"),
            "ratio_range[0]: the text 'a', expected a valid number",
        ),
        ("comparison", drop("variants", 0, "runs"), "variants[0]: runs: missing"),
        ("comparison", put([], "variants"), "expected variants, each of a run"),
        ("comparison", put([], "variants", 1, "runs", 0, "epochs"), "expected variants, each of a"),
        ("sweep", put("x", "best", "scratch"), "best: scratch: the text 'x', expected a valid"),
        ("sweep", put(0.1, "best", "nothing"), "expected a best rate of each start"),
        ("pixels", put(1, "verdicts", 0, "passed"), "passed: the value 1, expected a valid bool"),
        ("pixels", put({}, "rows", 3, "distance"), "rows[3]: distance: images: missing"),
        ("accuracy", drop("findings", "curves"), "findings: curves: missing"),
        ("accuracy", drop("losses", "stock"), "figures do not belong together (KeyError: 'stock')"),
        ("evaluation", put([[1, 2], [3, 4]], "confusion"), "a confusion matrix of 4 rows"),
        ("evaluation", put([[1, "a"]], "confusion"), "confusion[0][1]: the text 'a', expected"),
        ("evaluation", put(9, "version"), "version: the value 9, expected 1"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    kind: str, change: Callable[[Json], None], message: str, tmp_path: Path
) -> None:
    folder = WRITERS[kind](tmp_path / "source")
    path = next(folder.glob("*.json"))
    edit(path, change)
    with pytest.raises(DataError) as raised:
        write_report([folder], tmp_path / "report.html")
    assert str(raised.value).startswith((f"{path}: ", "source: "))
    assert message in str(raised.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind": "step", "epoch": 0}', "metrics.jsonl:2: step: missing"),
        ('{"kind": 3}', "metrics.jsonl:2: not a row of metrics"),
        ('{"kind": "epoch", "epoch": true}', "metrics.jsonl:2: epoch: the value true"),
        ("[1]", "metrics.jsonl:2: not a row of metrics"),
        ('{"kind": "step"', "metrics.jsonl:2: not JSON"),
    ],
)
def test_a_wrong_row_of_metrics_is_named(line: str, message: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=re.escape(message)):
        read_sources([run])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "JSON of nothing that a page shows, expected a folder or JSON of fastft train"),
        (b'{"kind": ["fastft bench"]}', "JSON of nothing that a page shows"),
        (b"\xff\xfe", "not JSON, expected a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "a list in JSON, expected an object"),
        (b"", "not JSON"),
    ],
)
def test_what_is_no_source_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(content)
    with pytest.raises((FormatError, UsageError), match=re.escape(f"{path}: {message}")):
        read_sources([path])


def test_folders_of_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: an empty folder, expected a folder or JSON"):
        read_sources([tmp_path / "empty"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="other: holds nothing that a page shows"):
        read_sources([tmp_path / "other"])
    with pytest.raises(DataError, match=r"absent: no such file or directory"):
        read_sources([tmp_path / "absent"])
