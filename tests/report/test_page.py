"""What `fastft report` makes of its sources; how it looks, `test_page_browser` knows."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from pages import (
    GROWING,
    WRITERS,
    edit,
    make_png,
    write_bench,
    write_comparison,
    write_pixels,
    write_run,
)
from typer.testing import CliRunner

from fastft.cli.report import report
from fastft.report.page import Page, make_page, render, write_report
from fastft.report.parts import Figure, Table
from fastft.report.sources import read_sources
from pipelines.errors import DataError, UsageError

#: Of each kind, the sections that it has.
SECTIONS = {
    "bench": ["throughput", "ceilings"],
    "suite": ["throughput", "growth"],
    "run": ["training"],
    "comparison": ["training"],
    "sweep": ["training"],
    "pixels": ["parity"],
    "accuracy": ["parity"],
    "evaluation": ["evaluation"],
}


def page_of(*sources: Path, title: str = "") -> Page:
    return make_page(read_sources(sources), title)


def tables(page: Page, anchor: str) -> dict[str, list[list[str]]]:
    """Title -> rows of texts, of all tables of a section."""
    section = next(each for each in page.sections if each.anchor == anchor)
    found = [b.table if isinstance(b, Figure) else b for b in section.blocks]
    return {
        each.title: [[cell.text for cell in row] for row in each.rows]
        for each in found
        if isinstance(each, Table)
    }


@pytest.mark.parametrize("kind", WRITERS)
def test_a_source_is_known_by_what_it_holds(kind: str, tmp_path: Path) -> None:
    folder = WRITERS[kind](tmp_path / "source")
    page = page_of(folder)
    assert [each.anchor for each in page.sections] == [*SECTIONS[kind], "machine"]
    assert page.title == "source"
    assert page.keys
    assert all(section.blocks for section in page.sections)
    if kind == "run":
        assert page_of(folder / "config.json") == page
    else:  # whatever it is called
        path = next(folder.glob("*.json"))
        assert page_of(path.rename(path.with_name("source.json"))) == page


def test_the_page_shows_the_measured_numbers(tmp_path: Path) -> None:
    sources = [write(tmp_path / kind) for kind, write in WRITERS.items()]
    page = page_of(*sources)
    throughput = tables(page, "throughput")
    resident = next(row for row in throughput["Loaders"] if row[:2] == ["resident", "2"])
    assert resident == ["resident", "2", "13,744", "9,621", "\u2013", "45", "0.139 ms", "1.14 GB",
                        "1.10 s", "0.330 s", "43,657"]  # fmt: skip
    assert throughput["Convert"][0][0:2] == ["fastft convert", "4,124"]
    assert throughput["Convert"][0][6:] == ["5.08", "4.57 \u2013 5.59", "ratio >= 3", "met"]
    field = [row[0] for row in throughput["Loaders: JPEG, 2 cores"]]
    assert field == [name for name, *_ in GROWING]  # the fastest first
    family = throughput["Train 224 px, float32, normalized"]
    assert [row[-1] for row in family] == ["missed", "", ""]
    assert throughput["Start-up"][0] == ["FFCV", "6.56 s", "7.76 s"]
    assert throughput["What was aimed at"][2][3:] == ["0.92", "0.83 \u2013 1.01", "0.95", "missed"]
    assert throughput["Other measurements"] == [
        ["start-up of commands", "start-up of commands", "1.00 s", "command python, seconds 0.02"]
    ]
    goals = next(key for key in page.keys if key.unit == "goals")
    assert goals.figure == "3 of 5"
    ceilings = tables(page, "ceilings")
    assert ["read_cold" in str(row) for row in ceilings["Stages alone"]] == [False] * 8
    assert ceilings["Stages alone"][0] == ["storage, cold cache", "\u2013",
                                           "the data lie in memory"]  # fmt: skip
    assert len(tables(page, "growth")["By number of samples"]) == 30
    parity = tables(page, "parity")
    assert parity["Loaders, 245 images"][3] == ["dali", "passed", "mean 0.25, at most 16", "resize"]
    assert ["dali", "whole", "train", "0.162", "6", "13", "52.1", "84.000%"] in parity["Distances"]
    assert parity["Accuracy of the models"][0][-1] == "equivalent"
    training = tables(page, "training")
    assert training["Runs"][0][:5] == ["run", "6", "72", "0.670", "6"]
    assert training["Runs"][0][-1] == "ended"
    assert len(training["Epochs"]) == 6
    assert ["lr", "0.01"] in training["Settings"]
    gains = training["comparison: Variants"]
    assert [row[5] for row in gains] == ["", "+23.8", "+8.9"]
    evaluation = tables(page, "evaluation")
    assert evaluation["Truth, and what was predicted"][1] == ["class 1", "1", "37", "1", "1"]
    machine = tables(page, "machine")["Machine and versions"]
    assert ["torch", "2.14.1", "2.14.1"] in machine
    assert ["cpus", "2", "2"] in machine


def test_several_runs_are_laid_side_by_side(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", lr=0.02, ends=False)]
    page = page_of(*runs)
    training = tables(page, "training")
    assert training["Settings that differ"] == [["lr", "0.01", "0.02"]]
    assert "lr" not in [row[0] for row in training["Settings that all share"]]
    assert [row[-1] for row in training["Runs"]] == ["ended", "left before its end"]
    section = next(each for each in page.sections if each.anchor == "training")
    figure = next(each for each in section.blocks if isinstance(each, Figure))
    charts = {panel.title: panel.chart for panel in figure.panels}
    assert "Evaluation accuracy" in charts
    for chart in charts.values():
        assert re.findall(r"<li>.*?</svg>(.*?)</li>", chart) == ["a", "b"]


@pytest.mark.parametrize(("epochs", "steps"), [(0, 6), (1, 18)])
def test_a_run_that_was_left(epochs: int, steps: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", epochs=epochs, ends=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epo')  # it was killed while it wrote
    (found,) = read_sources([run]).runs
    assert (len(found.epochs), found.steps, found.is_whole) == (epochs, steps, False)
    assert found.losses[-1][0] == (1.0 if not epochs else 1.5)
    assert "left before its end" in render(page_of(run))


def test_a_run_without_a_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("")
    (run / "summary.json").unlink()
    assert "No step has been taken yet." in render(page_of(run))


def test_numbers_that_are_none_are_shown_as_unknown(tmp_path: Path) -> None:
    run, bench = write_run(tmp_path / "run"), write_bench(tmp_path / "bench")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    lines[-1] = json.dumps({**last, "eval_loss": float("nan"), "eval_accuracy": None})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    edit(bench / "bench.json", lambda c: c["loaders"][0].update(img_per_s=10**400, binds="gpu"))
    page = page_of(run, bench)
    trained = f"{last['train_accuracy']:.3f}"
    assert tables(page, "training")["Epochs"][-1][4:7] == ["\u2013", trained, "\u2013"]
    assert tables(page, "throughput")["Loaders"][0][2] == "\u2013"
    assert "nan" not in render(page).lower()


@pytest.mark.parametrize("picture", [b"GIF89a", make_png(30_000, 1)[:60], b""])
def test_a_picture_that_is_none_is_left_out(picture: bytes, tmp_path: Path) -> None:
    folder = write_pixels(tmp_path / "parity")
    assert 'src="data:image/png;base64,' in render(page_of(folder))
    (folder / "pixels.png").write_bytes(picture)
    assert "<img" not in render(page_of(folder))


class Tags(HTMLParser):
    """What elements and attributes a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of every kind of source."""
    folder = tmp_path_factory.mktemp("whole")
    return render(page_of(*(write(folder / kind) for kind, write in WRITERS.items())))


def test_a_page_needs_nothing_else(whole: str) -> None:
    for tag, attributes in Tags(whole).found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "use", "image")
        for name in ("href", "src", "srcset", "action", "xlink:href"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:image/png;base64,")) or not value
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert not re.search(r"url\(|@import|://", whole)


def test_the_policy_names_its_style_and_script(whole: str) -> None:
    policy = next(a["content"] for t, a in Tags(whole).found if "http-equiv" in a) or ""
    for name in ("style", "script"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", whole, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    sources = [write(tmp_path / kind) for kind, write in WRITERS.items()]
    write_report(sources, tmp_path / "a.html")
    code = "import sys; from pathlib import Path; from fastft.report.page import write_report; " \
           "write_report([Path(each) for each in sys.argv[2:]], Path(sys.argv[1])); " \
           "print({'torch', 'matplotlib', 'numba'} & set(sys.modules))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "b.html", *sources],
        env={"PYTHONHASHSEED": "7"}, cwd=Path(__file__).parents[2], capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "set()\n", done.stderr
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_texts_are_escaped(tmp_path: Path) -> None:
    comparison = write_comparison(tmp_path / "it")
    hostile = "</text><script>alert(1)</script>\"'&\u202e\n\ud800"
    edit(comparison / "compare.json", lambda c: c["variants"][1].update(name=hostile))
    edit(comparison / "compare.json", lambda c: c["environment"].update({hostile: hostile}))
    text = render(page_of(comparison, title=hostile))
    assert sum(tag == "script" for tag, _ in Tags(text).found) == 1
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;") >= 4
    text.encode()


def test_an_earlier_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "report.html"
    write_report([run], out)
    first = out.read_bytes()
    write_report([run], out, "another")
    assert out.read_bytes() != first
    out.write_text("<!doctype html><p>fastft report</p>")
    with pytest.raises(UsageError, match="is no page of fastft report"):
        write_report([run], out)
    assert "<p>" in out.read_text()
    with pytest.raises(UsageError, match="is a folder"):
        write_report([run], run)


def test_an_unwritable_page_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a file to write"):
        write_report([write_run(tmp_path / "run")], tmp_path / "file" / "report.html")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(report)
    write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "--title", "A title"], catch_exceptions=False)
    size = (tmp_path / "report.html").stat().st_size
    assert done.output == f"report.html: {size:,} bytes; training, machine and versions\n"
    assert "<h1>A title</h1>" in (tmp_path / "report.html").read_text()
    assert "fastft report run run2" in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, []).exit_code == 2
