"""The Triton kernels of operations, in whose import Triton settles whether it interprets."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest


def load_changing(
    load_kernels: Callable[..., ModuleType], name: str
) -> tuple[ModuleType, ModuleType]:
    """`changing` and `changing_passes`, imported anew."""
    passes = "pipelines.kernels.changing_passes"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, passes, raising=False)
        return load_kernels(name, "changing.py"), sys.modules.pop(passes)


def make_changing(device: str, load_kernels: Callable[..., ModuleType]) -> ModuleType:
    """`changing`, changed where it is interpreted: an operation takes as long on few pixels."""
    if device != "cpu":
        return load_changing(load_kernels, "compiled_changing")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        module, passes = load_changing(load_kernels, "interpreted_changing")
    from triton.language import standard

    module.__dict__["_PIXELS"] = 4096
    # NumPy takes the place of these three, but only of Triton's own.
    own = {name: getattr(passes, name) for name in ("_add", "_lesser", "_greater")}
    vars(passes).update(
        _add=standard._sum_combine,
        _lesser=standard._elementwise_min,
        _greater=standard._elementwise_max,
    )
    module.__dict__["own"] = passes, own
    return module
