"""`fastft report`: what other commands left, as one HTML page that needs nothing else.

Lays out the sections that the rooms make of their results (`sources`), and writes the page. The
same sources give the same bytes: there is no date on the page but the sources' own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastft import __version__
from fastft.report.sources import SECTIONS, Source, read_sources
from fastft.results.numbers import UNKNOWN
from fastft.results.plots import Panel
from fastft.results.svg import draw_svg
from fastft.results.tables import Cell, Key, Section, Table, fold
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


def make_page(found: Sequence[Source], title: str = "") -> Page:
    """Lay out what was found.

    Raises:
        DataError: figures of a file do not belong together.
    """
    sections = []
    for kind, section in SECTIONS.items():
        chosen = [(each.name, *each.parts) for each in found if each.kind == kind]
        if chosen:
            with _telling([each.name for each in found if each.kind == kind]):
                sections.append(section(chosen))
    sections.append(_machines(found))
    shown = tuple(each for each in sections if each is not None)
    sources = tuple(dict.fromkeys(each.name for each in found))
    return Page(
        title=one_line(title) or _title(sources),
        sources=sources,
        keys=tuple(key for each in shown for key in each.keys),
        sections=shown,
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
    number = count()

    def svg(panel: Panel) -> Markup:
        return draw_svg(panel, f"chart {next(number)}")

    template = environment.from_string(_read("page.html"))
    with _telling(page.sources):
        text = template.render(
            page=page,
            svg=svg,
            policy=policy,
            style=Markup(style),
            script=Markup(script),
            generator=f"{_GENERATOR} {__version__}",
        )
    return f"{text}\n"


def _machines(found: Sequence[Source]) -> Section:
    """Machines and versions, sources with the same ones together."""
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for each in found:
        together.setdefault(tuple(each.environment.items()), []).append(each.name)
    columns = [dict(facts) for facts in together]
    heads = ("", *(", ".join(dict.fromkeys(names)) for names in together.values()))
    rows = tuple(
        (Cell(fact), *(Cell(column.get(fact) or UNKNOWN) for column in columns))
        for fact in fold([list(column) for column in columns])
    )
    title = "Machine and versions"
    return Section("machine", title, (), (Table(title, heads, rows),))


@contextmanager
def _telling(names: Sequence[str]) -> Iterator[None]:
    """Say of which sources it was whose fields have the right types, and do not fit together."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        found = f"its figures do not belong together ({type(error).__name__}: {error})"
        raise DataError(", ".join(names), found, "files as fastft wrote them") from error


def _title(sources: Sequence[str]) -> str:
    few = ", ".join(sources[:3])
    return few if len(sources) <= 3 else f"{few} and {len(sources) - 3:,} more"


@cache
def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
