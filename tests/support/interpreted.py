"""Triton's interpreter, and the kernels in whose import Triton settles whether it interprets."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

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


def quicken_interpreter() -> None:
    """Spare the interpreter what it does again and again without need: it takes half the time."""
    from triton.runtime import interpreter

    # Overflows, which it looks for and then says nothing of but in debugging.
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = replace(builder.options, sanitize_overflow=False)
    find = interpreter._get_np_dtype
    find_cached = cache(find)
    interpreter._get_np_dtype = lambda dtype: (find if dtype.scalar.is_ptr() else find_cached)(
        dtype.scalar
    )
    real, patched = interpreter._patch_lang, set()

    @cache
    def find_languages(fn: Any) -> frozenset[int]:
        modules = [each for each in fn.__globals__.values() if isinstance(each, ModuleType)]
        tl = interpreter.tl
        return frozenset(id(each) for each in modules if each in (tl, tl.core))

    def patch_lang(fn: Any) -> Any:
        """A launch replaces the language and restores it; each call in it would replace it anew."""
        languages = find_languages(fn)
        if languages in patched:
            return None
        scope = real(fn)
        patched.add(languages)
        restore = scope.restore

        def end() -> None:
            restore()
            patched.discard(languages)

        scope.restore = end
        return scope

    interpreter._patch_lang = patch_lang
