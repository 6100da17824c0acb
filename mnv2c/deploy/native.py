"""Runs a built library from Python, with ctypes and numpy alone.

What comes in: a directory that ``mnv2c build`` wrote. What goes out: a ``Network`` whose methods take and return numpy
arrays, or, on a GPU, read and write arrays of other packages there. Every failure is a LibraryError.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.deploy import binding
from mnv2c.deploy.binding import NetworkError
from mnv2c.deploy.device_arrays import DeviceArray, device_array
from mnv2c.deploy.network import (
    Build,
    LayerRun,
    Pixel,
    RunnableNetwork,
    check_cpus,
    check_threads,
    explain_create,
    fitting,
    read_build,
)
from mnv2c.errors import LibraryError
from mnv2c.targets import kind_of_target

_CPUINFO, _BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")


class _Layer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("element", ctypes.c_char_p),
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
        cpus: Sequence[int] | None = None,
    ) -> None:
        """See ``load``. One that shares another's threads takes its number of threads, its turns, and no ``cpus``."""
        super().__init__(read_build(Path(directory)))
        if share_threads_with is not None:
            threads = share_threads_with.threads
        check_threads(threads)
        if cpus is not None:
            check_cpus(cpus)
        try:
            self._binding: binding.Network = binding.Network(
                _open_library(self._build),
                self._build.interface.identifier,
                self.input_shape,
                self.output_shapes,
                threads=threads,
                instruction_set=instruction_set,
                share_threads_with=None if share_threads_with is None else share_threads_with._binding,
                cpus=cpus,
            )
        except NetworkError as error:
            raise explain_create(
                self._build, error.status, str(error), threads=threads, instruction_set=instruction_set
            ) from error

    @property
    def processor(self) -> str:
        return cpu_name()

    @property
    def instruction_set(self) -> str:
        with self._errors():
            return self._binding.instruction_set

    @property
    def threads(self) -> int:
        with self._errors():
            return self._binding.threads

    def run_image(
        self,
        image: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        format: str,
        *,
        fit: str = "crop",
        matrix: str = "bt601",
    ) -> NDArray[np.float32]:
        """The one output of an image of any size, as a camera delivers it: see ``binding.Network.run_image``.

        LibraryError where it is none that the library takes, or there are several ``outputs``.
        """
        with self._errors():
            return self._binding.run_image(image, format, fit=fit, matrix=matrix)

    def enqueue(self, x: Any, *outputs: Any, stream: int = 0) -> None:
        """Runs on a GPU, asynchronously: ``outputs`` of ``x``, all of them arrays there (``device_arrays``).

        ``x`` is float32, normalised, or uint8, raw RGB; of the shape of ``run``'s. The ``outputs`` are float32, one for
        each of ``output_shapes``, in their order. Nothing is copied or allocated. ``stream`` is a CUstream's or
        cudaStream_t's number, such as ``torch.cuda.current_stream().cuda_stream``, by default the legacy default
        stream: whatever wrote ``x`` and will read the outputs must be ordered by it. LibraryError where an array does
        not fit, or the library is for CPUs.
        """
        if kind_of_target(self._build.manifest.target.name) != "cuda":
            raise LibraryError(f"{self.directory}: a library for CPUs has no streams: use run")
        image = device_array(x)
        name = {"float32": "enqueue", "uint8": "enqueue_rgb"}.get(image.dtype.name)
        if name is None:
            raise LibraryError(f"{self.directory}: images are float32 or uint8, not {image.dtype}")
        if len(outputs) != len(self.output_shapes):
            raise LibraryError(f"{self.directory}: {len(self.output_shapes)} outputs, not {len(outputs)}")
        self._check_shape("x", image, self.input_shape)
        arrays = [device_array(output) for output in outputs]
        for (label, shape), array in zip(self.output_shapes.items(), arrays, strict=True):
            if array.dtype != np.float32:
                raise LibraryError(f"{self.directory}: {label} is float32, not {array.dtype}")
            self._check_shape(label, array, shape)
        pointers = [ctypes.c_void_p(array.address) for array in (image, *arrays)]
        with self._errors():
            self._binding.call(name, *pointers, ctypes.c_void_p(stream))

    def _check_shape(self, name: str, array: DeviceArray, shape: tuple[int, ...]) -> None:
        """As ``shape``, or without the batch where that is 1."""
        if array.shape != shape and (shape[0] != 1 or array.shape != shape[1:]):
            raise LibraryError(f"{self.directory}: {name} has the shape {shape}, not {array.shape}")

    def close(self) -> None:
        self._binding.close()

    def _run(self, x: Any, pixel: Pixel, seen: list[LayerRun] | None = None) -> tuple[list[NDArray[np.float32]], int]:
        begin = time.perf_counter_ns()
        images = fitting(self._build, x, pixel)
        with self._errors(), contextlib.nullcontext() if seen is None else self._observed(seen):
            outputs = self._binding.run_on("run_rgb" if pixel is np.uint8 else "run", images)
        return list(outputs.values()), time.perf_counter_ns() - begin

    @contextlib.contextmanager
    def _observed(self, seen: list[LayerRun]) -> Iterator[None]:
        """Adds the layers of the runs within to ``seen``."""
        observer = _OBSERVER(lambda _, layer: seen.append(_copy_layer(layer.contents)))
        self._binding.call("observe", observer, None)
        try:
            yield
        finally:
            self._binding.call("observe", None, None)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What fails within becomes a LibraryError that names the library."""
        try:
            yield
        except NetworkError as error:
            raise LibraryError(f"{self.directory}: {error}") from error


def load(
    directory: str | Path,
    *,
    threads: int = 1,
    instruction_set: str | None = None,
    cpus: Sequence[int] | None = None,
) -> Network:
    """Loads the library that ``mnv2c build`` wrote to ``directory``.

    ``threads`` share the work, the caller included; ``instruction_set`` forces one of the library's (default: the best
    this machine has). Thread i stays on the processor ``cpus[i % len(cpus)]``; the caller, which is thread 0, is left
    where it is (``os.sched_setaffinity`` moves it). LibraryError where there is no library, where it is for another
    machine, or an option is wrong.
    """
    return Network(directory, threads=threads, instruction_set=instruction_set, cpus=cpus)


def cpu_name() -> str:
    """This machine's processor as the system calls it, e.g. ``AMD EPYC 7763``, or what the board is called."""
    lines = _text_of(_CPUINFO).splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else _text_of(_BOARD).strip("\0") or "unknown processor"


def _text_of(path: Path) -> str:
    """Empty where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _open_library(build: Build) -> ctypes.CDLL:
    here = _architecture_here()
    if build.architecture != here:
        raise LibraryError(
            f"{build.directory}: built for {build.architecture} ({build.manifest.target.triple}), but this machine is "
            f"{here}: give the command `--runner qemu`, or `--runner ssh:USER@HOST` for a board"
        )
    path = build.checked(build.shared_library)
    try:
        return ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise LibraryError(f"{path}: cannot be loaded: {error}") from error


_ARCHITECTURES = {(1, 3): "i686", (1, 40): "armv7l", (2, 62): "x86_64", (2, 183): "aarch64", (2, 243): "riscv64"}
"""As ``uname -m`` names them, by class (1: 32 bits, 2: 64) and machine in an ELF file's header."""


def _architecture_of(program: Path) -> str:
    """What an ELF file is for, by its header. ValueError for another file."""
    with program.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        raise ValueError(f"{program}: not ELF")
    (machine,) = struct.unpack_from(f"{'<>'[head[5] - 1]}18xH", head)
    return _ARCHITECTURES.get((head[4], machine), f"ELF machine {machine}, {32 * head[4]} bits")


def _architecture_here() -> str:
    """That of this Python: a 32-bit one may run under a 64-bit kernel, whose ``uname -m`` says 64 bits."""
    try:
        return _architecture_of(Path("/proc/self/exe"))
    except (OSError, ValueError):  # no Linux: nothing is built for it
        return platform.machine()


def _copy_layer(layer: Any) -> LayerRun:
    """The tensor lies inside a border in memory that the next layer may reuse: copied out."""
    dtype = np.dtype(layer.element.decode())
    strides = tuple(stride * dtype.itemsize for stride in layer.strides)
    span = dtype.itemsize + sum((extent - 1) * s for extent, s in zip(layer.shape, strides, strict=True))
    memory = (ctypes.c_uint8 * span).from_address(layer.data)
    array = np.ndarray(tuple(layer.shape), dtype, memory, strides=strides).astype(np.float32)
    return LayerRun(layer.name.decode(), array, int(layer.nanoseconds), int(layer.macs))
