"""Runs a built library from Python, with ctypes and numpy alone.

What comes in: a directory that ``mnv2c build`` wrote. What goes out: a ``Network`` whose methods take and return numpy
arrays. Every failure is a LibraryError.
"""

from __future__ import annotations

import ctypes
import json
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import LibraryError

_OK, _THREADS, _CPU, _INSTRUCTION_SET = 0, 3, 4, 5  # statuses of the C interface, see its header
_MAX_THREADS = 256


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int),
        ("instruction_set", ctypes.c_char_p),
        ("share_threads_with", ctypes.c_void_p),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
        ("nanoseconds", ctypes.c_uint64),
        ("macs", ctypes.c_uint64),
    )


_OBSERVER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Layer))


@dataclass(frozen=True)
class LayerRun:
    """One layer of one run: ``array`` is what it computed (N, H, W, C), ``nanoseconds`` its wall time."""

    name: str
    array: NDArray[np.float32]
    nanoseconds: int
    macs: int


@dataclass(frozen=True)
class _Interface:
    """What the manifest says of the library (``codegen.assemble.interface``)."""

    identifier: str
    triple: str
    instruction_sets: tuple[str, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


class Network:
    """A library, loaded, with a context of its own. Close it, or use it in a ``with``."""

    def __init__(
        self,
        directory: str | Path,
        *,
        threads: int = 1,
        instruction_set: str | None = None,
        share_threads_with: Network | None = None,
    ) -> None:
        """See ``load``. A network that shares another's threads takes its number of threads, and its turns."""
        self.directory = Path(directory)
        self._interface = _read_interface(self.directory)
        self._library = _open_library(self.directory, self._interface)
        self._context = ctypes.c_void_p()
        share = None
        if share_threads_with is not None:
            share = share_threads_with._alive()
            threads = share_threads_with.threads
        _check_threads(threads)
        name = None if instruction_set is None else instruction_set.encode()
        options = _Options(ctypes.sizeof(_Options), threads, name, share)
        status = self._function("create")(ctypes.byref(options), ctypes.byref(self._context))
        if status != _OK:
            raise LibraryError(self._explain_create(status, threads, instruction_set))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(batch, height, width, channels)"""
        return self._interface.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(batch, classes)"""
        return self._interface.output_shape

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """What the library has kernels for, best first."""
        return self._interface.instruction_sets

    @property
    def instruction_set(self) -> str:
        """The one in use."""
        return cast(bytes, self._function("instruction_set", ctypes.c_char_p)(self._alive())).decode()

    @property
    def threads(self) -> int:
        """How many share the work, the caller included."""
        return cast(int, self._function("threads")(self._alive()))

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (batch, classes) of normalised images, float32 NHWC."""
        return self._run("run", self._checked(x, np.dtype(np.float32)))

    def run_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of raw RGB bytes, uint8 NHWC, or HWC where the batch is 1."""
        return self._run("run_rgb", self._checked(image, np.dtype(np.uint8)))

    def layers(self, x: NDArray[np.float32] | NDArray[np.uint8]) -> list[LayerRun]:
        """Runs once, on floats or on bytes, and returns what every layer computed, in order."""
        name = "run_rgb" if np.asarray(x).dtype == np.uint8 else "run"
        images = self._checked(x, np.dtype(np.uint8 if name == "run_rgb" else np.float32))
        seen: list[LayerRun] = []
        observer = _OBSERVER(lambda _, layer: seen.append(_copy_layer(layer.contents)))
        observe = self._function("observe")
        observe(self._alive(), observer, None)
        try:
            self._run(name, images)
        finally:
            observe(self._alive(), None, None)
        return seen

    def close(self) -> None:
        """Frees the context; afterwards only ``close`` may be called. No other thread may be running it."""
        context, self._context = self._context, ctypes.c_void_p()
        if context:
            self._function("destroy", None)(context)

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_context"):
            self.close()

    def _function(self, name: str, result: Any = ctypes.c_int) -> Any:
        symbol = f"{self._interface.identifier}_{name}"
        try:
            function = self._library[symbol]
        except AttributeError as error:
            raise LibraryError(f"{self.directory}: the library lacks {symbol}; build it again") from error
        function.restype = result
        return function

    def _alive(self) -> ctypes.c_void_p:
        if not self._context:
            raise LibraryError(f"{self.directory}: the network is closed")
        return self._context

    def _checked(self, x: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        """``x`` with a batch axis and contiguous, without a change of values."""
        array = np.asarray(x)
        if array.dtype != dtype:
            raise LibraryError(f"{self.directory}: expected an array of {dtype}, got {array.dtype}; see numpy's astype")
        if self.input_shape[0] == 1 and array.ndim == 3:
            array = array[np.newaxis]
        if array.shape != self.input_shape:
            raise LibraryError(f"{self.directory}: expected an array of shape {self.input_shape}, got {array.shape}")
        return np.ascontiguousarray(array)

    def _run(self, name: str, images: NDArray[Any]) -> NDArray[np.float32]:
        logits = np.empty(self.output_shape, np.float32)
        status = self._function(name)(
            self._alive(), ctypes.c_void_p(images.ctypes.data), ctypes.c_void_p(logits.ctypes.data)
        )
        if status != _OK:
            raise LibraryError(f"{self.directory}: {self._message(status)}")
        return logits

    def _message(self, status: int) -> str:
        return cast(bytes, self._function("message", ctypes.c_char_p)(status)).decode()

    def _explain_create(self, status: int, threads: int, instruction_set: str | None) -> str:
        names = ", ".join(self.instruction_sets)
        if status == _CPU and instruction_set is None:
            return f"{self.directory}: this processor has none of the library's instruction sets: {names}"
        if status == _CPU:
            return (
                f"{self.directory}: this processor lacks the instruction set {instruction_set}; the library has {names}"
            )
        if status == _INSTRUCTION_SET:
            return f"{self.directory}: no instruction set {instruction_set!r} in the library; it has {names}"
        if status == _THREADS:
            return f"{self.directory}: the system would not start {threads} threads; use fewer"
        return f"{self.directory}: {self._message(status)}"


def load(directory: str | Path, *, threads: int = 1, instruction_set: str | None = None) -> Network:
    """Loads the library that ``mnv2c build`` wrote to ``directory``.

    ``threads`` share the work, the caller included; ``instruction_set`` forces one of the library's (default: the best
    this machine has). LibraryError where there is no library, where it is for another machine, or an option is wrong.
    """
    return Network(directory, threads=threads, instruction_set=instruction_set)


def _check_threads(threads: int) -> None:
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:
        raise LibraryError(f"threads must be a whole number from 1 to {_MAX_THREADS}, got {threads!r}")


def _read_interface(directory: Path) -> _Interface:
    manifest = directory / "manifest.json"
    if not directory.is_dir():
        raise LibraryError(f"{directory}: no such directory; `mnv2c build SPEC -o {directory}` makes one")
    try:
        fields = json.loads(manifest.read_text(encoding="utf-8"))["interface"]
        return _Interface(
            identifier=str(fields["identifier"]),
            triple=str(fields["triple"]),
            instruction_sets=tuple(map(str, fields["instruction_sets"])),
            input_shape=tuple(map(int, fields["input_shape"])),
            output_shape=tuple(map(int, fields["output_shape"])),
        )
    except FileNotFoundError as error:
        raise LibraryError(f"{directory}: no manifest.json in it, so it is not a library that mnv2c built") from error
    except OSError as error:
        raise LibraryError(f"{manifest}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LibraryError(f"{manifest}: damaged, or not mnv2c's; build the library again") from error


def _open_library(directory: Path, interface: _Interface) -> ctypes.CDLL:
    path = directory / "lib" / f"lib{interface.identifier}.so"
    if not path.is_file():
        raise LibraryError(f"{path}: missing; build the library again")
    built_for = interface.triple.split("-")[0]
    if built_for != platform.machine():
        raise LibraryError(
            f"{directory}: built for {built_for} ({interface.triple}), but this machine is {platform.machine()}"
        )
    if not _is_whole(path):
        raise LibraryError(f"{path}: damaged or cut short; build the library again")
    try:
        return ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise LibraryError(f"{path}: cannot be loaded: {error}") from error


def _is_whole(path: Path) -> bool:
    """Whether a 64-bit ELF file reaches to the end of its section headers: the system's loader dies of less."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 64 or head[:5] != b"\x7fELF\x02":
        return False
    sections, size, count = struct.unpack_from("<40xQ10xHH", head)
    needed: int = sections + size * count
    return path.stat().st_size >= needed


def _copy_layer(layer: Any) -> LayerRun:
    """The tensor lies inside a border in memory that the next layer may reuse: copied out."""
    shape, strides = tuple(layer.shape), tuple(stride * 4 for stride in layer.strides)
    span = 1 + sum((extent - 1) * stride for extent, stride in zip(layer.shape, layer.strides, strict=True))
    memory = np.ctypeslib.as_array(layer.data, (span,))
    array = np.lib.stride_tricks.as_strided(memory, shape, strides).copy()
    return LayerRun(layer.name.decode(), array, int(layer.nanoseconds), int(layer.macs))
