"""The first page's picture and short table, from the suites' JSON."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from bench import results_chart, results_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "cpu_2core_2026-11-30.json"


def test_the_loaders_are_drawn(tmp_path: Path):
    out = tmp_path / "loaders.png"
    assert results_chart.main([str(RESULTS), str(out)]) == 0
    with Image.open(out) as image:
        assert image.width > 800


def test_results_without_loaders_are_refused(tmp_path: Path, capsys: Any):
    path = tmp_path / "a.json"
    whole = json.loads(RESULTS.read_text())
    path.write_text(json.dumps({**whole, "benchmarks": []}))
    assert results_chart.main([str(path), str(tmp_path / "x.png")]) == 1
    assert "no loaders in these results" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_brief_table_has_fewer_rows():
    found = [results_table.read_results(RESULTS)]
    whole, brief = (results_table.render(found, is_brief=each) for each in (False, True))
    for name in results_table.BRIEF:
        assert f"| {name} |" in whole
        assert f"| {name} |" in brief
    assert brief.count("\n| ") == len(results_table.BRIEF) + 1  # and the line beneath the head
    assert whole.count("\n| ") > 20
