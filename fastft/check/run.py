"""`fastft check`: all images looked at, copies found, told as tables, JSON and contact sheets."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from fastft.check.classes import find_classes, imbalance_of
from fastft.check.copies import Link, find_copies, gather
from fastft.check.look import Mark
from fastft.check.odd import find_odd, label_of, name_of
from fastft.check.parts import Parts, open_parts
from fastft.check.result import FORMAT, KINDS, Check, Finding, Group, Member, Pair, SplitRow
from fastft.check.scan import Scan, scan
from fastft.check.section import print_check, sum_up
from fastft.check.sheets import SHEETS, write_sheets
from fastft.config.check import CheckConfig
from fastft.config.checks import plain
from fastft.system.environment import environment
from fastft.system.output_folder import output_folder
from fastft.system.progress import image_progress
from pipelines.atomic import write_whole
from pipelines.errors import DataError, UsageError

FILE = "check.json"


def run_check(config: CheckConfig, console: Console) -> Check:
    """Look at a data set and report; writes JSON and sheets into the output folder.

    Raises:
        UsageError: an output folder that holds something else.
        DataError: data that are no data set, or outputs that cannot be written.
    """
    started = time.perf_counter()
    _require_room(config.out)
    with open_parts(config) as parts, output_folder(config.out):
        with image_progress(console, "looking at") as update:
            found = scan(parts, verify=not config.quick, workers=config.workers, on_progress=update)
        # A picture of one colour is like any other of it.
        usable = found.whole & (found.marks & Mark.CONSTANT == 0)
        with image_progress(console, "comparing") as update:
            progress = partial(update, "hashes")
            links = find_copies(found.digests, found.prints, usable, config.threshold, progress)
        groups = gather(links)
        odd = find_odd(parts, found, config.size)
        check = _make_check(config, parts, found, groups, [each for _, each in odd], started)
        # The first one tells that a folder is ours. Sheets of an earlier check tell of other data.
        text = json.dumps(asdict(check), indent=1, allow_nan=False) + "\n"
        try:
            for name in SHEETS:
                (config.out / name).unlink(missing_ok=True)
            write_whole(config.out / FILE, text)
        except OSError as error:
            reason = (error.strerror or "cannot be written").lower()
            raise DataError(config.out, reason, "a folder to write in") from error
        numbers = [number for number, _ in odd]
        written = write_sheets(check, groups, numbers, parts, found, config)
    print_check(check, console)
    console.print(", ".join(str(config.out / name) for name in (FILE, *written)), markup=False)
    return check


def _require_room(out: Path) -> None:
    """Refuse an output folder that holds something else than an earlier check.

    Raises:
        UsageError: it does.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        content = json.loads((out / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        expected = "a new folder or an earlier check"
        raise UsageError("--out", f"{out} holds other files", expected, "name another")


def _make_check(
    config: CheckConfig,
    parts: Parts,
    found: Scan,
    groups: list[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[Link]]],
    odd: list[Finding],
    started: float,
) -> Check:
    rows = find_classes(parts, found)
    told = tuple(_group(parts, found, members.tolist(), links) for members, links in groups)
    copied = Counter[int]()
    for members, _ in groups:
        own = found.splits[members]
        copied.update(own[own > own.min()].tolist())
    broken = Counter(each.split for each in odd if each.kind == "broken")
    splits = tuple(
        SplitRow(
            part.split, part.path, len(part), len(part.classes), broken[part.split], copied[at]
        )
        for at, part in enumerate(parts.all)
    )
    counts = Counter(each.kind for each in odd)
    check = Check(
        config=plain(config),
        environment=environment(),
        seconds=round(time.perf_counter() - started, 1),
        data=str(config.data),
        verified=not config.quick,
        images=len(found),
        splits=splits,
        classes=rows,
        odd=tuple(odd),
        counts={kind: counts[kind] for kind in KINDS},
        groups=told,
        imbalance=imbalance_of(rows),
        leaked=sum(copied.values()),
        conflicts=sum(group.conflict for group in told),
        remarks=tuple(filter(None, (parts.remark,))),
        verdict=(),
    )
    return sum_up(check)


def _group(parts: Parts, found: Scan, numbers: list[int], links: list[Link]) -> Group:
    members = tuple(
        Member(
            parts.all[int(found.splits[number])].split,
            label_of(parts, found, number),
            name_of(parts, found, number),
            int(found.widths[number]),
            int(found.heights[number]),
        )
        for number in numbers
    )
    places = {number: at for at, number in enumerate(numbers)}
    pairs = tuple(
        Pair(
            places[link.first],
            places[link.second],
            link.is_exact,
            link.is_mirrored,
            link.bits,
            link.difference,
        )
        for link in links
    )
    return Group(
        leak=len({member.split for member in members}) > 1,
        conflict=len({member.label for member in members}) > 1,
        members=members,
        pairs=pairs,
    )
