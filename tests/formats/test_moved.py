"""Names that scripts import from where they were."""

import importlib

import pytest

from pipelines.formats import encode


def test_decode_is_found_where_it_was() -> None:
    assert importlib.import_module("pipelines.encode").decode is encode.decode


def test_what_was_never_there_is_missing() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module("pipelines.encode").no_such_name
