"""Fixtures of the tests of `fastft check`."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets are empty files: drawing them takes longer than all else."""
    monkeypatch.setattr("fastft.check.sheets.draw_sheet", lambda sheet, out: out.write_bytes(b""))
