"""Tensors of a caller's that batches are rendered into in turn, so that he need not copy them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class InTurn:
    """Some tensors [B, 3, S, S], channels_last, on a GPU; each is written when its turn comes.

    A batch in one of them is the caller's until he asks for the next but one, if there are two of
    them: what he has queued by then is waited for on the device, before the tensor is written.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], stream: Any) -> None:
        """Take them.

        Args:
            tensors: at least two, all alike.
            stream: what writes them; None where the host does.
        """
        self._tensors = [each.permute(0, 2, 3, 1) for each in tensors]
        self._stream, self._turn = stream, 0
        # What the caller has queued when he asks for a batch reads the batches before it.
        self._asked: Any = self._record()

    def take(self, count: int, size: int, dtype: torch.dtype) -> torch.Tensor | None:
        """The next one as [B, S, S, 3], to be written on the stream; None for a batch unlike it.

        Call it once for each batch that is asked for, whatever it is like.
        """
        # All but the batch that was given last are read by what was queued when that was asked for.
        before, self._asked = self._asked, self._record()
        tensor = self._tensors[self._turn]
        if tensor.shape != (count, size, size, 3) or tensor.dtype != dtype:
            return None
        if not tensor.is_contiguous():
            return None
        self._turn = (self._turn + 1) % len(self._tensors)
        if self._stream is not None:
            self._stream.wait_event(before)
        return tensor

    def _record(self) -> Any:
        if self._stream is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._stream.device))
        return event
