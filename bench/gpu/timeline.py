"""Gaps, copies, synchronizations and allocations of a steady state, from a profiler's trace.

A trace is torch.profiler's, in Chrome's format: events with a category, start and duration in us.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Span = tuple[float, float]
Event = Mapping[str, Any]

#: The host waits in these; an event's query does not.
SYNCHRONIZING = (
    "cudaDeviceSynchronize",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuCtxSynchronize",
)
#: These take memory from the driver, which may wait for the whole device.
ALLOCATING = (
    "cudaMalloc",
    "cudaFree",
    "cudaHostAlloc",
    "cudaFreeHost",
    "cudaMallocAsync",
    "cudaFreeAsync",
    "cuMemCreate",
    "cuMemMap",
    "cuMemRelease",
)
#: Shorter ones lie between any two kernels.
_GAP_US = 20.0
_GAPS, _KERNELS = 5, 8


def summarize(events: Iterable[Event], steps: int, category: str = "kernel") -> dict[str, Any]:
    """Figures of a trace of so many steps.

    Args:
        events: of the trace.
        steps: how many it is of.
        category: of what counts as work; a rehearsal has no kernels.

    Returns:
        `span_ms` from the first kernel to the end of the last; `busy_share` of it that some kernel
        runs; `gaps`: how many of more than 20 us, their share of the span, the longest with what
        the host did meanwhile; `copies` by kind: how many a step, bytes, share beside kernels;
        `synchronizing` and `allocating`: calls a step by name and thread; `kernels`: the largest
        shares.
    """
    spans = [each for each in events if each.get("ph") == "X"]
    kernels = [each for each in spans if each.get("cat") == category]
    if not kernels:
        return {"failed": "the trace has no kernels"}
    copies = [each for each in spans if each.get("cat") == "gpu_memcpy"]
    calls = [each for each in spans if each.get("cat") in ("cuda_runtime", "cuda_driver")]
    busy = merge(map(_span, kernels))
    begin, end = busy[0][0], busy[-1][1]
    span_us = end - begin
    gaps = [(one[1], two[0]) for one, two in pairwise(busy)]
    long = sorted((gap for gap in gaps if gap[1] - gap[0] > _GAP_US), key=_length, reverse=True)
    host = [
        each
        for each in spans
        if each.get("cat") in ("cpu_op", "cuda_runtime", "cuda_driver", "user_annotation")
    ]
    return {
        "steps": steps,
        "span_ms": span_us / 1e3,
        "busy_share": sum(map(_length, busy)) / span_us,
        "gaps": {
            "count": len(long),
            "share": sum(map(_length, long)) / span_us,
            "longest": [
                {"us": _length(gap), "at_ms": (gap[0] - begin) / 1e3, "host": _doing(gap, host)}
                for gap in long[:_GAPS]
            ],
        },
        "copies": _copies(copies, busy, steps),
        "synchronizing": _per_step(calls, SYNCHRONIZING, steps),
        "allocating": _per_step(calls, ALLOCATING, steps),
        "kernels": _largest(kernels),
    }


def merge(spans: Iterable[Span]) -> list[Span]:
    """The union of these spans, in order, without overlaps."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def shared(span: Span, merged: Sequence[Span]) -> float:
    """The length of a span that lies within others."""
    return sum(max(0.0, min(span[1], end) - max(span[0], begin)) for begin, end in merged)


def _span(event: Event) -> Span:
    begin = float(event["ts"])
    return begin, begin + float(event.get("dur", 0))


def _length(span: Span) -> float:
    return span[1] - span[0]


def _copies(copies: Sequence[Event], busy: Sequence[Span], steps: int) -> dict[str, Any]:
    by_kind: dict[str, list[Event]] = defaultdict(list)
    for each in copies:
        by_kind[str(each["name"])].append(each)
    found = {}
    for kind, some in sorted(by_kind.items()):
        total = sum(_length(_span(each)) for each in some)
        beside = sum(shared(_span(each), busy) for each in some)
        found[kind] = {
            "per_step": len(some) / steps,
            "ms_per_step": total / 1e3 / steps,
            "bytes_per_step": sum(map(_bytes, some)) / steps,
            "beside_kernels": beside / total if total else 1.0,
        }
    return found


def _bytes(copy: Event) -> int:
    return int(copy.get("args", {}).get("bytes", 0))


def _per_step(calls: Sequence[Event], names: Sequence[str], steps: int) -> dict[str, Any]:
    counted: Counter[str] = Counter()
    took: dict[str, float] = defaultdict(float)
    for each in calls:
        if each["name"] in names:
            key = f"{each['name']} in thread {each.get('tid')}"
            counted[key] += 1
            took[key] += float(each.get("dur", 0))
    return {
        key: {"per_step": count / steps, "ms_per_step": took[key] / 1e3 / steps}
        for key, count in counted.most_common()
    }


def _doing(gap: Span, host: Sequence[Event]) -> list[str]:
    """The host's work during most of a gap: the innermost and largest calls, three at most."""
    shares = [
        (shared(_span(each), [gap]), -_length(_span(each)), str(each["name"])) for each in host
    ]
    most = sorted((each for each in shares if each[0] > _length(gap) / 4), reverse=True)
    return [name for _, _, name in most[:3]]


def _largest(kernels: Sequence[Event]) -> list[dict[str, Any]]:
    total: dict[str, float] = defaultdict(float)
    for each in kernels:
        total[str(each["name"])] += float(each.get("dur", 0))
    whole = sum(total.values())
    largest = sorted(total.items(), key=lambda item: item[1], reverse=True)[:_KERNELS]
    return [{"name": name[:100], "share": us / whole} for name, us in largest]
