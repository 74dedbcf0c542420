"""Parts of a network from the input on, and which of them `--freeze` stops from learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from fastft.model import timm_models, torchvision_models
from fastft.model.built import BuiltModel
from pipelines.errors import UsageError

#: A part's name, and its modules.
Part = tuple[str, list[nn.Module]]


def stages(built: BuiltModel) -> list[Part]:
    """The body's parts from the input on, as `--freeze stages:N` counts them.

    Raises:
        UsageError: a network of timm's whose stages timm does not tell.
    """
    if not timm_models.is_timm(built.arch):
        return torchvision_models.stages(built.model, built.head)
    head = {id(parameter) for parameter in built.head.parameters()}
    stage_of = timm_models.number_layers(built.model, built.arch, "--freeze", coarse=True)
    named = dict(built.model.named_parameters())
    parts: list[Part] = []
    before: list[nn.Module] = []
    for stage in sorted(set(stage_of.values())):
        own = {id(named[name]) for name, other in stage_of.items() if other == stage} - head
        found = list(_holding(built.model, own))
        name = next((name for name, module in found if list(module.children())), "")
        modules = [module for _, module in found]
        # As with torchvision's: what comes before the first stage belongs to it, a norm behind the
        # last one to that.
        if not stage or (not parts and not name):
            before += modules
        elif name or any(parameter.ndim > 1 for each in modules for parameter in each.parameters()):
            parts.append((name or found[0][0], [*before, *modules]))
            before = []
        elif parts:
            parts[-1][1].extend(modules)
    return parts


def freeze(built: BuiltModel, asked: str) -> tuple[nn.Module, ...]:
    """Stop what `--freeze` names from learning; gives the modules that stay in eval mode.

    Raises:
        UsageError: neither `backbone` nor `stages:N`, more stages than there are, or a network
            whose stages are not known.
    """
    if not asked:
        return ()
    model, head = built.model, built.head
    if asked == "backbone":
        parameters = [p for p in model.parameters() if all(p is not q for q in head.parameters())]
        if timm_models.is_timm(built.arch):
            frozen = [module for _, module in _holding(model, set(map(id, parameters)))]
        else:
            frozen = [module for _, modules in stages(built) for module in modules]
    else:
        kind, _, number = asked.partition(":")
        if kind != "stages" or not number.isdecimal():
            raise UsageError("--freeze", repr(asked), "backbone or stages:N")
        parts = stages(built)
        if not 1 <= int(number) <= len(parts):
            names = ", ".join(name for name, _ in parts)
            raise UsageError(
                "--freeze", asked, f"stages:1 to stages:{len(parts)} of a {built.arch} ({names})"
            )
        frozen = [module for _, modules in parts[: int(number)] for module in modules]
        parameters = [p for module in frozen for p in module.parameters()]
        # What belongs to no module, a transformer's positions, is at its input.
        parameters += [
            p
            for name, p in model.named_parameters()
            if name.rpartition(".")[0] in ("", *torchvision_models.OPENED)
        ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    return tuple(frozen)


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, but for what is frozen: its batch norm keeps its statistics."""
    model.train()
    for module in frozen:
        module.eval()


def _holding(
    model: nn.Module, wanted: set[int], under: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules whose parameters are all wanted, by name; there have to be some."""
    for name, child in model.named_children():
        full = f"{under}.{name}" if under else name
        own = {id(parameter) for parameter in child.parameters()}
        if own and own <= wanted:
            yield full, child
        elif own & wanted:
            yield from _holding(child, wanted, full)
