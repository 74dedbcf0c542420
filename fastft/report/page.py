"""`fastft report`: what other commands left, as one HTML page that needs nothing else.

Knows which sections there are and how the page is written; the sections' own modules know what is
in them. The same sources give the same bytes: there is no date on the page but the sources' own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastft import __version__
from fastft.report.loaders import ceilings_section, speed_keys, throughput_section
from fastft.report.parts import Key, Section
from fastft.report.proof import (
    evaluation_section,
    machine_section,
    parity_section,
    proof_keys,
)
from fastft.report.sources import Sources, read_sources
from fastft.report.suites import growth_section
from fastft.report.training import training_keys, training_section
from pipelines.atomic import write_whole
from pipelines.errors import DataError, UsageError, one_line

_GENERATOR = "fastft report"
#: The tag stands within so many bytes from the start.
_HEAD_BYTES = 2048
_TEMPLATES = files("fastft.report") / "templates"


@dataclass(frozen=True, slots=True)
class Page:
    """The content of a page.

    Attributes:
        title: at its head.
        sources: names of what it was made from.
        keys: the figures of the strip below the title.
        sections: from the top.
    """

    title: str
    sources: tuple[str, ...]
    keys: tuple[Key, ...]
    sections: tuple[Section, ...]


def write_report(paths: Sequence[Path], out: Path, title: str = "") -> Page:
    """Write the page of some runs and benchmarks.

    Args:
        paths: folders and JSON files of other commands.
        out: the file to write; an earlier page there is replaced.
        title: by default what the page is of.

    Raises:
        UsageError: `out` is something else than an earlier page, or a path holds nothing for one.
        DataError: a source that cannot be read or is not as fastft wrote it, or a page that cannot
            be written.
    """
    check_out(out)
    page = make_page(read_sources(paths), title)
    try:
        write_whole(out, render(page))
    except OSError as error:
        reason = (error.strerror or "cannot be written").lower()
        raise DataError(out, reason, "a file to write") from error
    return page


def check_out(out: Path) -> None:
    """Refuse to replace what is no page of ours.

    Raises:
        UsageError: it is something else.
    """
    if out.is_dir():
        raise UsageError("--out", f"{out} is a folder", "a file to write", "name another")
    if not out.exists():
        return
    with open(out, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if f'<meta name="generator" content="{_GENERATOR} '.encode() not in head:
        found = f"{out} is no page of fastft report"
        raise UsageError("--out", found, "a new file or an earlier page", "name another")


def make_page(found: Sources, title: str = "") -> Page:
    """Lay out what was found."""
    sections = (
        throughput_section(found.benches, found.suites),
        ceilings_section(found.benches),
        growth_section(found.suites),
        parity_section(found.pixels, found.models),
        training_section(found.runs, found.experiments),
        evaluation_section(found.evaluations),
        machine_section([(each.name, each.environment) for each in found.all]),
    )
    keys = (
        *speed_keys(found.benches, found.suites),
        *proof_keys(found.pixels, found.models, found.evaluations),
        *training_keys(found.runs, found.experiments),
    )
    sources = tuple(dict.fromkeys(each.name for each in found.all))
    return Page(
        title=one_line(title) or _title(sources),
        sources=sources,
        keys=keys,
        sections=tuple(each for each in sections if each is not None),
    )


def render(page: Page) -> str:
    """The page as HTML.

    Its own style and script are named by their hashes, so that a browser runs and applies nothing
    else, whatever the sources may hold.
    """
    style, script = _read("page.css"), _read("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_read("page.html")).render(
        page=page, policy=policy, style=Markup(style), script=Markup(script),
        generator=f"{_GENERATOR} {__version__}",
    ) + "\n"  # fmt: skip


def _title(sources: Sequence[str]) -> str:
    few = ", ".join(sources[:3])
    return few if len(sources) <= 3 else f"{few} and {len(sources) - 3:,} more"


@cache
def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
