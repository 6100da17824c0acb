"""Runs a built library from Python, with ctypes and numpy alone.

What comes in: a directory that ``mnv2c build`` wrote. What goes out: a ``Network`` whose methods take and return numpy
arrays. Every failure is a LibraryError.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mnv2c.deploy.network import (
    OK,
    Interface,
    LayerRun,
    RunnableNetwork,
    check_threads,
    explain_create,
    fitting,
    must_exist,
    read_interface,
)
from mnv2c.errors import LibraryError


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


class Network(RunnableNetwork):
    """A library, loaded into this process."""

    def __init__(
        self,
        directory: str | Path,
        *,
        threads: int = 1,
        instruction_set: str | None = None,
        share_threads_with: Network | None = None,
    ) -> None:
        """See ``load``. A network that shares another's threads takes its number of threads, and its turns."""
        super().__init__(read_interface(Path(directory)))
        self._library = _open_library(self._interface)
        self._context = ctypes.c_void_p()
        share = None
        if share_threads_with is not None:
            share = share_threads_with._alive()
            threads = share_threads_with.threads
        check_threads(threads)
        name = None if instruction_set is None else instruction_set.encode()
        options = _Options(ctypes.sizeof(_Options), threads, name, share)
        status = self._function("create")(ctypes.byref(options), ctypes.byref(self._context))
        if status != OK:
            message = self._message(status)
            raise explain_create(self._interface, status, message, threads=threads, instruction_set=instruction_set)

    @property
    def processor(self) -> str:
        return cpu_name()

    @property
    def instruction_set(self) -> str:
        return cast(bytes, self._function("instruction_set", ctypes.c_char_p)(self._alive())).decode()

    @property
    def threads(self) -> int:
        return cast(int, self._function("threads")(self._alive()))

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._run("run", fitting(self._interface, x, np.float32))

    def run_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._run("run_rgb", fitting(self._interface, image, np.uint8))

    def time(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        begin = time.perf_counter_ns()
        logits = self.run(x)
        return logits, time.perf_counter_ns() - begin

    def layers(self, x: NDArray[np.float32] | NDArray[np.uint8]) -> list[LayerRun]:
        name = "run_rgb" if np.asarray(x).dtype == np.uint8 else "run"
        images = fitting(self._interface, x, np.uint8 if name == "run_rgb" else np.float32)
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
        context, self._context = self._context, ctypes.c_void_p()
        if context:
            self._function("destroy", None)(context)

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

    def _run(self, name: str, images: NDArray[Any]) -> NDArray[np.float32]:
        logits = np.empty(self.output_shape, np.float32)
        status = self._function(name)(
            self._alive(), ctypes.c_void_p(images.ctypes.data), ctypes.c_void_p(logits.ctypes.data)
        )
        if status != OK:
            raise LibraryError(f"{self.directory}: {self._message(status)}")
        return logits

    def _message(self, status: int) -> str:
        return cast(bytes, self._function("message", ctypes.c_char_p)(status)).decode()


def load(directory: str | Path, *, threads: int = 1, instruction_set: str | None = None) -> Network:
    """Loads the library that ``mnv2c build`` wrote to ``directory``.

    ``threads`` share the work, the caller included; ``instruction_set`` forces one of the library's (default: the best
    this machine has). LibraryError where there is no library, where it is for another machine, or an option is wrong.
    """
    return Network(directory, threads=threads, instruction_set=instruction_set)


def cpu_name() -> str:
    """This machine's processor as the system calls it, e.g. ``AMD EPYC 7763``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown processor"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def _open_library(interface: Interface) -> ctypes.CDLL:
    path = must_exist(interface.shared_library)
    if interface.architecture != platform.machine():
        raise LibraryError(
            f"{interface.directory}: built for {interface.architecture} ({interface.triple}), but this machine is "
            f"{platform.machine()}: give the command `--runner qemu`, or `--runner ssh:USER@HOST` for a board"
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
