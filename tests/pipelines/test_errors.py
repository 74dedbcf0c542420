import pickle

import pytest

from pipelines.errors import DataError, FormatError, UsageError, one_line


def test_message_holds_where_found_expected_and_remedy() -> None:
    error = FormatError("a.beton", "format version 3", "2", "rerun fastft convert")
    assert str(error) == "a.beton: format version 3, expected 2; rerun fastft convert"
    assert str(DataError("x", "is empty")) == "x: is empty"


@pytest.mark.parametrize(("kind", "status"), [(DataError, 1), (FormatError, 1), (UsageError, 2)])
def test_exit_status_tells_data_from_usage(kind: type[DataError], status: int) -> None:
    assert kind("x", "y").exit_code == status


def test_a_hostile_name_stays_on_one_line() -> None:
    error = DataError("a\nb\x1b[31m.jpg", "broken")
    assert str(error) == "a\\nb\\x1b[31m.jpg: broken"
    assert one_line("ä€") == "ä€"


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UsageError("a", "b", "c", "d")))
    assert (type(error), error.found, str(error)) == (UsageError, "b", "a: b, expected c; d")
