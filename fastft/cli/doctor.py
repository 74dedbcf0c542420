"""The command line of `fastft doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from fastft.system.progress import make_console


def doctor(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Say what this machine is, what works here, and what installs what does not.

    Every loader decodes two small images, in a process of its own that may crash or hang (it is
    killed after 2 minutes), and its pixels are held against the reference. A note is about
    something optional, a problem is not. Both come with the command that solves them.

    Exit status 0 if torch and torchvision can be imported and at least one loader works, else 1.
    Add the output of --json to a bug report.

    Example: fastft doctor
    """
    from fastft.doctor.run import diagnose
    from fastft.doctor.tables import diagnosis_json, print_diagnosis

    # Standard output may be for a program to read.
    with Console(stderr=True).status("looking") as status:
        diagnosis = diagnose(on_trial=lambda name: status.update(f"trying {name}"))
    if json:
        print(diagnosis_json(diagnosis))
    else:
        print_diagnosis(diagnosis, make_console())
    if not diagnosis.works:
        raise typer.Exit(1)
