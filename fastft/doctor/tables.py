"""The findings of `fastft doctor` as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastft.doctor.run import Diagnosis

_GROUPS = ("machine", "versions", "loaders")
_STYLES = {"ok": "", "note": "yellow", "problem": "red"}


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """A table, then the remedies as lines to copy, then the verdict."""
    table = Table("", "", "found")
    for group in _GROUPS:
        for row in (each for each in diagnosis.findings if each.group == group):
            status = row.status
            table.add_row(escape(row.name), status, escape(row.found), style=_STYLES[status])
        table.add_section()
    console.print(table)
    # Outside of the table, which would break them.
    for row in diagnosis.findings:
        if row.remedy:
            console.print(f"{row.status}: {row.name}: {row.remedy}", markup=False)
    working = [r.name for r in diagnosis.findings if r.group == "loaders" and r.status == "ok"]
    if diagnosis.works:
        console.print(f"fastft works here, with the loaders {', '.join(working)}", markup=False)
    else:
        console.print("fastft does not work here: see the problems above", markup=False)


def diagnosis_json(diagnosis: Diagnosis) -> str:
    """One object: `works`, the rows of each group by name, and the rows that are problems."""
    groups = {
        group: {
            row.name: {"status": row.status, "found": row.found, "remedy": row.remedy}
            for row in diagnosis.findings
            if row.group == group
        }
        for group in _GROUPS
    }
    problems = [asdict(row) for row in diagnosis.problems]
    return json.dumps({"works": diagnosis.works, **groups, "problems": problems}, indent=2)
