"""Findings about this machine, kept for the next process: one JSON file for each subject.

Findings hold for a setup: a card, its driver, the versions of libraries, whatever they depend on.
Losing them costs finding out again, so a file that cannot be read is one that is not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.atomic import write_whole


def findings_file(subject: str) -> Path:
    """The file of findings on a subject."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fastft" / f"{subject}.json"


def read_findings(subject: str, setup: str) -> dict[str, Any]:
    """Findings for a setup, as JSON values; empty where nobody has found any."""
    found = _read(findings_file(subject)).get(setup)
    return found if isinstance(found, dict) else {}


def save_findings(subject: str, setup: str, found: Mapping[str, Any]) -> Path:
    """Keep findings for a setup, beside those for others; gives the file.

    Raises:
        DataError: it cannot be written.
        OSError: its folder cannot be made.
    """
    path = findings_file(subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({**_read(path), setup: dict(found)}, indent=1) + "\n")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}
