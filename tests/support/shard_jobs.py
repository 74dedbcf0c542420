"""Conversions and the jobs that share them, and what they leave."""

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.conversion.run import ConvertConfig, convert


def run(src: Path, out: Path, **options: Any) -> Any:
    return convert(ConvertConfig(src=src, out=out, **{"max_bad": "2", **options}))


def run_shards(src: Path, out: Path, of: int, **options: Any) -> None:
    for index in range(of, 0, -1):  # in no order that anyone relies on
        run(src, out, shard=f"{index}/{of}", workers=index % 3 + 1, **options)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, by name: its bytes' hash."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def one_pixel(folder: Path, names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
