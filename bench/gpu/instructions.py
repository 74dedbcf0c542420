"""Counts the warp instructions of the resident kernels, per image and without a GPU.

    python -m bench.gpu.instructions [--dtype bf16] [--photos 1024] [--triton FOLDER ...]

Compiles the kernels for sm_90 by the installed Triton, and by each that FOLDER holds (`pip install
--target FOLDER triton==3.6.0`), which make different code. Of a program's machine code the shortest
way to an end is taken that loads and stores as many bytes as its row wants: that settles which
branches are taken and how often loops go round. Photos, crops and launches are those of
`bench.gpu.kernel`. Divisions count as their usual case. How fast a GPU is at them is another
matter: it issues at most 4 per clock and multiprocessor.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

#: Compiled for this, as an H100 and an H200 are.
ARCHITECTURE, WARP = 90, 32
#: Warps of a program of the filter kernel: Triton's default.
_FILTER_WARPS = 4
SIZE = 224
#: Arguments that are multiples of 16, which the compiler is told, and their types.
POINTERS = {
    "data": "*u8",
    "offsets": "*i64",
    "pitches": "*i64",
    "sides": "*i64",
    "geometry": "*i32",
    "windows": "*i32",
    "first": "*i32",
    "counts": "*i32",
    "weights": "*i32",
    "scale": "*fp32",
    "bias": "*fp32",
    "rgb": "*u8",
    "between": "*u8",
}
SIZES = {"rgb_bytes": "i32", "between_bytes": "i32"}
PLAIN = {"taps": "i32", "begin": "i32"}

_LINE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(@!?U?P\d+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGETS = re.compile(r"\.L_x_\d+")
_ENDS = ("BRA", "BRX", "EXIT", "RET")
#: Marks of a loop's rounds: bytes of pixels that are loaded, 64 bits only from between the passes;
#: of filters, distances of taps from the center.
_BYTE, _BYTES = (re.compile(r"LDG\.E\.U8\b"), 1), (re.compile(r"LDG\.E\.64\b"), 8)
_DISTANCE = re.compile(r"DADD .*-\|R\d+\|"), 1
MARKS = {
    "fill_taps": (_DISTANCE,),
    "first_pass": (_BYTE,),
    "second_pass": (_BYTE, _BYTES),
    "to_rgb": (_BYTE,),
}
_STORE = re.compile(r"STG\.E(?:\.(U8|U16|64|128))?\b")
_STORED = {"U8": 1, "U16": 2, None: 4, "64": 8, "128": 16}


def main(arguments: list[str] | None = None) -> None:
    """Print a table, or with --json what one Triton makes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--photos", type=int, default=1024)
    parser.add_argument("--triton", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="of the installed one, as JSON")
    given = parser.parse_args(arguments)
    if given.json:
        print(json.dumps(count(given.dtype, given.photos)))
        return
    print(f"warp instructions per image, {SIZE} px crops of 400 x 300 photos, {given.dtype}")
    for folder in (None, *given.triton):
        found = _ask(folder, given)
        for store, row in found["stores"].items():
            parts = ", ".join(f"{name} {value:,.0f}" for name, value in row["kernels"].items())
            total = f"{row['per_image']:9,.0f}"
            print(f"Triton {found['triton']}  {store:7} {total}  ({parts})")
            registers = ", ".join(f"{name} {n}" for name, n in row["registers"].items())
            print(f"{'':22}registers: {registers}")


def _ask(folder: Path | None, given: argparse.Namespace) -> Any:
    """Count in a process of its own, by a Triton in a folder or the installed one."""
    environment = dict(os.environ)
    if folder is not None:
        paths = (str(folder.resolve()), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-m", "bench.gpu.instructions", "--json", "--dtype", given.dtype]
    ended = subprocess.run(
        [*command, "--photos", str(given.photos)],
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
    )
    if ended.returncode:
        sys.exit(f"{folder or 'the installed Triton'}: failed with status {ended.returncode}")
    return json.loads(ended.stdout)


def count(dtype: str, photos: int) -> dict[str, Any]:
    """Instructions per image and kernel, of both stores."""
    import triton

    from pipelines.kernels import gpu

    rows = draw_rows(photos)
    stores = {}
    for store, planar in (("rgb", False), ("yuv420", True)):
        cubins, _ = compile_kernels(gpu, planar=planar, dtype=dtype)
        codes = {name: disassemble(each, name, triton) for name, each in cubins.items()}
        each = count_instructions(gpu, rows, codes, planar=planar, dtype=dtype)
        stores[store] = {
            "per_image": sum(each.values()),
            "kernels": each,
            "registers": {name: code.registers for name, code in codes.items()},
        }
    return {"triton": triton.__version__, "dtype": dtype, "photos": photos, "stores": stores}


def draw_rows(photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Geometry int32[B, 2, 4] and order bool[B] of a training epoch's rows."""
    from bench.gpu.kernel import MEAN_SIZE, draw_sides
    from pipelines.plan import make_plan
    from pipelines.rendering.geometry import make_geometry

    widths, heights = draw_sides(MEAN_SIZE, photos)
    plan = make_plan(widths, heights, view="train", size=SIZE)
    return make_geometry(plan.rows(np.asarray(plan.order)), plan)


def compile_kernels(
    gpu: ModuleType, *, planar: bool, dtype: str, cubic: bool = False, some: Sequence[str] = ()
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The kernels as `gpu` launches them, or some: cubin and PTX, by name. Takes no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    across = {"LINES": gpu._ACROSS_LINES, "COLUMNS": gpu._ACROSS_COLUMNS}
    common = {"SIZE": SIZE, "CUBIC": cubic}
    tiles = {**common, **across, "DOWN_LINES": gpu._DOWN_LINES, "VALUES": gpu._DOWN_VALUES}
    kernels: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (gpu.fill_taps, {**common, "BLOCK": gpu._FILTER_PX}, {"enable_fp_fusion": False}),
        (gpu.first_pass, {"PLANAR": planar, **tiles}, {"num_warps": 1}),
        (gpu.second_pass, {"NORMALIZED": True, **tiles}, {"num_warps": 1}),
    ]
    if planar:
        kernels.append((gpu.to_rgb, across, {"num_warps": 1}))
    types = {**POINTERS, **SIZES, **PLAIN, "out": f"*{dtype}"}
    cubins, assembly = {}, {}
    for kernel, constants, options in kernels:
        names, name = kernel.arg_names, kernel.fn.__name__
        if some and name not in some:
            continue
        signature = {name: types.get(name, "constexpr") for name in names}
        told = {
            (at,): [["tt.divisibility", 16]]
            for at, name in enumerate(names)
            if name in types and name not in PLAIN
        }
        source = ASTSource(kernel, signature, constants, told)
        made = triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, WARP), options=options)
        cubins[name], assembly[name] = made.asm["cubin"], made.asm["ptx"]
    return cubins, assembly


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions that are executed together: how many, what tells loops, where it goes on.

    Attributes:
        instructions: how many.
        marks: see `MARKS`.
        stored_bytes: by each thread.
        following: blocks that may be next.
        may_end: whether the program may end behind it.
    """

    instructions: int
    marks: int
    stored_bytes: int
    following: tuple[int, ...]
    may_end: bool


@dataclass(frozen=True, slots=True)
class Code:
    """A kernel's machine code; the first block is where it begins."""

    blocks: tuple[Block, ...]
    registers: int

    def shortest(self, marks: int, stored_bytes: int) -> int:
        """Instructions of the shortest way to an end with just so many marks and bytes.

        Raises:
            ValueError: there is none.
        """
        queue, least = [(0, 0, 0, 0)], dict[tuple[int, int, int], int]()
        while queue:  # Dijkstra's
            executed, at, marked, stored = heapq.heappop(queue)
            if executed >= least.get((at, marked, stored), executed + 1):
                continue
            least[at, marked, stored] = executed
            block = self.blocks[at]
            executed += block.instructions
            marked, stored = marked + block.marks, stored + block.stored_bytes
            if block.may_end and (marked, stored) == (marks, stored_bytes):
                return executed
            if marked <= marks and stored <= stored_bytes:
                for following in block.following:
                    heapq.heappush(queue, (executed, following, marked, stored))
        raise ValueError(f"no way has {marks} marks and stores {stored_bytes} bytes")


def disassemble(cubin: bytes, name: str, triton: ModuleType) -> Code:
    """A kernel's machine code as blocks, by the disassembler that Triton brings."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        listing, usage = (
            subprocess.run([tools / tool, option, file], capture_output=True, text=True, check=True)
            for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "--dump-resource-usage"))
        )
    registers = re.search(r"REG:(\d+)", usage.stdout)
    assert registers is not None, usage.stdout
    return Code(tuple(read_blocks(listing.stdout.splitlines(), name)), int(registers[1]))


def read_blocks(lines: list[str], kernel: str) -> Iterator[Block]:
    """Cut a listing where it branches and where it is branched to."""
    parts: list[list[tuple[str, str, str]]] = [[]]
    labels: dict[str, int] = {}
    for line in lines:
        if label := _LABEL.match(line):
            if parts[-1]:
                parts.append([])
            labels[label[1]] = len(parts) - 1
        elif found := _LINE.match(line):
            parts[-1].append((found[1] or "", found[2], line[found.start(2) :]))
            if found[2].startswith(_ENDS):
                parts.append([])
    if not parts[-1]:
        parts.pop()
    for at, part in enumerate(parts):
        guard, name, text = part[-1]
        following = [labels[label] for label in _TARGETS.findall(text) if name.startswith("BR")]
        # A branch may have its condition behind its name, too.
        goes_on = bool(guard) or not name.startswith(_ENDS) or bool(re.search(r"\bU?P\d", text))
        if goes_on and not name.startswith("BRX") and at + 1 < len(parts):
            following.append(at + 1)
        stores = [found[1] for _, _, each in part if (found := _STORE.match(each))]
        marks = sum(
            weight for _, _, each in part for mark, weight in MARKS[kernel] if mark.match(each)
        )
        stored = sum(_STORED[each] for each in stores)
        may_end = name.startswith("EXIT")
        yield Block(len(part), marks, stored, tuple(dict.fromkeys(following)), may_end)


def count_instructions(
    gpu: ModuleType,
    rows: tuple[np.ndarray, np.ndarray],
    codes: dict[str, Code],
    *,
    planar: bool,
    dtype: str,
) -> dict[str, float]:
    """Warp instructions per image of each kernel, in launches of all rows at once."""
    geometry, down_first = rows
    windows = gpu.find_windows(geometry, np.zeros_like(down_first), down_first, SIZE)
    shortest = {name: cache(code.shortest) for name, code in codes.items()}
    needs = gpu.find_needs(windows, SIZE, planar=planar)
    before, behind = gpu.find_grids(needs, SIZE)
    value_bytes = 4 if dtype == "fp32" else 2
    across, down = gpu._ACROSS_LINES * 3, gpu._DOWN_LINES * gpu._DOWN_VALUES // WARP
    across_tiles, down_tiles = (
        lambda *sides: prod(gpu.count_tiles_across(*sides)),
        lambda *sides: prod(gpu.count_tiles_down(*sides)),
    )
    totals = dict.fromkeys(codes, 0)
    for row, window in enumerate(windows.tolist()):
        (_, lines, needed_y, _), (_, columns, needed_x, _) = window
        scales = geometry[row, :, 1] / geometry[row, :, 2]
        for scale in scales.tolist():
            taps = int(np.ceil(max(scale, 1.0))) * 2 + 1
            way = shortest["fill_taps"](taps + max(taps, 4), 12)
            totals["fill_taps"] += way * _FILTER_WARPS * -(-SIZE // gpu._FILTER_PX)
        if down_first[row]:
            passes = (
                (down_tiles(SIZE, columns * 3), down, needed_y, down),
                (across_tiles(SIZE, SIZE), across, needed_x, across * value_bytes),
            )
        else:
            passes = (
                (across_tiles(lines, SIZE), across, needed_x, across),
                (down_tiles(SIZE, SIZE * 3), down, needed_y, down * value_bytes),
            )
        for name, grid, (tiles, loaded, needed, stored) in zip(
            ("first_pass", "second_pass"), (before, behind), passes, strict=True
        ):
            empty = grid[0] * grid[1] - tiles
            way, no_way = shortest[name](loaded * needed, stored), shortest[name](0, 0)
            totals[name] += tiles * way + empty * no_way
        if planar:
            tiles = across_tiles(lines, columns)
            empty = across_tiles(needs.lines, needs.columns) - tiles
            way, no_way = shortest["to_rgb"](across * 3, across), shortest["to_rgb"](0, 0)
            totals["to_rgb"] += tiles * way + empty * no_way
    return {name: total / len(geometry) for name, total in totals.items()}


if __name__ == "__main__":
    main()
