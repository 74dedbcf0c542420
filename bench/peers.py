"""The libraries' own training pipelines, each as its own documentation recommends.

All give `(images, labels)` without end, epoch after epoch: images float32[B, 3, S, S], normalized;
labels int64[B]; RandomResizedCrop's distribution of crops at its defaults, flips of one half. They
share no code with our loaders, draw their own random numbers, and import nothing before they are
called, each in a process of its own (`remote.py`).

Arguments of all: `data`, what they read (a class folder; for FFCV a `.beton`); `batch_size`, B;
`cores`, how many workers, processes or threads, each as its library counts them; `size`, S, px.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.remote import CannotRun
from bench.stock_ffcv import stock_batches as stock_ffcv

if TYPE_CHECKING:
    import torch

__all__ = [
    "stock_dali",
    "stock_ffcv",
    "stock_spdl",
    "stock_timm",
    "stock_torchvision",
    "stock_torchvision_augmented",
    "stock_torchvision_tensors",
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: RandomResizedCrop's: share of the area, and how often a fitting crop is tried for.
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10

Batch = tuple["torch.Tensor", "torch.Tensor"]


def stock_torchvision(data: Path, batch_size: int, cores: int, size: int) -> Iterator[Batch]:
    """DataLoader on images that Pillow decodes.

    Source: the transfer learning tutorial and references/classification of torchvision.
    """
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    yield from _data_loader(ImageFolder(str(data), transform), batch_size, cores)


def stock_torchvision_tensors(
    data: Path, batch_size: int, cores: int, size: int
) -> Iterator[Batch]:
    """DataLoader on images that torchvision decodes to tensors, uint8 until they are normalized.

    Source: torchvision's documentation, "Transforming and augmenting images", its section on
    performance: transforms v2, uint8 tensors, `antialias=True`; `torchvision.io.decode_image`.
    """
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    folder = ImageFolder(str(data), transform, loader=partial(decode_image, mode=ImageReadMode.RGB))
    yield from _data_loader(folder, batch_size, cores)


def stock_torchvision_augmented(
    data: Path, batch_size: int, cores: int, size: int
) -> Iterator[Batch]:
    """The same with TrivialAugmentWide and random erasing.

    Source: torchvision's reference training, `references/classification/presets.py`.
    """
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(0.25),
        ]
    )
    yield from _data_loader(ImageFolder(str(data), transform), batch_size, cores)


def _data_loader(folder: Any, batch_size: int, cores: int) -> Iterator[Batch]:
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        folder, batch_size=batch_size, shuffle=True, num_workers=cores, persistent_workers=True
    )
    for _ in count():
        yield from loader


def stock_timm(
    data: Path, batch_size: int, cores: int, size: int, *, augmented: bool = False
) -> Iterator[Batch]:
    """timm's loader, its prefetcher normalizing batches; crops and flips alone as augmentation.

    It leaves out a last batch that is not full. It has no TrivialAugment: `augmented` takes its
    RandAugment with one operation for each image, and random erasing.
    Source: timm's documentation of `create_dataset` and `create_loader`, and its train.py.
    """
    import torch
    from timm.data import create_dataset, create_loader

    classes = sorted(folder.name for folder in data.iterdir())
    dataset = create_dataset(
        "",
        root=str(data),
        split="train",
        is_training=True,
        batch_size=batch_size,
        class_map={name: label for label, name in enumerate(classes)},
    )
    loader = create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=True,
        scale=AREA,
        ratio=RATIO,
        hflip=0.5,
        color_jitter=None,
        auto_augment="rand-m9-n1-mstd0.5" if augmented else None,
        re_prob=0.25 if augmented else 0.0,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=cores,
        device=torch.device("cpu"),
        persistent_workers=True,
    )
    for _ in count():
        yield from loader


def stock_dali(
    data: Path, batch_size: int, cores: int, size: int, device: str = "cpu"
) -> Iterator[Batch]:
    """DALI reading files, decoding nothing but the crops; on a GPU all of that happens there.

    Source: DALI's ResNet-50 example for PyTorch, its crop at the operator's defaults.
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator

    on_gpu = device != "cpu"

    @pipeline_def(batch_size=batch_size, num_threads=cores, device_id=0 if on_gpu else None)
    def pipeline() -> Any:
        encoded, labels = fn.readers.file(
            file_root=str(data), random_shuffle=True, pad_last_batch=True, name="Reader"
        )
        images = fn.decoders.image_random_crop(
            encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB
        )
        images = fn.resize(
            images, resize_x=size, resize_y=size, interp_type=types.INTERP_TRIANGULAR
        )
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            crop=(size, size),
            mean=[255 * mean for mean in MEAN],
            std=[255 * std for std in STD],
            mirror=fn.random.coin_flip(probability=0.5),
        )
        return images, labels.gpu() if on_gpu else labels

    loader = DALIClassificationIterator(
        pipeline(), reader_name="Reader", auto_reset=True, last_batch_policy=LastBatchPolicy.PARTIAL
    )
    for _ in count():
        for (batch,) in loader:
            yield batch["data"], batch["label"].squeeze(-1).long()


def stock_spdl(data: Path, batch_size: int, cores: int, size: int) -> Iterator[Batch]:
    """SPDL's pipeline in threads, crops and flips by FFmpeg's filters.

    Its documentation shows no RandomResizedCrop, but a filter description drawn for each image:
    that is how the crop is given here. FFmpeg puts a crop of subsampled chroma at even pixels, as
    its filter's default is; `bilinear` widens its filter when it shrinks, as antialiasing does.
    Source: SPDL's documentation, "Migrating from PyTorch DataLoader" (stages and their threads)
    and "Using filters for augmentation"; normalization as in its ImageNet example.

    Raises:
        CannotRun: FFmpeg's libraries are not here.
    """
    import torch
    from spdl import io
    from spdl.pipeline import PipelineBuilder

    try:
        io.utils.get_ffmpeg_versions()
    except RuntimeError:
        raise CannotRun("SPDL finds no libraries of FFmpeg; apt-get install ffmpeg") from None

    def decode(sample: tuple[str, int]) -> tuple[Any, int]:
        path, label = sample
        packets = io.demux_image(path)
        top, left, height, width = random_crop(packets.height, packets.width)
        filters = [f"crop=w={width}:h={height}:x={left}:y={top}"]
        filters.append(f"scale=w={size}:h={size}:flags=bilinear")
        if random.random() < 0.5:
            filters.append("hflip")
        described = io.get_video_filter_desc(filter_desc=",".join(filters), pix_fmt="rgb24")
        return io.decode_packets(packets, filter_desc=described), label

    mean, std = (torch.tensor(each).view(3, 1, 1) * 255 for each in (MEAN, STD))

    def batch(samples: list[tuple[Any, int]]) -> Batch:
        frames, labels = zip(*samples, strict=True)
        pixels = io.to_torch(io.convert_frames(list(frames))).permute(0, 3, 1, 2)
        return pixels.float().sub_(mean).div_(std), torch.tensor(labels)

    pipeline = (
        PipelineBuilder()
        .add_source(_Shuffled(data), continuous=True)
        .pipe(decode, concurrency=cores)
        .aggregate(batch_size)
        .pipe(batch)
        .add_sink(3)  # as spdl.dataloader's default
        .build(num_threads=cores)
    )
    with pipeline.auto_stop():
        for _ in count():
            yield from pipeline.get_iterator()


class _Shuffled:
    """The paths and labels of a class folder, shuffled anew each time they are gone through."""

    def __init__(self, root: Path) -> None:
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
        self._samples = [
            (str(path), label)
            for label, folder in enumerate(folders)
            for path in sorted(folder.iterdir())
        ]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        random.shuffle(self._samples)
        return iter(self._samples)


def random_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Draw a crop as torchvision's RandomResizedCrop does: top, left, height, width, px."""
    for _ in range(TRIES):
        area = height * width * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = random.randint(0, height - crop_height)
            return top, random.randint(0, width - crop_width), crop_height, crop_width
    # The largest centred crop of a ratio that is allowed.
    crop_width = min(width, round(height * RATIO[1]))
    crop_height = min(height, round(width / RATIO[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
