"""Run by ``test_cuda_library`` where the stand-in is the driver: enqueues from arrays of both protocols, and misuse."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from mnv2c.deploy.native import Network, load
from mnv2c.errors import LibraryError

DRIVER = ctypes.CDLL("libcuda.so.1")
CUDA_DEVICE = 2  # kDLCUDA
OFFSET = 256  # bytes from what a DLPack tensor calls its data to its first element
STREAM = ctypes.c_void_p()


def ok(status: int) -> None:
    if status:
        raise SystemExit(f"the driver returned {status}")


class OnDevice:
    """A copy of an array, in the memory of the device; the base of two producers."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.pointer = array, ctypes.c_uint64()
        ok(DRIVER.cuMemAlloc_v2(ctypes.byref(self.pointer), ctypes.c_size_t(array.nbytes)))
        ctypes.memmove(self.pointer.value, array.ctypes.data, array.nbytes)  # the stand-in's memory is the host's

    def to_host(self) -> np.ndarray:
        """What is there now."""
        ok(DRIVER.cuStreamSynchronize(STREAM))
        ctypes.memmove(self.array.ctypes.data, self.pointer.value, self.array.nbytes)
        return self.array


class Interface(OnDevice):
    """As Numba and CuPy give it."""

    strides: tuple[int, ...] | None = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        typestr, data = self.array.dtype.str, (self.pointer.value, False)
        return {"shape": self.array.shape, "typestr": typestr, "data": data, "version": 3, "strides": self.strides}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int),
        ("device_id", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class DLPack(OnDevice):
    """DLManagedTensor of dlpack.h, in a capsule."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA_DEVICE, 0

    def __dlpack__(self, **_: Any) -> Any:
        shape = self.array.shape
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        code, bits = (2 if self.array.dtype.kind == "f" else 1), 8 * self.array.itemsize
        dims = (len(shape), code, bits, 1)
        begin = self.pointer.value - OFFSET
        self._tensor = _Tensor(begin, CUDA_DEVICE, 0, *dims, self._shape, None, OFFSET, None, None)
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return capsule(ctypes.addressof(self._tensor), b"dltensor", None)


def refused(network: Network, words: str, *arguments: Any) -> None:
    try:
        network.enqueue(*arguments)
    except LibraryError as error:
        if words not in str(error) or "\n" in str(error):
            raise SystemExit(f"refused in other words: {error}") from error
    else:
        raise SystemExit(f"not refused: {words}")


def main(directory: str) -> None:
    network = load(directory)
    (shape,) = network.output_shapes.values()
    primary = ctypes.c_void_p()
    ok(DRIVER.cuDevicePrimaryCtxRetain(ctypes.byref(primary), 0))
    ok(DRIVER.cuCtxPushCurrent_v2(primary))
    ok(DRIVER.cuStreamCreate(ctypes.byref(STREAM), 1))
    rgb = np.random.default_rng(0).integers(0, 256, network.input_shape, np.uint8)
    x = ((rgb - np.float32(127.5)) / np.float32(127.5)).astype(np.float32)
    empty = np.zeros(shape, np.float32)
    for producer in (Interface, DLPack):
        for image, expected in ((x, network.run(x)), (rgb, network.run_rgb(rgb)), (x[0], network.run(x))):
            logits = producer(empty.copy())
            network.enqueue(producer(image), logits, stream=STREAM.value)
            np.testing.assert_array_equal(logits.to_host(), expected)
    image, logits = Interface(x), Interface(empty)
    refused(network, "neither __cuda_array_interface__ nor __dlpack__", [1.0], logits)
    refused(network, "it is not on a CUDA device", x, logits)
    refused(network, "float32 or uint8, not float64", Interface(x.astype(np.float64)), logits)
    refused(network, "x has the shape", Interface(x[:, :5].copy()), logits)
    refused(network, "logits has the shape", image, Interface(empty[:, :5].copy()))
    refused(network, "logits is float32, not int32", image, Interface(empty.astype(np.int32)))
    refused(network, "1 outputs, not 2", image, logits, logits)
    strided = Interface(x)
    strided.strides = (4, 4, 4, 4)
    refused(network, "it is not contiguous", strided, logits)
    strides = DLPack(x[:, :, :48].copy())
    refused(network, "x has the shape", strides, logits)
    null = Interface(x)
    null.pointer = ctypes.c_uint64()
    refused(network, "null pointer", null, logits)
    print("arrays of both protocols: all as they should")


main(sys.argv[1])
