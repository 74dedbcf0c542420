"""Columns of a Hugging Face data set: which holds images, which the labels, what labels mean.

Beside the types of Arrow goes what `datasets` says of them, its features: in the schema's metadata,
or in `dataset_info.json`.

Source: datasets 5.2, `features/features.py` (`ClassLabel`, `List`, `generate_from_dict`),
`features/image.py` (a struct of `bytes` and `path`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import FormatError, UsageError
from pipelines.formats.columns import ColumnNames
from pipelines.formats.packed.arrow_files import load_pyarrow
from pipelines.formats.plain_file import read_bytes
from pipelines.formats.tables.choice import NO_COLUMN, Choice, choose_columns

#: The file of a data set's folder that describes it.
INFO = "dataset_info.json"
#: Names of image columns, where there are several.
_USUAL_IMAGES = ("image", "img", "jpg", "png", "picture", "photo")
#: Features that are kept as images are, and are none.
_NO_IMAGES = ("Audio", "Video", "Pdf", "Nifti")
#: A list of lists of labels is none; but a list may be said in two ways, one in the other.
_MOST_NESTED = 3
_MOST_JSON_BYTES = 64 << 20
_REDO = "write it anew by datasets' save_to_disk or to_parquet"


@dataclass(frozen=True, slots=True)
class Feature:
    """A column's description by `datasets`.

    Attributes:
        kind: its type, such as `Image`; of a list, that of its values.
        names: of a `ClassLabel` what its numbers mean.
        is_list: whether it is a list of these.
    """

    kind: str
    names: tuple[str, ...] = ()
    is_list: bool = False


def read_features(path: Path, said: bytes | None) -> dict[str, Feature]:
    """Column -> what is said of it.

    Args:
        path: the file, as errors name it.
        said: JSON in the file; None: `dataset_info.json` beside it says it, if it is there.

    Raises:
        FormatError: it is said, but not as `datasets` says it.
    """
    info = path.with_name(INFO)
    found: object = None
    if said is not None:
        found = _parse(path, said)
        found = found.get("info") if isinstance(found, dict) else None
    elif info.exists():
        found = read_json(info)
    features = found.get("features") if isinstance(found, dict) else None
    if not isinstance(features, dict):
        return {}
    return {name: _read_feature(path, name, each) for name, each in features.items()}


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FormatError: it cannot be read, is no JSON or far too long.
    """
    try:
        content = read_bytes(str(path))
    except OSError as error:
        found = error.strerror or "cannot be read"
        raise FormatError(path, found, "a JSON file", "fetch it anew") from error
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> Any:
    if len(content) > _MOST_JSON_BYTES:
        found = f"{len(content):,} bytes of JSON"
        raise FormatError(path, found, f"at most {_MOST_JSON_BYTES:,}", _REDO)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"its JSON is damaged ({error})"[:200], "JSON", _REDO) from error


def _read_feature(path: Path, name: str, said: object) -> Feature:
    is_list = False
    for _ in range(_MOST_NESTED):
        if isinstance(said, list) and len(said) == 1:
            said, is_list = said[0], True
        elif isinstance(said, dict) and "feature" in said:
            said, is_list = said["feature"], True
    kind = said.get("_type") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(kind, str):
        return Feature("", is_list=is_list)  # a struct
    names = said.get("names") if kind == "ClassLabel" else []
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        found = f"says of column {name!r} no names of classes"
        raise FormatError(path, found, "a list of names", _REDO)
    if len(set(names)) < len(names) or not all(each.strip() == each != "" for each in names):
        found = f"the classes of column {name!r} are not told apart by name"
        raise FormatError(path, found, "each name once, none empty", _REDO)
    return Feature(kind, tuple(names), is_list)


def is_image_type(path: Path, kind: Any) -> bool:
    """Whether a column of this type may hold images: a struct with `bytes`, or bytes alone."""
    return is_struct_of_bytes(path, kind) or _is_bytes(path, kind)


def is_struct_of_bytes(path: Path, kind: Any) -> bool:
    """Whether a type is that of `datasets`' images."""
    types = load_pyarrow(path).types
    if not types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    if not _is_bytes(path, fields.get("bytes")):
        return False
    return "path" not in fields or types.is_string(fields["path"]) or types.is_null(fields["path"])


def _is_bytes(path: Path, kind: Any) -> bool:
    types = load_pyarrow(path).types
    return kind is not None and (types.is_binary(kind) or types.is_large_binary(kind))


def find_image_column(
    path: Path, kinds: Mapping[str, Any], features: Mapping[str, Feature]
) -> str | None:
    """The column that holds images; None if none does.

    Raises:
        UsageError: several may.
    """
    others = {name for name, each in features.items() if each.kind in _NO_IMAGES}
    found = [name for name, kind in kinds.items() if is_struct_of_bytes(path, kind)]
    found = [name for name in found if name not in others] or [
        name for name, kind in kinds.items() if _is_bytes(path, kind) and name in _USUAL_IMAGES
    ]
    usual = [name for name in found if name in _USUAL_IMAGES] if len(found) > 1 else found
    if len(usual) != 1 and found:
        said = f"{' and '.join(map(repr, found[:3]))} may be the images"
        raise UsageError(path, said, "one column", "name it by --image-column")
    return usual[0] if usual else None


def choose(
    path: Path, kinds: Mapping[str, Any], features: Mapping[str, Feature], names: ColumnNames
) -> Choice:
    """The columns to read.

    Raises:
        UsageError: one that is named is not there or holds something else, or none or several may
            be meant.
    """
    image = names.image or find_image_column(path, kinds, features)
    if image is None:
        expected = "a column of images, structs of bytes and path"
        remedy = f"its columns are {', '.join(list(kinds)[:20])}"
        raise UsageError(path, "holds no images", expected, remedy)
    label = names.label
    if not label:
        classes = [name for name, each in features.items() if each.names and name in kinds]
        usual = [name for name in classes if name in ("label", "labels")]
        if len(classes) > 1 and len(usual) != 1:
            said = f"{' and '.join(map(repr, classes[:3]))} may be the labels"
            raise UsageError(path, said, "one column", "name it by --label-column")
        label = next(iter(usual or classes), "")
    wanted = ColumnNames(
        image=image,
        label=label,
        split=NO_COLUMN,
        weight=names.weight,
        group=names.group,
        task=names.task,
    )
    choice = choose_columns(path, tuple(kinds), wanted)
    if not is_image_type(path, kinds[choice.image]):
        said = f"{choice.image!r} is {str(kinds[choice.image])[:80]}"
        raise UsageError("--image-column", said, f"images in {path}", "name another")
    if not choice.labels:
        said = "no column by a usual name for labels"
        raise UsageError(path, said, "label or the like", "name it by --label-column")
    return choice
