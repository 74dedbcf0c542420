"""Checks of what loaders are given, common to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pipelines.errors import UsageError
from pipelines.formats.source import Source
from pipelines.plan import DECODES, SHUFFLED, Decode
from pipelines.sampling import Frequencies, Sampler, find_frequencies, require_sampler

#: Arguments of `Loader` that are attributes of the same name.
ARGUMENTS = (
    "view",
    "size",
    "batch_size",
    "seed",
    "device",
    "dtype",
    "workers",
    "rank",
    "world",
    "drop_last",
    "decode",
    "augment",
    "preprocessing",
)
_SCALING = "take loader 'ffcv' or 'torchvision', or 'resident' with store_side"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_batches(
    source: Source, batch_size: int, rank: int, world: int, workers: int, *, drop_last: bool
) -> None:
    """Refuse batches that cannot be made; see `make_loader`.

    Raises:
        UsageError: numbers out of range, or an epoch without a batch.
    """
    if batch_size < 1 or not 0 <= rank < world or workers < 0:
        found = f"{batch_size}, {rank} of {world}, {workers}"
        raise UsageError("batch size, rank, workers", found, "a positive batch, rank < world")
    if drop_last and batch_size > len(source):
        raise UsageError(
            "batch size",
            f"{batch_size} for the {len(source)} samples of {source.path}",
            f"at most {len(source)} when the last batch is dropped",
            "take a smaller batch",
        )


def check_kind(
    loader: str, decodes: Sequence[Decode], decode: Decode, dtype: torch.dtype | None
) -> None:
    """Refuse pixels that a loader does not make.

    Args:
        loader: its name in errors.
        decodes: how it can decode.
        decode, dtype: what is asked for; None is anything.

    Raises:
        UsageError: it cannot.
    """
    if decode not in decodes:
        known = " or ".join(map(repr, decodes))
        remedy = _SCALING if decode in DECODES else ""
        raise UsageError(loader, f"decode {decode!r}", f"decode {known}", remedy)
    if dtype is not None and dtype not in _DTYPES:
        raise UsageError("dtype", str(dtype), "float32, bfloat16 or float16")


def frequencies_of(source: Source, view: str, sampler: Sampler) -> Frequencies | None:
    """The frequencies of a source's samples; None: each comes once.

    Raises:
        UsageError: as `find_frequencies`, or a sampler for a view that visits each sample once.
        DataError: as `find_frequencies`.
    """
    require_sampler(sampler)
    if sampler == "shuffle":
        return None
    if view not in SHUFFLED:
        views = " or ".join(map(repr, SHUFFLED))
        raise UsageError("sampler", f"{sampler!r} with view {view!r}", f"view {views}")
    columns = source.columns
    return find_frequencies(
        sampler,
        source.labels,
        task=columns.task,
        targets=columns.targets,
        weights=columns.weights,
        where=source.path,
    )


def check_state(state: Mapping[str, int], seed: int, batch_size: int, samples: int) -> None:
    """Refuse a position that no loader of these arguments has had.

    Raises:
        UsageError: it is of another seed, or consumed a broken number of samples.
    """
    consumed = state["consumed"]
    whole = consumed % batch_size == 0 or consumed == samples
    if state["seed"] != seed or not whole or not 0 <= consumed <= samples:
        found = f"seed {state['seed']}, {consumed} samples consumed"
        expected = f"seed {seed} and whole batches of {batch_size}"
        raise UsageError("loader state", found, expected)
