"""README's figures are those of the files that it names."""

from pathlib import Path

from bench import results_table

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_results_is_what_its_files_say() -> None:
    text = (ROOT / "README.md").read_text()
    within = text.partition(results_table.BEGIN)[2].partition(results_table.END)[0]
    first, _, rest = within.strip().partition("\n")
    names = first.removeprefix(results_table.OF).removesuffix("-->").split()
    assert names
    found = [results_table.read_results(ROOT / name) for name in names]
    assert rest.strip() == results_table.render(found).strip()
