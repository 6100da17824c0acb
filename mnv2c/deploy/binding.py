"""Calls a compiled network through ctypes, with numpy alone: ``mnv2c.load`` does so, and so does a wheel of a library.

What comes in: the shared library, and what its header says of it. What goes out: a ``Network`` whose methods take and
return numpy arrays. Every failure is a NetworkError. Wheels hold a copy of this file: it imports nothing of mnv2c's,
and runs on Python 3.9.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMATS = {"rgb": 1, "bgr": 2, "rgbx": 3, "bgrx": 4, "yuyv": 5, "nv12": 6, "yuv420": 7}
_FITS = {"crop": 0, "stretch": 1}
_MATRICES = {"bt601": 0, "bt601_full": 1, "bt709": 2}
_CHANNELS = {"rgb": 3, "bgr": 3, "rgbx": 4, "bgrx": 4, "yuyv": 2}
"""Bytes of a pixel, the last axis of an array; those of the other formats lie in planes."""


class NetworkError(Exception):
    """A call that failed, in one line; ``status`` is the library's own where that was asked."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int),
        ("instruction_set", ctypes.c_char_p),
        ("share_threads_with", ctypes.c_void_p),
        ("cpus", ctypes.POINTER(ctypes.c_int)),
        ("cpu_count", ctypes.c_int),
    )


class _Image(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("planes", ctypes.c_void_p * 3),
        ("strides", ctypes.c_size_t * 3),
        ("fit", ctypes.c_int),
        ("matrix", ctypes.c_int),
    )


class Network:
    """A context of the library. Close it, or use it in a ``with``.

    ``input_shape`` is (batch, height, width, channels); ``output_shapes`` are by name, in the order of the C functions'
    arguments: ``logits`` has (batch, classes).
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        identifier: str,
        input_shape: tuple[int, int, int, int],
        output_shapes: Mapping[str, tuple[int, ...]],
        *,
        threads: int = 1,
        instruction_set: str | None = None,
        share_threads_with: Network | None = None,
        cpus: Sequence[int] | None = None,
    ) -> None:
        """``threads`` share the work, the caller included, and run on ``cpus``, as the C header says;
        ``instruction_set`` forces one of the library's."""
        self.input_shape, self.output_shapes = input_shape, output_shapes
        self._library, self._identifier = library, identifier
        self._context = ctypes.c_void_p()
        check_shapes(self._shapes(), input_shape, output_shapes)
        share = None if share_threads_with is None else share_threads_with._alive()
        name = None if instruction_set is None else instruction_set.encode()
        numbers = None if cpus is None else (ctypes.c_int * len(cpus))(*cpus)
        count = 0 if cpus is None else len(cpus)
        options = _Options(ctypes.sizeof(_Options), threads, name, share, numbers, count)
        self._check(self._function("create")(ctypes.byref(options), ctypes.byref(self._context)))

    @property
    def instruction_set(self) -> str:
        """The one in use."""
        return cast(bytes, self._function("instruction_set", ctypes.c_char_p)(self._alive())).decode()

    @property
    def threads(self) -> int:
        """How many share the work, the caller included."""
        return cast(int, self._function("threads")(self._alive()))

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The one output, such as logits (batch, classes), of normalised images.

        ``x`` is float32 NHWC, or HWC where the batch is 1.
        """
        return self._one_of("run", fitting(x, np.float32, self.input_shape))

    def run_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same of raw RGB bytes: uint8 NHWC, or HWC where the batch is 1."""
        return self._one_of("run_rgb", fitting(image, np.uint8, self.input_shape))

    def run_image(
        self,
        image: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        format: str,
        *,
        fit: str = "crop",
        matrix: str = "bt601",
    ) -> NDArray[np.float32]:
        """The same of an image of any size, as a camera delivers it, or of as many as the batch has; see the C header.

        ``image`` is uint8. ``format`` is its order in memory: ``rgb`` or ``bgr`` (height, width, 3), ``rgbx`` or
        ``bgrx`` (height, width, 4), ``yuyv`` (height, width, 2), ``nv12`` or ``yuv420`` (height * 3 / 2, width). Rows
        may lie apart; other gaps cost a copy. ``fit`` is ``crop``, the middle as ``mnv2c run`` takes it, or
        ``stretch``; ``matrix``, of YUV, ``bt601``, ``bt601_full`` or ``bt709``.
        """
        batch = self.input_shape[0]
        arrays = [np.asarray(one) for one in ([image] if batch == 1 else image)]
        if len(arrays) != batch:
            raise NetworkError(f"expected {batch} images, got {len(arrays)}")
        described = [_described(array, format, fit, matrix) for array in arrays]
        images = (_Image * batch)(*(one for one, _ in described))
        return self._one_of("run_image", images)

    def outputs(self, x: NDArray[np.float32] | NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output by name, of normalised images (float32) or raw RGB bytes (uint8)."""
        if np.asarray(x).dtype == np.uint8:
            return self.run_on("run_rgb", fitting(x, np.uint8, self.input_shape))
        return self.run_on("run", fitting(x, np.float32, self.input_shape))

    def run_on(self, function: str, x: NDArray[Any] | ctypes.Array[_Image]) -> dict[str, NDArray[np.float32]]:
        """Every output by name of what the C ``function`` takes, an array or descriptions of images."""
        outputs = {name: np.empty(shape, np.float32) for name, shape in self.output_shapes.items()}
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in outputs.values()]
        self.call(function, ctypes.c_void_p(x.ctypes.data) if isinstance(x, np.ndarray) else x, *pointers)
        return outputs

    def call(self, name: str, *arguments: Any) -> None:
        """A C function that takes the context first and returns a status."""
        self._check(self._function(name)(self._alive(), *arguments))

    def close(self) -> None:
        """Frees the context; afterwards only ``close`` may be called. No other thread may be running it."""
        context, self._context = self._context, ctypes.c_void_p()
        if context:
            self._function("destroy", None)(context)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_context"):
            self.close()

    def _shapes(self) -> list[tuple[int, ...]]:
        """The library's own, of its input and of its outputs."""
        function, shape = self._function("shape"), (ctypes.c_int64 * 4)()
        shapes: list[tuple[int, ...]] = []
        while rank := function(len(shapes), shape):
            shapes.append(tuple(shape[:rank]))
        return shapes

    def _one_of(self, function: str, x: NDArray[Any] | ctypes.Array[_Image]) -> NDArray[np.float32]:
        if len(self.output_shapes) > 1:
            names = ", ".join(self.output_shapes)
            raise NetworkError(f"{function} is for a network with one output; this one has {names}: use outputs")
        return next(iter(self.run_on(function, x).values()))

    def _function(self, name: str, result: Any = ctypes.c_int) -> Any:
        symbol = f"{self._identifier}_{name}"
        try:
            function = self._library[symbol]
        except AttributeError as error:
            raise NetworkError(f"the library lacks {symbol}; build it again") from error
        function.restype = result
        return function

    def _check(self, status: int) -> None:
        if status != 0:
            message = cast(bytes, self._function("message", ctypes.c_char_p)(status)).decode()
            raise NetworkError(message, status)

    def _alive(self) -> ctypes.c_void_p:
        if not self._context:
            raise NetworkError("the network is closed")
        return self._context


def check_shapes(
    own: Sequence[tuple[int, ...]], input_shape: tuple[int, ...], output_shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """NetworkError where the ``own`` shapes of a library, of its input and of its outputs, are not those said of it."""
    if len(own) != 1 + len(output_shapes):
        raise NetworkError(f"the library has {len(own) - 1} outputs, not {len(output_shapes)}; build it again")
    for tensor, (name, shape) in enumerate([("input", input_shape), *output_shapes.items()]):
        if own[tensor] != shape:
            raise NetworkError(f"the library's {name} has the shape {own[tensor]}, not {shape}; build it again")


def fitting(x: Any, dtype: type[np.float32] | type[np.uint8], shape: tuple[int, ...]) -> NDArray[Any]:
    """``x`` as a contiguous array of ``shape``, its values unchanged.

    NetworkError where its type is not ``dtype`` or its shape is another; the batch axis may be missing where it is 1.
    """
    array = np.asarray(x)
    if array.dtype != dtype:
        raise NetworkError(f"expected an array of {np.dtype(dtype)}, got {array.dtype}; see numpy's astype")
    if shape[0] == 1 and array.ndim == len(shape) - 1:
        array = array[np.newaxis]
    if array.shape != shape:
        raise NetworkError(f"expected an array of shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array)


def _described(array: NDArray[Any], format: str, fit: str, matrix: str) -> tuple[_Image, NDArray[np.uint8]]:
    """The C description, and the array that it points into, which must outlive it."""
    numbers = [_number("format", format, _FORMATS), _number("fit", fit, _FITS), _number("matrix", matrix, _MATRICES)]
    if array.dtype != np.uint8:
        raise NetworkError(f"expected an image of uint8, got {array.dtype}")
    channels = _CHANNELS.get(format)
    if channels is None and (array.ndim != 2 or array.shape[0] % 3):
        raise NetworkError(f"expected an image of {format} of shape (height * 3 / 2, width), got {array.shape}")
    if channels is not None and (array.ndim != 3 or array.shape[2] != channels):
        raise NetworkError(f"expected an image of {format} of shape (height, width, {channels}), got {array.shape}")
    pixel = (channels, 1) if channels else (1,)
    halves = 2 if format == "yuv420" else 1  # rows of U and of V in a row of the array
    stride = array.strides[0]
    if array.strides[1:] != pixel or stride < array.shape[1] * pixel[0] or stride % halves:
        array = array.copy()
        stride = array.strides[0]
    height = array.shape[0] if channels else array.shape[0] // 3 * 2
    first, half = array.ctypes.data, stride // halves
    second = first + stride * height
    image = _Image(
        format=numbers[0],
        width=array.shape[1],
        height=height,
        planes=(first, second, second + half * (height // 2)),
        strides=(stride, half, half),
        fit=numbers[1],
        matrix=numbers[2],
    )
    return image, array


def _number(what: str, name: str, numbers: Mapping[str, int]) -> int:
    if name not in numbers:
        raise NetworkError(f"unknown {what} {name!r}: there are {', '.join(numbers)}")
    return numbers[name]
