"""When decoded pixels are kept: at once, when they are asked for again, or never.

Of a photo that is decoded whole into new memory a first crop comes two to seven times as late as of
one that is decoded for the crop alone; every later one comes three to five times as early (two
cores, photos of 0.2 and 12.9 megapixels). So a run of one or two epochs is over sooner if nothing
is kept, one of more if all is kept at once. Where nobody has said how many there will be, a photo
is kept when it is asked for the second time: whatever comes of it, that costs a crop of each photo
more than was needed, and spares the whole photo where it does not come again.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pipelines.errors import UsageError
from pipelines.formats.beton import Index
from pipelines.formats.source import Source
from pipelines.regions import are_decoded
from pipelines.resident.store import StoreFormat

Keeping: TypeAlias = Literal["at once", "again", "never"]
#: Epochs from which on whole photos are decoded in less time than as many crops.
MANY = 3


def choose_keeping(
    source: Source,
    format_: StoreFormat,
    *,
    epochs: int | None,
    outlives: bool,
    on_gpu: bool,
    alone: bool,
) -> Keeping:
    """Choose by what a run is known to be.

    Args:
        source: the samples; only of a `.beton` it is known without reading them what they are.
        format_: what is kept: a crop of other pixels than the source's is cut from those alone.
        epochs: how often each sample will be asked for; None: nobody knows.
        outlives: whether what is kept is for later runs, too.
        on_gpu: whether a GPU cuts the crops, which has pixels or nothing to cut.
        alone: whether no other process has some of the same pixels decoded.

    Raises:
        UsageError: no number of epochs.
    """
    if epochs is not None and epochs < 1:
        raise UsageError("epochs", str(epochs), "1 or more, or None where nobody knows")
    crops_alike = format_ == StoreFormat() and isinstance(source, Index) and are_decoded()
    if outlives or on_gpu or not crops_alike:
        return "at once"
    if epochs is None:
        return "again" if alone else "at once"
    return "at once" if epochs >= MANY else "never"
