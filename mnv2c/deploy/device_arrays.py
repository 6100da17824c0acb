"""Arrays of other Python packages on a GPU (PyTorch, CuPy, Numba, JAX), as an address.

What comes in: an object with ``__cuda_array_interface__`` (Numba's, version 2 or 3) or ``__dlpack__`` (the Python array
API standard). What goes out: where its elements are; nothing is copied. Every failure is a LibraryError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv2c.errors import LibraryError


@dataclass(frozen=True)
class DeviceArray:
    """``address`` of a C-contiguous array on a GPU; ``owner`` keeps its memory alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any


def device_array(x: Any) -> DeviceArray:
    """LibraryError where ``x`` is no array on a GPU, or not contiguous."""
    try:
        if hasattr(x, "__cuda_array_interface__"):
            return _of_interface(x)
        if hasattr(x, "__dlpack__"):
            return _of_dlpack(x)
    except (BufferError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise LibraryError(f"{type(x).__name__}: not an array on a GPU that can be shared: {reason}") from error
    raise LibraryError(
        f"{type(x).__name__}: not an array on a GPU: it has neither __cuda_array_interface__ nor __dlpack__"
    )


def _of_interface(x: Any) -> DeviceArray:
    fields = x.__cuda_array_interface__
    dtype, shape, strides = np.dtype(fields["typestr"]), tuple(map(int, fields["shape"])), fields.get("strides")
    if strides is not None and tuple(strides) != _contiguous(shape, dtype.itemsize):
        raise ValueError("it is not contiguous")
    if fields.get("mask") is not None:
        raise ValueError("it is masked")
    return DeviceArray(int(fields["data"][0]), shape, dtype, x)


def _of_dlpack(x: Any) -> DeviceArray:
    import tvm_ffi

    tensor = tvm_ffi.from_dlpack(x, require_contiguous=True)
    if tensor.device.type != "cuda":
        raise ValueError(f"it is on {tensor.device}")
    return DeviceArray(int(tensor.data_ptr()), tuple(map(int, tensor.shape)), np.dtype(str(tensor.dtype)), tensor)


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
