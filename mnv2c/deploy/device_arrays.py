"""Arrays of other Python packages on a GPU (PyTorch, CuPy, Numba, JAX), as an address.

What comes in: an object with ``__cuda_array_interface__`` (Numba's, version 2 or 3) or ``__dlpack__`` (the Python array
API standard). What goes out: where its elements are; nothing is copied. Every failure is a LibraryError.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv2c.errors import LibraryError

_CUDA = 2  # kDLCUDA
_CODES = {0: "i", 1: "u", 2: "f"}  # kDLInt, kDLUInt, kDLFloat


class _DLTensor(ctypes.Structure):
    """Of dlpack.h, as a DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


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
    except (AttributeError, BufferError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
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
    """Reads the tensor in the capsule, and leaves it there: the capsule frees it."""
    if x.__dlpack_device__()[0] != _CUDA:
        raise ValueError("it is not on a CUDA device")
    capsule = x.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    if (tensor.code, tensor.lanes) not in ((code, 1) for code in _CODES):
        raise ValueError("its elements are of a type that numpy has not")
    dtype = np.dtype(f"{_CODES[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(dtype.itemsize * stride for stride in tensor.strides[: tensor.ndim]) if tensor.strides else None
    if strides not in (None, _contiguous(shape, dtype.itemsize)):
        raise ValueError("it is not contiguous")
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, capsule)


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
