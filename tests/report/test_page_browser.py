"""The page of `fastft report` as a browser shows it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from effort import choose
from pages import WRITERS, edit, write_bench, write_evaluation, write_run, write_suite

from fastft.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WIDTHS = (360, 768, 1440)
#: A name that would run a script, end a tag or a style, and turn the line round.
HOSTILE = "<script>pwned=1</script>\"'><img src=x onerror=pwned=1></style>{{7*7}}\u202e\x00 %"

#: Texts of charts that stand out of their panel or upon each other, and what is too wide.
FIND_CLASHES = """() => {
  const found = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) found.push(`the page is ${wide} px wide`);
  for (const panel of document.querySelectorAll(".panel")) {
    const edge = panel.getBoundingClientRect();
    const texts = [...panel.querySelectorAll("svg text")]
      .map((text) => [text.lastChild.textContent, text.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0);
    if (!texts.length) found.push("a chart without text");
    texts.forEach(([name, box], at) => {
      if (box.left < edge.left - 1 || box.right > edge.right + 1
          || box.top < edge.top - 1 || box.bottom > edge.bottom + 1)
        found.push(`'${name}' stands out`);
      for (const [other, its] of texts.slice(at + 1)) {
        // Boxes are a line high, letters less.
        const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        if (across > 1 && down > 4) found.push(`'${name}' lies upon '${other}'`);
      }
    });
  }
  return found;
}"""

#: Figures of charts that their table does not hold, and how many were looked for.
FIND_UNTOLD = """() => {
  let count = 0;
  const untold = [];
  for (const figure of document.querySelectorAll("figure:has(svg)")) {
    const told = [...figure.querySelectorAll("td, th")].map((cell) => cell.textContent).join(" ");
    const numbers = new Set(told.match(/[\\d.,]+/g));
    for (const each of figure.querySelectorAll(".value")) {
      const shown = each.textContent.replace("+", "").match(/\\d[\\d.,]*/g) || [];
      count += shown.length;
      untold.push(...shown.filter((number) => !numbers.has(number.replace(/,$/, ""))));
    }
  }
  return [count, untold];
}"""

#: The contrast of every text, and of every mark of a chart, to what is behind it.
FIND_CONTRASTS = """() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const light = (color) => {
    if (!known.has(color)) known.set(color, look(color));
    return known.get(color);
  };
  const look = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, alpha] = context.getImageData(0, 0, 1, 1).data;
    const linear = [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return alpha && 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return light(color);
    }
    return 1;
  };
  const contrast = (element, property) => {
    const [a, b] = [light(getComputedStyle(element)[property]), behind(element)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const texts = [...document.body.querySelectorAll("*")].filter((element) =>
    element.checkVisibility() && !(element instanceof SVGElement) && element.tagName !== "SCRIPT"
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  const found = texts.map((each) => ["text", each.textContent, contrast(each, "color")]);
  // The matrix of models has cells of its own behind its numbers.
  for (const each of document.querySelectorAll("svg :not(.cell) > text"))
    found.push(["text", each.textContent, contrast(each, "fill")]);
  for (const property of ["fill", "stroke"])
    for (const each of document.querySelectorAll(`svg [class*="${property}-s"]:not([opacity], `
                                                 + `[${property}-opacity])`))
      found.push(["mark", each.outerHTML.slice(0, 80), contrast(each, property)]);
  return found;
}"""

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page in a window; what it says, asks for or stumbles over ends the test."""
    contexts, troubles = [], []

    def open_(path: Path, width: int = 1440, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        # Its own pictures are requests, too, of what is in the page.
        troubles.extend(url for url in requests[1:] if not url.startswith("data:image/png;"))
        assert requests[0] == path.as_uri()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page of all there can be, opened once, and what it stumbled over since."""
    context, troubles = browser.new_context(), list[str]()
    page = context.new_page()
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url))
    page.goto(report.as_uri())
    troubles[:] = [each for each in troubles[1:] if not each.startswith("data:image/png;")]
    yield page, troubles
    context.close()


@pytest.fixture
def page(opened: tuple[Any, list[str]]) -> Any:
    """It, as it is first seen, in a wide window; what it says or asks for ends the test."""
    page, troubles = opened
    page.set_viewport_size({"width": 1440, "height": 900})
    page.emulate_media(media="screen", color_scheme="light")
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = false))")
    yield page
    assert troubles == []


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of very many and very long things."""
    folder = tmp_path_factory.mktemp("crowded")
    long = "a name that goes on and on, without_a_break_in_its_later_part_which_is_long"
    runs = [write_run(folder / f"{long}{at}", epochs=at + 1) for at in range(8)]
    bench = write_bench(folder / "bench")
    names = iter(range(100))

    def lengthen(content: dict[str, Any]) -> None:
        for row in content["loaders"]:
            row.update(loader=f"{next(names)} {long}", img_per_s=1e-3, binds=long)
        content["loaders"][0]["img_per_s"] = 123_456_789_012.0
        content["stages"][1].update(label=long, img_per_s=4e11)

    edit(bench / "bench.json", lengthen)
    suites = [
        write_suite(folder / name / "s.json", factor=factor, growth=factor == 1)
        for name, factor in (("x", 1), *choose((), (("y", 99),)))
    ]
    for suite in suites:
        edit(
            suite,
            lambda content: [
                row["extra_info"].update(samples=1_100)
                for row in content["benchmarks"]
                if row["extra_info"].get("samples") == 10_000
            ],
        )
    evaluation = write_evaluation(folder / "evaluation", classes=13)
    write_report([*runs, bench, *suites, evaluation], folder / "crowded.html", long)
    return folder / "crowded.html"


def look_for_clashes(page: Any) -> None:
    found = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        found[width] = page.evaluate(FIND_CLASHES)
    assert found == {width: [] for width in WIDTHS}


def test_all_is_in_its_place(page: Any) -> None:
    look_for_clashes(page)


def test_what_is_crowded_is_in_its_place(crowded: Path, open_page: Open) -> None:
    look_for_clashes(open_page(crowded))


def test_all_sections_are_visible_and_listed(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 900})
    titles = [
        "Speed here",
        "Benchmarks",
        "Parity",
        "Models",
        "Training",
        "Experiments",
        "Evaluation",
        "Machine and versions",
    ]
    assert page.locator("section > h2").all_inner_texts() == titles
    sizes = page.evaluate("""() => [...document.querySelectorAll(".block")]
        .map((block) => block.getBoundingClientRect()).map((box) => [box.width, box.height])""")
    assert len(sizes) > 20
    assert [size for size in sizes if size[0] < 100 or size[1] < 20] == []
    assert page.locator("nav a").all_inner_texts() == titles
    page.locator("nav a").last.click()
    assert page.locator("section:target > h2").inner_text() == titles[-1]
    assert page.evaluate("""() => [...document.querySelectorAll("nav a")]
        .every((link) => document.getElementById(link.hash.slice(1)).matches("section"))""")


def test_tables_hold_every_charted_number(page: Any) -> None:
    count, untold = page.evaluate(FIND_UNTOLD)
    assert untold == []
    assert count > 50


@pytest.mark.parametrize(("scheme", "marks"), [("light", 2.0), ("dark", 3.0)])
def test_contrast(scheme: str, marks: float, page: Any) -> None:
    """Of texts as WCAG has it, 4.5; the palette's lightest colours are 2.2 on white."""
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    found = page.evaluate(FIND_CONTRASTS)
    assert len(found) > 500
    least = {"text": 4.5, "mark": marks}
    assert [each for each in found if each[2] < least[each[0]]] == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(paper.replace("rgb(", "[").replace(")", "]"))) < 200) == (
        scheme == "dark"
    )


def test_a_table_is_sorted_by_its_heads(page: Any) -> None:
    page.locator("#bench summary").first.click()
    table = page.locator("#bench table").first
    head = table.locator("th", has=page.get_by_role("button", name="images/s", exact=True)).first
    column = head.evaluate("(cell) => cell.cellIndex")

    def values() -> list[float]:
        cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
        return [float(each.replace(",", "")) for each in cells]

    original = values()
    for order, wanted in (
        ("ascending", sorted(original)),
        ("descending", sorted(original, reverse=True)),
        (None, original),
    ):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        assert values() == wanted


def test_unknown_values_are_sorted_last(page: Any) -> None:
    stages = page.locator("#bench figure", has_text="Each stage alone")
    stages.locator("summary").click()
    head = stages.get_by_role("button", name="images/s", exact=True)
    for ends in (2, 2, 0):  # the third time they are where they were, the first one unknown
        head.click()
        shown = stages.locator("tbody tr > :nth-child(2)").all_inner_texts()
        assert len(shown) == 8
        assert shown[8 - ends :] == ["\u2013"] * ends
    assert shown[0] == "\u2013"


def test_what_sources_say_is_text_and_nothing_else(tmp_path: Path, open_page: Open) -> None:
    # Not a sweep and an accuracy, as names in them refer to each other.
    kinds = choose((), ("suite", "comparison"))
    kinds = ("bench", "run", "pixels", "evaluation", *kinds)
    sources = [WRITERS[kind](tmp_path / kind) for kind in kinds]

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {"kind", "format"}
            return {key: each if key in kept else poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        return HOSTILE if isinstance(value, str) else value

    for path in tmp_path.glob("*/*.json"):
        path.write_text(json.dumps(poison(json.loads(path.read_text()))))
    write_report(sources, tmp_path / "report.html", HOSTILE)
    page = open_page(tmp_path / "report.html", 360)
    assert page.evaluate("typeof pwned") == "undefined"
    assert page.locator("script, style").count() == 2
    assert page.locator("img").count() == 2  # the pictures of parity and evaluation
    assert "<script>pwned=1</script>" in page.locator("h1").inner_text()
    assert "49" not in page.locator("h1").inner_text()
    assert page.evaluate(FIND_CLASHES) == []


def test_without_scripts_all_can_be_read(report: Path, open_page: Open) -> None:
    page = open_page(report, 768, java_script_enabled=False)
    assert page.locator("th button").count() == 0
    page.locator("summary").first.click()
    assert page.locator("figure table").first.is_visible()


def test_what_is_folded_is_printed(page: Any) -> None:
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").is_visible()


def test_the_policy_lets_nothing_else_run_or_load(report: Path, browser: Any) -> None:
    """The checks above could not see a request if the browser made none at all."""
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(report.as_uri())
    page.evaluate("""() => {
        document.body.insertAdjacentHTML("beforeend", "<img src=x.png onerror='pwned=1'>");
        const script = document.createElement("script");
        script.textContent = "pwned = 1";
        document.body.append(script);
    }""")
    assert page.evaluate("typeof pwned") == "undefined"
    assert sum("Content Security Policy" in message for message in messages) >= 2
    page.close()
