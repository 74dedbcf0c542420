"""Values out of files, held against the types and bounds of the dataclass that they are for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

Kind = TypeVar("Kind")
#: The `__pydantic_config__` of such a dataclass: nothing is taken for what it is not.
STRICT = ConfigDict(strict=True, revalidate_instances="always", arbitrary_types_allowed=True)
#: A number of things; seconds that have passed.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, lt=1 << 63)]
#: Letters of a name or value in a message.
_MOST_SHOWN = 80


_adapter: Callable[[object], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A dataclass of these values.

    Raises:
        TypeError: one is missing, or too many.
        ValueError: one is of another type, or out of bounds.
    """
    try:
        found: Kind = _adapter(kind).validate_python(kind(**values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place, odd = ".".join(map(str, first["loc"]))[:_MOST_SHOWN], first["input"]
        shown = f"a {type(odd).__name__}"
        if isinstance(odd, str | int | float):
            shown = f"{odd!r:.{_MOST_SHOWN}}"
        raise ValueError(f"a wrong {place!r}: {shown}") from error
    return found
