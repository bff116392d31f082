"""Patches of Triton's interpreter: bfloat16 arithmetic as on a GPU, and faster calls.

Up to Triton 3.9 it rounds float32 to bfloat16 towards zero, makes infinity of some NaN, and multiplies the bit patterns
of bfloat16 operands as whole numbers (triton#11584). Both are replaced when this package is imported under
`TRITON_INTERPRET=1`, so that the numerics of bfloat16 can be checked without a GPU. Triton also patches the
language's functions at every call within a kernel, where once a kernel is enough.
"""

from __future__ import annotations

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def correct() -> None:
    """Patch the interpreter's conversions and products of bfloat16, and its repeated patching, once a process."""
    if getattr(InterpreterBuilder, "_istvt_corrected", False):
        return
    InterpreterBuilder._istvt_corrected = True
    for name in ("cast_impl", "create_fp_to_fp"):
        setattr(InterpreterBuilder, name, _converting(getattr(InterpreterBuilder, name)))
    InterpreterBuilder.create_dot = _widening(InterpreterBuilder.create_dot)
    interpreter._patch_lang = _preparing_once(interpreter._patch_lang)


def _preparing_once(original):
    def prepare(function):
        visible = [lang for lang in (tl, tl.core) if any(value is lang for value in function.__globals__.values())]
        if any(tl.core.is_builtin(lang.load) for lang in visible):
            return original(function)
        return interpreter._LangPatchScope()  # called from a kernel, whose names are patched already

    return prepare


def _converting(original):
    def convert(self, source, target, *rounding):
        pair = (source.dtype.scalar, target.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(to_bfloat16(source.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(to_float32(source.data), tl.float32)
        return original(self, source, target, *rounding)

    return convert


def _widening(original):
    def dot(self, a, b, *rest):
        a, b = (TensorHandle(to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return original(self, a, b, *rest)

    return dot


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, ties to even, as bit patterns (uint16)."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits + (0x7FFF + (bits >> np.uint32(16) & np.uint32(1)))
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded >> np.uint32(16)).astype(np.uint16)


def to_float32(bits: np.ndarray) -> np.ndarray:
    """Widen bit patterns of bfloat16 (uint16) to float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
