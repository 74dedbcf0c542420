"""timm's loop: the example, whose batches are noted."""

from __future__ import annotations

import timm.data
import torch
from loops import expected, look_at, run_example, tell

SEEN: list[int] = []


class Spy(timm.data.Mixup):
    """Notes what is about to be mixed."""

    def __call__(
        self, images: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        SEEN.append(look_at(images))
        return super().__call__(images, target)


def main() -> None:
    timm.data.Mixup = Spy
    example = run_example()
    tell(seen=SEEN, expected=expected(), right=example["top1"].count)


if __name__ == "__main__":
    main()
