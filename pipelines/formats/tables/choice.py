"""The columns of a table that say something of images: guessed by their usual names, or named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipelines.errors import UsageError
from pipelines.formats.columns import ColumnNames

#: Roles of a column; each is named by the option `--image-column`, `--label-column` and so on.
Role = Literal["image", "label", "split", "weight", "group"]
_ROLES: tuple[Role, ...] = get_args(Role)
#: The name, as an option's value, of no column: nothing is guessed.
NO_COLUMN = "-"
#: Role -> the usual names, in lower case, with `_` for spaces and hyphens. A fold is no split:
#: which one to leave out is a choice.
_USUAL: dict[Role, tuple[str, ...]] = {
    "image": tuple(
        "path file filename file_name filepath file_path filenames image images image_path "
        "image_file image_filename image_name image_index imagepath imagefile imagename img "
        "img_path img_file img_name relative_path relpath".split()
    ),
    "label": tuple(
        "label labels class classes class_name classname class_label category categories target "
        "targets y tag tags species diagnosis finding_labels".split()
    ),
    "split": ("split", "set", "subset", "partition", "data_set", "dataset_split"),
    "weight": ("weight", "weights", "sample_weight", "sample_weights"),
    "group": tuple(
        "group group_id groups patient patient_id subject subject_id participant "
        "participant_id".split()
    ),
}
_MEANS: dict[Role, str] = {
    "image": "the paths of images",
    "label": "their labels",
    "split": "their splits",
    "weight": "their weights",
    "group": "their groups",
}
#: Column names that a message lists.
_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The names of the columns to read; empty: there is none.

    Attributes:
        image, split, weight, group: see `ColumnNames`.
        labels: one column, or several of 0 and 1; empty: all of `others` that hold nothing else.
        others: the columns that are none of the above.
    """

    image: str
    labels: tuple[str, ...]
    split: str
    weight: str
    group: str
    others: tuple[str, ...]


def choose_columns(path: Path, columns: Sequence[str], names: ColumnNames) -> Choice:
    """The columns to read of a table.

    Args:
        path: the table, as errors name it.
        columns: all of its columns.
        names: what the user says of them. A name is matched as it is, else in any case. That of
            the labels may be several, separated by commas.

    Raises:
        UsageError: a column that is named is not there; one that is needed has no usual name, or
            several have.
    """
    labels = _name_labels(path, columns, names.label)
    found: dict[Role, str] = {
        role: _choose(path, columns, names, role) for role in _ROLES if role != "label"
    }
    if not found["image"]:
        raise _missing(path, columns, "image")
    if not labels and names.label != NO_COLUMN:
        guessed = _guess(path, columns, "label", frozenset(found.values()))
        labels = (guessed,) if guessed else ()
    if not labels and names.task != "labels":
        raise _missing(path, columns, "label")
    used = [name for name in (*found.values(), *labels) if name]
    for role in _ROLES:  # what is guessed is guessed once
        chosen = labels if role == "label" else (found[role],)
        if getattr(names, role) and any(used.count(name) > 1 for name in chosen):
            said = f"{','.join(chosen)!r}, which is used twice"
            raise UsageError(f"--{role}-column", said, "a column for each", _list(columns))
    return Choice(
        image=found["image"],
        labels=labels,
        split=found["split"],
        weight=found["weight"],
        group=found["group"],
        others=tuple(name for name in columns if name and name not in used),
    )


def _choose(path: Path, columns: Sequence[str], names: ColumnNames, role: Role) -> str:
    named: str = getattr(names, role)
    if named == NO_COLUMN:
        return ""
    return _match(path, columns, role, named) if named else _guess(path, columns, role)


def _name_labels(path: Path, columns: Sequence[str], named: str) -> tuple[str, ...]:
    if named in ("", NO_COLUMN):
        return ()
    if named in columns or "," not in named:
        return (_match(path, columns, "label", named),)
    found = tuple(_match(path, columns, "label", part.strip()) for part in named.split(","))
    if len(set(found)) < len(found):
        raise UsageError("--label-column", repr(named), "each column once", _list(columns))
    return found


def _match(path: Path, columns: Sequence[str], role: Role, named: str) -> str:
    alike = [name for name in columns if name and name == named] or [
        name for name in columns if name and name.casefold() == named.casefold()
    ]
    if len(alike) != 1:
        expected = "the name of a column" if not alike else "one column"
        raise UsageError(f"--{role}-column", f"{named!r}", f"{expected} of {path}", _list(columns))
    return alike[0]


def _guess(
    path: Path, columns: Sequence[str], role: Role, taken: frozenset[str] = frozenset()
) -> str:
    """The column with a usual name; empty if there is none.

    Raises:
        UsageError: there are several.
    """
    usual = [name for name in columns if _plain(name) in _USUAL[role] and name not in taken]
    if len(usual) > 1:
        raise UsageError(
            path,
            f"{' and '.join(map(repr, usual))} may be {_MEANS[role]}",
            "one column for them",
            f"name it by --{role}-column; {_list(columns)}",
        )
    return usual[0] if usual else ""


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _missing(path: Path, columns: Sequence[str], role: Role) -> UsageError:
    return UsageError(
        path,
        f"no column by a usual name for {_MEANS[role]}",
        ", ".join(_USUAL[role][:5]) + " or the like",
        f"name it by --{role}-column; {_list(columns)}",
    )


def _list(columns: Sequence[str]) -> str:
    named = [name for name in columns if name]
    more = f" and {len(named) - _LISTED:,} more" if len(named) > _LISTED else ""
    return f"its columns are {', '.join(name[:60] for name in named[:_LISTED])}{more}"
