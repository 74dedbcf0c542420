"""Times AdamW's step of a timm network: parameters in merged groups against a group for each.

    python -m bench.groups --arch timm:vit_small_patch16_224 --rounds 15

Both sides have the same rates, decay, weights and gradients, and step in turn; afterwards their
weights are equal to the bit. `usual` is torch's choice, on a CPU a loop over the parameters;
`foreach` takes a group's at once, as on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastft.model.classifier import build_model
from fastft.model.groups import find_treatment, make_groups


def make_sides(arch: str, foreach: bool | None) -> list[tuple[int, torch.optim.Optimizer]]:
    """The optimizers of merged groups and of single ones, with their numbers of groups."""
    built = build_model(10, "none", arch=arch, size=0)
    treatment = find_treatment(built, layer_decay=0.75, decay="matrices")
    sides = []
    for is_merged in (True, False):
        own = copy.deepcopy(built.model)
        head = own.get_submodule(
            next(name for name, module in built.model.named_modules() if module is built.head)
        )
        groups = make_groups(own, head, lr=1e-3, head_lr_factor=1, treatment=treatment)
        if not is_merged:
            groups = [{**group, "params": [each]} for group in groups for each in group["params"]]
        random = torch.Generator().manual_seed(0)
        for parameter in own.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        made: Any = torch.optim.AdamW(groups, weight_decay=0.05, foreach=foreach)
        sides.append((len(groups), made))
    return sides


def seconds_of(work: Callable[[], object], steps: int) -> float:
    """Seconds of one of some steps."""
    began = time.perf_counter()
    for _ in range(steps):
        work()
    return (time.perf_counter() - began) / steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both sides in both ways, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="timm:vit_small_patch16_224")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args(arguments)
    for way, foreach in (("usual", None), ("foreach", True)):
        sides = make_sides(asked.arch, foreach)
        took: list[list[float]] = [[], []]
        for at in range(asked.rounds + 1):
            for own, (_, optimizer) in zip(took, sides, strict=True):
                seconds = seconds_of(optimizer.step, asked.steps)
                if at:  # the first makes states
                    own.append(seconds)
        merged, single = took
        ratios = [other / own for own, other in zip(merged, single, strict=True)]
        print(
            f"{asked.arch}, AdamW, {way}: {sides[0][0]} groups "
            f"{1000 * statistics.median(merged):.1f} ms, {sides[1][0]} groups "
            f"{1000 * statistics.median(single):.1f} ms, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} - {max(ratios):.2f})"
        )
        mine, theirs = (
            {id(p): p for group in optimizer.param_groups for p in group["params"]}.values()
            for _, optimizer in sides
        )
        assert all(a.equal(b) for a, b in zip(mine, theirs, strict=True))


if __name__ == "__main__":
    main()
