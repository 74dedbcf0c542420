"""A panel as SVG within a page: no style of its own, so that the page's policy may forbid all.

Matplotlib's colours become classes that `page.css` gives for light and dark, and its style
attributes plain ones, which need no permission. Its text is gone over tag by tag: what it writes
between them, and in attributes, it has escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fastft.results import plots
from fastft.results.plots import STYLE, Panel, quiet_glyphs

#: Colours that the page gives anew in the dark, by their class.
CLASSES: Mapping[str, str] = {
    plots.BLUE: "s0",
    plots.RED: "s1",
    plots.GREEN: "s2",
    plots.PINK: "s3",
    plots.ORANGE: "s4",
    plots.SKY: "s5",
    plots.INK: "ink",
    plots.GREY: "muted",
    plots.PALE: "other",
    plots.GRID: "grid",
    plots.BAND: "band",
    "#000000": "ink",
    "#ffffff": "paper",
}
#: Styles that are attributes of the same name; fonts are the page's.
_KEPT = (
    "fill",
    "fill-opacity",
    "font-size",
    "font-weight",
    "opacity",
    "stroke",
    "stroke-dasharray",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-opacity",
    "stroke-width",
    "text-anchor",
)
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"(<\w+)((?:[^>\"]|\"[^\"]*\")*)>")
_ATTRIBUTE = re.compile(r"([\w:-]+)=\"([^\"]*)\"")
_NO_DATES = {"Date": None, "Creator": None, "Format": None, "Type": None}


def draw_svg(panel: Panel, salt: str = "") -> Markup:
    """A panel as an SVG element; the same one gives the same text.

    Args:
        panel: what to draw.
        salt: what tells its names from those of others in the page.
    """
    with mpl.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": salt or "fastft"}):
        figure = Figure(figsize=(panel.width, panel.height), layout="constrained")
        panel.draw(figure.subplots())
        FigureCanvasSVG(figure)
        buffer = io.BytesIO()
        with quiet_glyphs():
            figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_DATES)
    text = buffer.getvalue().decode()
    text = _DROPPED.sub("", text[text.index("<svg") :])
    referred = set(re.findall(r"#(\w+)[)\"]", text))
    head, _, rest = text.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    label = Markup('class="chart" role="img" aria-label="{}"').format(panel.title)
    body = _TAG.sub(lambda tag: _plain(tag[1], tag[2], referred), rest)
    return Markup(f"<svg {box[0] if box else ''} {label}>{body}")


def _plain(head: str, rest: str, referred: set[str]) -> str:
    """A tag as a page takes it.

    Args:
        head: `<` and its name.
        rest: its attributes, as matplotlib escapes them, and its end.
        referred: ids that other tags name.
    """
    kept, classes = [], []
    for name, value in _ATTRIBUTE.findall(rest):
        if name == "style":
            for part in value.split(";"):
                key, _, said = (each.strip() for each in part.partition(":"))
                if key in ("fill", "stroke") and said in CLASSES:
                    classes.append(f"{key}-{CLASSES[said]}")
                elif key == "font":
                    size = re.search(r"([\d.]+)px", said)
                    kept.append(f'font-size="{size[1] if size else 10}"')
                    kept += ['font-weight="bold"'] if re.search("bold|[67]00", said) else []
                elif key in _KEPT:
                    kept.append(f'{key}="{said}"')
        elif name == "id" and value in ("value", "cell"):
            classes.append(value)
        elif name != "id" or value in referred:
            kept.append(f'{name.removeprefix("xlink:")}="{value}"')
    if head == "<text" and not any(each.startswith("fill") for each in classes):
        classes.append("fill-ink")
    kept += [f'class="{" ".join(classes)}"'] if classes else []
    end = "/>" if rest.endswith("/") else ">"
    return " ".join([head, *kept]) + end
