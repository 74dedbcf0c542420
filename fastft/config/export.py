"""Settings of `fastft export`, as one frozen dataclass; the only place of their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastft.config.checks import choose, require
from pipelines.errors import UsageError

#: Formats, and how the files of each end.
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a trained model for others to run.

    Attributes:
        run: a run folder (its `best.safetensors` is taken) or a checkpoint.
        format: `onnx`; `torch`, a program of torch.export; or `safetensors`, the weights alone.
        out: the folder to make; None takes `exported/FORMAT` beside the checkpoint.
        with_preprocessing: whether resizing, cutting and normalization become part of the model,
            which then takes whole photos.
        check: photos to compare the model's predictions on: files, folders or patterns; none takes
            the run's evaluation data, if they are there, else synthetic photos.
        check_images: so many of them, spread evenly.
        overwrite: replace an earlier export in `out`.
    """

    run: Path
    format: str = "onnx"
    out: Path | None = None
    with_preprocessing: bool = False
    check: tuple[Path, ...] = ()
    check_images: int = 64
    overwrite: bool = False

    def __post_init__(self) -> None:
        choose("--format", self.format, tuple(SUFFIXES))
        require("--check-images", self.check_images, 1, 100_000)
        if self.with_preprocessing and self.format == "safetensors":
            found, remedy = "given with --format safetensors, which holds weights alone", ""
            raise UsageError("--with-preprocessing", found, "--format onnx or torch", remedy)

    @property
    def file_name(self) -> str:
        """The name of the model's file."""
        return f"model{SUFFIXES[self.format]}"

    def folder(self, checkpoint: Path) -> Path:
        """The folder to make for a checkpoint."""
        photos = "-photos" if self.with_preprocessing else ""
        return self.out or checkpoint.parent / "exported" / f"{self.format}{photos}"
