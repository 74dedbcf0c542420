"""The figures of READMEs are those of the files that they name; links lead somewhere."""

import re
from pathlib import Path

import pytest

from bench import results_table

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted(
    path
    for folder in ("", "bench", "fastft", "pipelines", "tests")
    for path in (ROOT / folder).glob("**/*.md" if folder else "*.md")
)


@pytest.mark.parametrize(("name", "is_brief"), [("README.md", True), ("bench/README.md", False)])
def test_a_table_is_what_its_files_say(name: str, is_brief: bool) -> None:
    text = (ROOT / name).read_text()
    within = text.partition(results_table.BEGIN)[2].partition(results_table.END)[0]
    first, _, rest = within.strip().partition("\n")
    names = first.removeprefix(results_table.OF).removesuffix("-->").split()
    assert names
    found = [results_table.read_results(ROOT / each) for each in names]
    assert rest.strip() == results_table.render(found, is_brief=is_brief).strip()


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []
