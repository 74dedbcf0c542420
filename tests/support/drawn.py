"""Pictures, looked at by their texts: which of them cover each other or stand out."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from fastft.results.plots import STYLE, Panel, draw_panels


def find_overlaps(panels: Sequence[Panel], heading: str = "") -> list[str]:
    """Texts of a picture that lie upon each other or beyond its edge."""
    with mpl.rc_context(STYLE):
        figure = draw_panels(panels, heading)
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        hidden = {id(text) for axes in figure.axes for text in _undrawn(axes)}
        texts = [each for each in figure.findobj(Text) if each.get_text() and each.get_visible()]
        boxes = [
            (text.get_text(), text.get_window_extent()) for text in texts if id(text) not in hidden
        ]
    found = []
    edge = figure.bbox.padded(1)
    for at, (name, box) in enumerate(boxes):
        if box.x0 < edge.x0 or box.x1 > edge.x1 or box.y0 < edge.y0 or box.y1 > edge.y1:
            found.append(f"{name!r} stands out")
        found += [f"{name!r} on {other!r}" for other, lower in boxes[:at] if box.overlaps(lower)]
    return found


def _undrawn(axes: Axes) -> Iterator[Text]:
    """Numbers that an axis has beyond its ends or while it is hidden."""
    for axis in (axes.xaxis, axes.yaxis):
        drawn = axis._update_ticks() if axis.get_visible() and axes.axison else []
        for tick in (*axis.majorTicks, *axis.minorTicks):
            if tick not in drawn:
                yield from (tick.label1, tick.label2)
