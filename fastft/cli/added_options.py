"""Options that several commands have in common: declared once, added to each, gathered for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def options_of(*stubs: Callable[..., None]) -> dict[str, inspect.Parameter]:
    """The options that functions declare which are never called."""
    known = [inspect.signature(stub, eval_str=True).parameters for stub in stubs]
    return {name: each for part in known for name, each in part.items()}


def add_options(
    command: Callable[..., None],
    added: Mapping[str, inspect.Parameter],
    receiver: str,
    gather: Callable[[dict[str, Any]], Any],
) -> Callable[..., None]:
    """Give a command further options, which it receives together as one argument.

    Args:
        command: a command; an option that it has by itself means something else by that name.
        added: the options.
        receiver: the argument that receives them.
        gather: makes of their values what the command is given.
    """
    own = inspect.signature(command, eval_str=True).parameters
    mine = [each for name, each in own.items() if name != receiver]
    others = {name: each for name, each in added.items() if name not in own}

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        taken = {name: given.pop(name) for name in others}
        command(**given, **{receiver: gather(taken)})

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [each.replace(kind=keyword) for each in (*mine, *others.values())]
    del wrapped.__wrapped__  # whose signature would be taken
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapped
