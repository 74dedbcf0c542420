"""Sums of a GPU's trace."""

from typing import Any

import pytest

from bench.gpu.timeline import merge, shared, summarize


def kernel(begin: float, us: float, name: str = "conv") -> dict[str, Any]:
    return {"ph": "X", "cat": "kernel", "name": name, "ts": begin, "dur": us}


def host(name: str, begin: float, us: float, tid: int = 1, cat: str = "cuda_runtime") -> Any:
    return {"ph": "X", "cat": cat, "name": name, "ts": begin, "dur": us, "tid": tid}


def test_a_trace_is_summed_up() -> None:
    copy = {
        "ph": "X",
        "cat": "gpu_memcpy",
        "name": "Memcpy HtoD (Pinned -> Device)",
        "ts": 50,
        "dur": 100,
        "args": {"bytes": 4096},
    }
    found = summarize(
        [
            kernel(0, 100),
            kernel(90, 10, "bn"),
            kernel(300, 100),
            kernel(410, 590),
            copy,
            host("cudaStreamSynchronize", 100, 200),
            host("cudaMalloc", 500, 30, tid=2),
            host("cudaLaunchKernel", 280, 10),
            host("aten::to", 95, 210, cat="cpu_op"),
            {"ph": "M", "name": "process_name"},
        ],
        steps=2,
    )
    assert found["span_ms"] == 1.0
    assert found["busy_share"] == pytest.approx(0.79)
    assert found["gaps"]["count"] == 1  # that of 10 us lies between any two kernels
    assert found["gaps"]["share"] == pytest.approx(0.2)
    (gap,) = found["gaps"]["longest"]
    assert gap["us"] == 200
    assert gap["host"] == ["cudaStreamSynchronize", "aten::to"]
    (copies,) = found["copies"].values()
    assert copies == {
        "per_step": 0.5,
        "ms_per_step": 0.05,
        "bytes_per_step": 2048,
        "beside_kernels": 0.5,
    }
    assert found["synchronizing"] == {
        "cudaStreamSynchronize in thread 1": {"per_step": 0.5, "ms_per_step": 0.1}
    }
    assert found["allocating"] == {
        "cudaMalloc in thread 2": {"per_step": 0.5, "ms_per_step": 0.015}
    }
    assert [each["name"] for each in found["kernels"]] == ["conv", "bn"]


def test_a_trace_without_kernels_says_so() -> None:
    assert "no kernels" in summarize([host("cudaMalloc", 0, 1)], 1)["failed"]


def test_spans() -> None:
    assert merge([(5, 7), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 7)]
    assert shared((2, 6), [(0, 4), (5, 7)]) == 3
