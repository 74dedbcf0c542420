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
from effort import choose
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
from fastft.report.sources import read_sources
from fastft.results.svg import draw_svg
from fastft.results.tables import Exhibit, Table
from fastft.runs.result import read_run, thin_losses
from pipelines.errors import DataError, UsageError

#: Of each kind, the sections that it has.
SECTIONS = {
    "bench": ["bench"],
    "suite": ["suites"],
    "run": ["training"],
    "comparison": ["experiments"],
    "sweep": ["experiments"],
    "pixels": ["parity"],
    "accuracy": ["models"],
    "evaluation": ["evaluation"],
}


def page_of(*sources: Path, title: str = "") -> Page:
    return make_page(read_sources(sources), title)


def tables(page: Page, anchor: str) -> dict[str, list[list[str]]]:
    """Title -> rows of texts, of all tables of a section."""
    section = next(each for each in page.sections if each.anchor == anchor)
    found = [b.table if isinstance(b, Exhibit) else b for b in section.blocks]
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
    bench = tables(page, "bench")
    assert bench["Loaders, images/s"][1] == [
        "resident, 2",
        "13,744",
        "9,621",
        "\u2013",
        "45",
        "18,120",
        "76 %",
        "kernel",
    ]
    assert bench["What they take"][1] == [
        "resident, 2",
        "0.139 ms",
        "1.14 GB",
        "43,657",
        "1.10 s",
        "0.330 s",
    ]
    (stages,) = (rows for title, rows in bench.items() if title.startswith("Each stage alone"))
    assert stages[0] == ["storage, cold cache", "\u2013", "the data lie in memory"]
    assert len(stages) == 8
    suites = tables(page, "suites")
    assert suites["Against other libraries"][0] == [
        "convert, every image checked",
        "4,120 img/s",
        "FFCV's DatasetWriter: 826 img/s",
        "5.08 (4.57 - 5.59)",
    ]
    assert [row[0] for row in suites["Loaders"]] == [name for name, *_ in GROWING]  # fastest first
    assert suites["Loaders"][0][3:] == ["3.20", "3.20", "3.20"]
    assert suites["What was aimed at"][2][3:] == ["0.92", "0.83 \u2013 1.01", "0.95", "missed"]
    assert suites["Other benchmarks"] == [
        ["a contender", "a group of its own", "12", "another", "1.20"]
    ]
    assert len(suites["By number of samples"]) == 30
    goals = next(key for key in page.keys if key.unit == "goals")
    assert goals.figure == "2 of 3"
    parity = tables(page, "parity")
    assert parity["Loaders"][3] == ["dali", "passed", "mean 0.25, at most 32", "resize"]
    (distances,) = (rows for title, rows in parity.items() if "245 images" in title)
    assert ["dali", "whole", "train", "0.162", "6", "13", "52.1", "84.000%"] in distances
    (models,) = (rows for title, rows in tables(page, "models").items() if "accuracy, p" in title)
    assert models[0][-1].startswith("equivalent, p")
    training = tables(page, "training")
    assert training["Runs"][0][:5] == ["run", "6", "72", "0.670", "6"]
    assert training["Runs"][0][-1] == "ended"
    assert len(training["Epochs"]) == 6
    assert ["lr", "0.01"] in training["Settings"]
    gains = tables(page, "experiments")["comparison: Variants"]
    assert [row[3][:5] for row in gains] == ["", "+23.8", "+8.9 "]
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
    exhibit = next(each for each in section.blocks if isinstance(each, Exhibit))
    assert "Evaluation accuracy" in [panel.title for panel in exhibit.panels]
    for panel in exhibit.panels:
        assert re.findall(r">(a|b)</text>", draw_svg(panel)) == ["a", "b"]


@pytest.mark.parametrize(("epochs", "steps"), [(0, 6), (1, 18)])
def test_a_run_that_was_left(epochs: int, steps: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", epochs=epochs, ends=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epo')  # it was killed while it wrote
    found = read_run(run)
    assert (len(found.epochs), len(found.steps), found.summary) == (epochs, steps, None)
    assert thin_losses(found.steps)[-1][0] == (1.0 if not epochs else 1.5)
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
    lines[-1] = json.dumps({**last, "eval_loss": float("nan")})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    edit(bench / "bench.json", lambda c: c["loaders"][0].update(ceiling_img_per_s=10**400))
    page = page_of(run, bench)
    assert tables(page, "training")["Epochs"][-1][4] == "\u2013"
    assert tables(page, "bench")["Loaders, images/s"][0][5] == "\u2013"
    assert "nan" not in render(page).lower()


@pytest.mark.parametrize("picture", [b"GIF89a", make_png(30_000, 1)[:60], b""])
def test_a_picture_that_is_none_is_left_out(picture: bytes, tmp_path: Path) -> None:
    folder = write_pixels(tmp_path / "parity")  # with one that is shown, see below
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
def whole(report: Path) -> str:
    """A page of every kind of source."""
    return report.read_text(encoding="utf-8")


def test_a_page_needs_nothing_else(whole: str) -> None:
    for tag, attributes in Tags(whole).found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "image")
        for name in ("href", "src", "srcset", "action", "xlink:href"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:image/png;base64,")) or not value
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert not re.search(r"url\((?!#)|@import|://", whole)
    assert whole.count('src="data:image/png;base64,') == 2  # of parity, of an evaluation


def test_the_policy_names_its_style_and_script(whole: str) -> None:
    policy = next(a["content"] for t, a in Tags(whole).found if "http-equiv" in a) or ""
    for name in ("style", "script"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", whole, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    kinds = choose(("bench", "pixels", "evaluation"), WRITERS)
    sources = [WRITERS[kind](tmp_path / kind) for kind in kinds]
    write_report(sources, tmp_path / "a.html")
    code = (
        "import sys; from pathlib import Path; from fastft.report.page import write_report; "
        "write_report([Path(each) for each in sys.argv[2:]], Path(sys.argv[1])); "
        "print({'torch', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "b.html", *sources],
        env={"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
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
    assert text.count("&lt;script&gt;") >= 3
    text.encode()


def test_an_earlier_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    pixels, out = write_pixels(tmp_path / "pixels"), tmp_path / "report.html"
    write_report([pixels], out)
    first = out.read_bytes()
    write_report([pixels], out, "another")
    assert out.read_bytes() != first
    out.write_text("<!doctype html><p>fastft report</p>")
    with pytest.raises(UsageError, match="is no page of fastft report"):
        write_report([pixels], out)
    assert "<p>" in out.read_text()
    with pytest.raises(UsageError, match="is a folder"):
        write_report([pixels], pixels)


def test_an_unwritable_page_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a file to write"):
        write_report([write_pixels(tmp_path / "a")], tmp_path / "file" / "report.html")


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
