"""The picture of `fastft show`: a contact sheet, laid out in whole pixels.

Images are drawn pixel by pixel, never scaled again: the picture has what loaders made.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.patches import Rectangle
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from fastft.datasets.show import Cell, Sheet
from fastft.results.plots import DPI, STYLE, save_figure
from pipelines.atomic import unguessable
from pipelines.errors import DataError

#: What `save_figure` writes, dots per inch; and points per px then.
_POINTS = 72 / DPI
#: px: around all; between images, pairs, rows and classes.
_MARGIN, _GAP, _PAIR_GAP, _ROW_GAP, _BAND_GAP = 20, 12, 32, 18, 18
#: px: from the top of a heading to what it heads, and to its baseline; below an image, to the
#: baseline of its first line, and of each more.
_HEADING, _BASELINE, _FIRST_LINE, _LINE = 26, 14, 16, 14
#: Slots are no narrower, for the lines in them; nor is the sheet, for its heading; px.
_LEAST_SLOT, _LEAST_WIDTH = 96, 760
#: Points.
_TITLE_SIZE, _NAME_SIZE, _NOTE_SIZE, _LINE_SIZE = 11, 10.5, 8.5, 7.5
_INK, _GREY, _RULE = "#222222", "#666666", "#dddddd"
#: Epochs': Okabe and Ito's, as in `system.plots`, neighbours far apart.
_COLORS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
#: px: a crop's frame, a box's line and the white one below it, which no photo hides.
_FRAME, _BOX, _HALO = 3, 2, 4
#: A font that matplotlib brings, and glyphs that it has.
_FONT, _PLACEHOLDER, _ELLIPSIS = "DejaVu Sans", "\u25a1", "\u2026"


def draw_sheet(sheet: Sheet, out: Path) -> None:
    """Draw a sheet to a PNG, whole or not at all.

    Raises:
        DataError: `out` cannot be written.
    """
    lettering = Lettering(_texts(sheet))
    # Names are not ours: a `$` in them begins no formula.
    style = {**STYLE, "font.family": lettering.families, "text.parse_math": False}
    with mpl.rc_context(style):
        figure = _compose(sheet, lettering)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            prefix = unguessable(".sheet.")
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=prefix) as folder:
                save_figure(figure, Path(folder, "sheet.png"))
                os.replace(Path(folder, "sheet.png"), out)
        except OSError as error:
            reason = (error.strerror or "cannot be written").lower()
            raise DataError(out, reason, "a file to write") from error
        except DataError as error:
            raise DataError(out, error.found, error.expected) from error


class Lettering:
    """Makes text of anyone's names that can be drawn.

    Attributes:
        families: of fonts; the first one that has a glyph draws it.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Look among the system's fonts for what matplotlib's own one lacks."""
        self._missing = {c for text in texts for c in text if c.isprintable()}
        self._missing -= _glyphs(_FONT, self._missing)
        self.families = [_FONT]
        for family in _upright_families() if self._missing else ():
            if found := _glyphs(family, self._missing):
                self.families.append(family)
                self._missing -= found

    def clean(self, text: str) -> str:
        """The text with a placeholder for each character that no font has."""
        return "".join(
            c if c.isprintable() and c not in self._missing else _PLACEHOLDER for c in text
        )


def _upright_families() -> list[str]:
    """Families with an upright font of normal weight: matplotlib complains of using another."""
    normal = (400, "normal", "regular", "book")
    entries = fontManager.ttflist
    return sorted({e.name for e in entries if e.style == "normal" and e.weight in normal})


def _glyphs(family: str, characters: set[str]) -> set[str]:
    """Those of the characters that a font has."""
    if family.startswith("Last Resort"):  # it has a box for each
        return set()
    try:
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):  # it cannot be read, or not be scaled
        return set()
    return {c for c in characters if font.get_char_index(ord(c))}


class _Canvas:
    """A figure that is drawn on in pixels, counted from its upper left corner."""

    def __init__(self, width: int, height: int, lettering: Lettering) -> None:
        # A little more, since matplotlib cuts off what is below a whole pixel.
        size = (width + 0.1) / DPI, (height + 0.1) / DPI
        self.figure = Figure(figsize=size, dpi=DPI)
        self._height, self._lettering = height, lettering
        canvas: Any = FigureCanvasAgg(self.figure)  # whose renderer has no annotation
        self._renderer = canvas.get_renderer()

    def image(self, left: int, top: int, pixels: NDArray[np.uint8]) -> None:
        bottom = self._height - top - len(pixels)
        self.figure.figimage(pixels, xo=left, yo=bottom, origin="upper")

    def rectangle(self, box: Sequence[float], **style: Any) -> None:
        """Draw a box of top, left, height, width: above images, unless its `zorder` is below 0."""
        top, left, height, width = box
        corner = left, self._height - top - height
        self.figure.add_artist(
            Rectangle(corner, width, height, transform=IdentityTransform(), **style)
        )

    def text(
        self, left: float, line: int, text: str, size: float, room: float, **style: Any
    ) -> int:
        """Write on a line as much as fits into `room` px, leaving out the middle.

        Returns:
            Its width, px.
        """
        whole = shown = self._lettering.clean(text)
        kept, width = len(whole), self.text_width(whole, size)
        while width > room and kept:
            kept = max(0, min(kept - 1, int(kept * room / width)))
            shown = whole[: (kept + 1) // 2] + _ELLIPSIS + whole[len(whole) - kept // 2 :]
            width = self.text_width(shown, size)
        self.figure.text(
            left,
            self._height - line,
            shown,
            size=size,
            va="baseline",
            transform=IdentityTransform(),
            **style,
        )
        return round(width)

    def text_width(self, text: str, size: float) -> float:
        properties = FontProperties(size=size)
        return float(self._renderer.get_text_width_height_descent(text, properties, False)[0])


def _compose(sheet: Sheet, lettering: Lettering) -> Figure:
    columns = _columns(sheet)
    width = max(_LEAST_WIDTH, _MARGIN + max(left + slot for left, slot in columns))
    height = (
        2 * _MARGIN
        - _ROW_GAP
        + _HEADING
        + sum(
            _BAND_GAP + _HEADING + sum(_row_px(row) + _ROW_GAP for row in band.rows)
            for band in sheet.bands
        )
    )
    canvas = _Canvas(width, height, lettering)
    top = _MARGIN
    _write_heading(canvas, top, width, sheet.title, sheet.note, _TITLE_SIZE)
    top += _HEADING
    for band in sheet.bands:
        canvas.rectangle((top, _MARGIN, 1, width - 2 * _MARGIN), color=_RULE, lw=0)
        top += _BAND_GAP
        _write_heading(canvas, top, width, band.name, band.note, _NAME_SIZE)
        top += _HEADING
        for row in band.rows:
            shelf = top + max(len(cell.pixels) for cell in row)
            for (left, slot), cell in zip(columns, row, strict=False):
                _draw_cell(canvas, left, slot, shelf, cell)
            top += _row_px(row) + _ROW_GAP
    return canvas.figure


def _columns(sheet: Sheet) -> list[tuple[int, int]]:
    """Each column's left edge and width, px."""
    columns, left = [], _MARGIN
    count = max(len(row) for band in sheet.bands for row in band.rows)
    for at in range(count):
        slot = max(sheet.slots[at % len(sheet.slots)], _LEAST_SLOT)
        columns.append((left, slot))
        ends_pair = len(sheet.slots) > 1 and (at + 1) % len(sheet.slots) == 0
        left += slot + (_PAIR_GAP if ends_pair else _GAP)
    return columns


def _row_px(row: Sequence[Cell]) -> int:
    lines = max(len(cell.lines) for cell in row)
    return max(len(cell.pixels) for cell in row) + _FIRST_LINE + _LINE * (lines - 1)


def _write_heading(
    canvas: _Canvas, top: int, width: int, name: str, note: str, size: float
) -> None:
    """A name and, in grey, what there is to say of it; the name gives way."""
    line, between = top + _BASELINE, 10
    room = width - 2 * _MARGIN - between - canvas.text_width(note, _NOTE_SIZE)
    right = _MARGIN + canvas.text(_MARGIN, line, name, size, room, color=_INK)
    canvas.text(right + between, line, note, _NOTE_SIZE, width - right, color=_GREY)


def _draw_cell(canvas: _Canvas, left: int, slot: int, shelf: int, cell: Cell) -> None:
    """An image that stands on a shelf, and its lines below."""
    height, width = cell.pixels.shape[:2]
    top = shelf - height
    if cell.epoch is not None:
        color = _COLORS[cell.epoch]
        frame = (top - _FRAME, left - _FRAME, height + 2 * _FRAME, width + 2 * _FRAME)
        canvas.rectangle(frame, color=color, lw=0, zorder=-1)
    canvas.image(left, top, cell.pixels)
    if cell.boxes is not None:
        corner = np.array((top, left, 0, 0))
        for thick, colors in ((_HALO, ["white"] * len(cell.boxes)), (_BOX, _COLORS)):
            for box, color in zip(cell.boxes + corner, colors, strict=False):
                canvas.rectangle(box, fill=False, edgecolor=color, lw=thick * _POINTS)
    for number, text in enumerate(cell.lines):
        line, color = shelf + _FIRST_LINE + number * _LINE, _GREY if number else _INK
        canvas.text(left, line, text, _LINE_SIZE, slot, color=color)


def _texts(sheet: Sheet) -> Iterable[str]:
    """All that is written on a sheet."""
    yield from (sheet.title, sheet.note)
    for band in sheet.bands:
        yield from (band.name, band.note)
        for row in band.rows:
            for cell in row:
                yield from cell.lines
