"""What is made of the suites' JSON: README's table, and the comparison with a stored run."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import against, results_table

FACTS = {
    "photos": "synthetic",
    "images": 1024,
    "mean_px": 190_000,
    "mean_bytes": 44_000,
    "cores": 2,
}
MACHINE = {
    "system": "Linux", "machine": "x86_64", "python": "3.11.7", "cpu": "A Processor", "cores": 2,
    "versions": {"torch": "2.14.1", "timm": None},
}  # fmt: skip


def entry(group: str, name: str = "", **info: Any) -> dict[str, Any]:
    return {
        "group": group, "fullname": f"bench/{group}::{name or info.get('contender')}",
        "stats": {"median": 0.2134}, "extra_info": info,
    }  # fmt: skip


def duel(group: str, contender: str, baseline: str, ratio: float, **info: Any) -> dict[str, Any]:
    return entry(
        group, f"{contender}/{baseline}", contender=contender, img_per_s=1000 * ratio,
        baseline=baseline, baseline_img_per_s=1000.0, ratio=ratio,
        ratio_range=[ratio - 0.1, ratio + 0.1], **info,
    )  # fmt: skip


def loader(name: str, img_per_s: float, reads: str = "jpeg", **to: list[float]) -> dict[str, Any]:
    side = "fastft" if name.startswith("fastft") else "stock"
    return entry(
        "loaders: train 224 px", contender=name, side=side, reads=reads, img_per_s=img_per_s,
        ratio_to={key.replace("_", " "): value for key, value in to.items()},
    )  # fmt: skip


def field(ratio: float = 1.5) -> list[dict[str, Any]]:
    low, high = ratio - 0.1, ratio + 0.1
    pillow = {"torchvision, Pillow": [3 * ratio, 3 * low, 3 * high]}
    ffcv = loader("fastft ffcv", 2289.5, FFCV=[ratio, low, high], fastft_dali=[2, 1.9, 2.1])
    dali = loader("fastft dali", 1100, FFCV=[ratio, low, high], fastft_ffcv=[0.5, 0.4, 0.6])
    for ours in (ffcv, dali):
        ours["extra_info"]["ratio_to"] |= pillow
    return [
        ffcv,
        dali,
        loader("FFCV", 1412.9, fastft_ffcv=[1 / ratio, 1 / high, 1 / low], timm=[2, 1, 3]),
        loader("FFCV, raw", 2800, "pixels"),
        loader("torchvision, Pillow", 713),
    ]


def results(*entries: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {
        "machine_info": MACHINE, "datetime": "2026-11-21T10:00:00+00:00", "photos": FACTS,
        "benchmarks": list(entries), **top,
    }  # fmt: skip


def save(path: Path, found: Any) -> Path:
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def rows_of(text: str) -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[2:]}


CONVERT = duel("convert", "fastft convert", "ffcv DatasetWriter", 5.079)


def test_a_duel_row_shows_ratio_and_range():
    rows = rows_of(results_table.render([results(CONVERT)]))
    assert rows == {
        "convert, every image checked": [
            "5,080 img/s", "ffcv DatasetWriter: 1,000 img/s", "5.08 (4.98 - 5.18)",
        ]
    }  # fmt: skip


def test_real_photos_stand_in_brackets_whatever_comes_first():
    real = results(
        duel("convert", "fastft convert", "ffcv DatasetWriter", 4.8),
        photos={**FACTS, "photos": "hymenoptera", "images": 384},
    )
    alone = results(
        duel("merge", "fastft merge", "cp", 0.4), entry("merge", contender="cp", img_per_s=1.0)
    )
    text = results_table.render([real, results(CONVERT), alone])
    rows = rows_of(text)
    assert rows["convert, every image checked"] == [
        "5,080 img/s [4,800 img/s]",
        "ffcv DatasetWriter: 1,000 img/s [1,000 img/s]",
        "5.08 (4.98 - 5.18) [4.80 (4.70 - 4.90)]",
    ]
    assert rows["`merge` of shards"] == ["400 img/s", "cp: 1,000 img/s", "0.40 (0.30 - 0.50)"]
    assert "In brackets the same on 384 real (hymenoptera) photos" in text
    assert "of a Slow one" not in text
    real["machine_info"] = {**real["machine_info"], "cpu": "a Slow one"}
    assert "DIR` on 2026-11-21; 2 cores of a Slow one)." in results_table.render(
        [real, results(CONVERT)]
    )
    assert "[" not in results_table.render([real])


def test_first_file_wins_over_duplicates():
    other = results(duel("convert", "fastft convert", "ffcv DatasetWriter", 9))
    rows = rows_of(results_table.render([results(CONVERT), other]))
    assert rows["convert, every image checked"][0] == "5,080 img/s"


def test_loaders_meet_the_best_stock_peer():
    verdict = {
        "what": "best / best", "ours": "fastft ffcv", "theirs": "FFCV", "ratio": 1.6, "low": 1.5,
        "high": 1.7, "goal": 1.4,
    }  # fmt: skip
    rows = rows_of(results_table.render([results(*field(), verdicts=[verdict])]))
    assert rows.pop("loader `dali`")[0] == "1,100 img/s"
    assert rows == {
        "loader `ffcv`": [
            "2,290 img/s",
            "FFCV: 1,410 img/s; torchvision, Pillow: 713 img/s",
            "FFCV: 1.50 (1.40 - 1.60); torchvision, Pillow: 4.50 (4.20 - 4.80)",
        ],
        "best / best: goal 1.4": [
            "fastft ffcv: 2,290 img/s", "FFCV: 1,410 img/s", "1.60 (1.50 - 1.70)",
        ],
    }  # fmt: skip


def test_every_other_group_has_its_words():
    started = [
        {"contender": name, "side": side, "first_batch_s": made_s, "process_s": 2 * made_s}
        for name, side, made_s in (
            ("fastft ffcv", "fastft", 0.07), ("FFCV", "stock", 7.0), ("DALI", "stock", 0.2),
        )
    ]  # fmt: skip
    grown = [
        entry(
            "growth", f"{name}{samples}{workers}", contender=name, side=side, samples=samples,
            workers=workers, img_per_s=5000.0 - samples / 100, peak_rss_bytes=10**9 + samples,
            first_batch_s=0.5,
        )
        for name, side in (("fastft ffcv", "fastft"), ("FFCV", "stock"))
        for samples in (1000, 100_000)
        for workers in (1, 2)
    ]  # fmt: skip
    text = results_table.render(
        [
            results(
                duel("decode to RGB, one core", "fastft decoder", "Pillow", 1.4),
                duel("decode to RGB, one core", "fastft decoder", "SPDL", 2.6),
                entry("kernel", "test_one_core[rgb]", img_per_s=9316,
                      memory_allows_img_per_s=30_422, share_of_memory_roofline=0.306),
                duel("training step, ResNet-18", "fastft step", "plain", 2.0, batch=16, size=224),
                duel("training step when fed: share of the compute bound", "fed by fastft dali",
                     "the step alone", 0.94),
                entry("start-up", contenders=started),
                entry("start-up of commands", command="fastft --help", seconds=0.51),
                entry("plan", contender="train, 1.28 M samples", img_per_s=6e6),
                entry("memory", contender="stock ffcv", peak_bytes_with_large=2 * 10**9),
                entry("memory", contender="fastft ffcv", peak_bytes_with_large=10**9,
                      ratio_to_stock_ffcv=0.5),
                *grown,
            )
        ]
    )  # fmt: skip
    rows = rows_of(text)
    assert rows["JPEG to RGB alone, one core"] == [
        "1,400 img/s",
        "Pillow: 1,000 img/s; SPDL: 1,000 img/s",
        "Pillow: 1.40 (1.30 - 1.50); SPDL: 2.60 (2.50 - 2.70)",
    ]
    assert rows["`resident`'s kernel alone, one core"][2] == "rgb: 0.31"
    assert rows["training step, ResNet-18, batches of 16 at 224 px"][0] == "2,000 img/s"
    assert rows["the same, fed by a loader: share of the step's own speed"][2] == (
        "`dali`: 0.94 (0.84 - 1.04)"
    )
    assert rows["first batch of a second process, all imported: seconds, share of FFCV's"] == [
        "`ffcv`: 0.07 s", "FFCV: 7 s; DALI: 0.2 s", "`ffcv`: 0.01",
    ]  # fmt: skip
    assert rows["plan of 1.28 M samples, one core"][0] == "`train`: 0.21 s"
    assert rows["peak memory, one 24-megapixel photo among them"] == [
        "`ffcv`: 1,000 MB", "stock ffcv: 2,000 MB", "`ffcv`: 0.50",
    ]  # fmt: skip
    assert rows["100,000 small photos (in parentheses 1,000), 2 workers: images/s"][:2] == [
        "`ffcv`: 4,000 (4,990)", "FFCV: 4,000 (4,990)",
    ]  # fmt: skip
    assert all(line.count("|") == 5 for line in text.splitlines() if line.startswith("|"))


def test_missing_groups_are_left_out():
    text = results_table.render([results(CONVERT)])
    assert "growth" not in text
    assert "torch 2.14.1" in text
    assert "timm" not in text
    for found in (
        "2 cores of A Processor",
        "2026-11-21",
        "1,024 synthetic photos",
        "./dev results",
    ):
        assert found in text
    assert rows_of(results_table.render([results(photos={})])) == {}


def test_written_between_the_markers_and_nowhere_else(tmp_path: Path):
    path = save(tmp_path / "a.json", results(CONVERT))
    readme = tmp_path / "README.md"
    before, after = "# Title\n\n<!-- results -->", "<!-- /results -->\n\nthe rest\n"
    readme.write_text(f"{before}\nold\n{after}")
    for _ in range(2):
        assert results_table.main([str(path), "--write", str(readme)]) == 0
        text = readme.read_text()
        assert text.startswith(f"{before}\n<!-- of {path} -->\n\n| what |")
        assert text.endswith(f"\n{after}")
        assert text.count("5.08") == 1
        assert "old" not in text
    assert sorted(os.listdir(tmp_path)) == ["README.md", "a.json"]


@pytest.mark.parametrize("text", ["no markers", "<!-- /results -->\n<!-- results -->\n"])
def test_without_markers_nothing_is_written(text: str, tmp_path: Path, capsys: Any):
    path = save(tmp_path / "a.json", results(CONVERT))
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert results_table.main([str(path), "--write", str(readme)]) == 1
    assert readme.read_text() == text
    assert capsys.readouterr().err.count("\n") == 1


BROKEN = {
    "no file": None,
    "no JSON": "{",
    "a list": "[]",
    "no benchmarks": "{}",
    "benchmarks of another kind": '{"benchmarks": 3}',
    "no figures": '{"benchmarks": [{"group": "convert"}]}',
    "half a ratio": '{"benchmarks": [{"extra_info": {"ratio": 2, "baseline": "x"}}]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("program", ["table", "against"])
def test_a_broken_file_is_one_line(
    program: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content)
    good = save(tmp_path / "good.json", results(CONVERT))
    if program == "table":
        assert results_table.main([str(path)]) == 1
    else:
        assert against.main([str(good), str(path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "broken.json: " in err


def test_a_benchmark_that_lacks_something_is_one_line(tmp_path: Path, capsys: Any):
    del (entries := field())[0]["extra_info"]["reads"]
    assert results_table.main([str(save(tmp_path / "a.json", results(*entries)))]) == 1
    assert "a.json: a benchmark lacks 'reads'" in capsys.readouterr().err


# --- against a stored run ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        (2.0, 1.7, against.SLOWER),
        (2.0, 2.3, against.FASTER),
        (2.0, 1.85, ""),
        (2.0, 2.15, ""),
    ],
)
def test_a_change_counts_beyond_both_ranges(then: float, now: float, verdict: str):
    for entries in (lambda ratio: [duel("convert", "a", "b", ratio)], field):
        changes = against.compare(results(*entries(then)), results(*entries(now)))
        assert len(changes) in (1, 4)
        assert [change.verdict for change in changes] == [verdict] * len(changes)
        assert all(change.factor == pytest.approx(now / then) for change in changes)


def test_only_ours_beside_the_libraries_own_are_compared():
    changes = against.compare(results(*field()), results(*field()))
    assert [(each.contender, each.other) for each in changes] == [
        (ours, theirs)
        for ours in ("fastft ffcv", "fastft dali")
        for theirs in ("FFCV", "torchvision, Pillow")
    ]


def test_those_that_started_by_turns_are_compared():
    def started(ratio: float) -> dict[str, Any]:
        mine = {"contender": "fastft ffcv", "side": "fastft", "ratio_to": {"FFCV": [ratio] * 3}}
        return results(entry("start-up", contenders=[mine, {"contender": "FFCV", "side": "stock"}]))

    (change,) = against.compare(started(90), started(45))
    assert (change.contender, change.other) == ("fastft ffcv", "FFCV")
    assert change.verdict == against.SLOWER


def test_incomparable_entries_are_skipped():
    then = results(CONVERT, duel("merge", "a", "b", 1), duel("x", "a", "b", float("nan")))
    now = results(CONVERT, duel("plan", "a", "b", 1), duel("x", "a", "b", 1))
    assert [change.group for change in against.compare(then, now)] == ["convert"]


@pytest.mark.parametrize(
    ("now", "below", "status"),
    [(1.5, None, 0), (1.5, 0.8, 1), (1.7, 0.8, 0), (1.85, 0.99, 0), (2.6, 0.8, 0)],
)
def test_command_fails_only_on_request(
    now: float, below: float | None, status: int, tmp_path: Path, capsys: Any
):
    paths = [
        str(save(tmp_path / f"{name}.json", results(duel("convert", "a", "b", ratio))))
        for name, ratio in (("old", 2.0), ("new", now))
    ]
    asked = [] if below is None else ["--fail-below", str(below)]
    assert against.main([*paths, *asked]) == status
    out = capsys.readouterr().out
    assert f"{now / 2:.2f}x" in out
    assert (against.SLOWER in out) == (now < 1.8)
    assert (f"{status} of 1 have fallen" in out) == (below is not None)


def test_other_photos_are_named(tmp_path: Path, capsys: Any):
    old = save(tmp_path / "old.json", results(CONVERT, photos={**FACTS, "images": 384}))
    new = save(tmp_path / "new.json", results(CONVERT))
    none = save(tmp_path / "none.json", results())
    assert against.main([str(old), str(new)]) == 0
    assert "384 images" in capsys.readouterr().out
    assert against.main([str(none), str(new), "--fail-below", "0.8"]) == 1
    assert "no benchmark" in capsys.readouterr().out


class Config(SimpleNamespace):
    """Pytest's, as far as it is asked."""

    def getoption(self, name: str) -> Any:
        return self.options[name]


def session(then: Path | None, below: float | None, ratio: float, status: int = 0) -> Any:
    measured = [SimpleNamespace(**duel("convert", "a", "b", ratio))]
    config = Config(
        options={"against": then, "fail_below": below}, stash={},
        _benchmarksession=SimpleNamespace(benchmarks=measured),
    )  # fmt: skip
    return SimpleNamespace(config=config, exitstatus=status)


@pytest.mark.parametrize(
    ("below", "ratio", "status", "expected"),
    [(None, 1.0, 0, 0), (0.8, 1.0, 0, 1), (0.8, 1.9, 0, 0), (0.8, 1.0, 2, 2)],
)
def test_suites_fail_only_on_request(
    below: float | None, ratio: float, status: int, expected: int, tmp_path: Path
):
    then = save(tmp_path / "then.json", results(duel("convert", "a", "b", 2.0)))
    run = session(then, below, ratio, status)
    against.prepare(run.config)
    against.judge(run, FACTS)
    assert run.exitstatus == expected
    lines: list[str] = []
    reporter = SimpleNamespace(section=lines.append, write_line=lines.append)
    against.show(reporter, run.config, FACTS)
    assert lines[0] == "ratios against then.json"
    assert any(f"{ratio / 2:.2f}x" in line for line in lines)


def test_incomparable_results_are_refused_before_the_run(tmp_path: Path):
    with pytest.raises(pytest.UsageError, match=r"none\.json: No such file"):
        against.prepare(session(tmp_path / "none.json", None, 1).config)
    with pytest.raises(pytest.UsageError, match="without --against"):
        against.prepare(session(None, 0.8, 1).config)
    quiet = session(None, None, 1)
    against.prepare(quiet.config)
    against.judge(quiet, FACTS)
    against.show(SimpleNamespace(), quiet.config, FACTS)
    assert quiet.exitstatus == 0
