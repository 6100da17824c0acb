"""A built library that can be run, wherever it runs: what ``deploy.native`` and ``deploy.peer`` share.

What comes in: a build directory, the arrays and options that a caller gives. What goes out: a ``Build``, arrays that
fit it, and LibraryErrors that say what does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2c.deploy import binding
from mnv2c.deploy.binding import NetworkError
from mnv2c.deploy.manifest import Interface, Manifest, read_file, read_manifest
from mnv2c.errors import LibraryError

OK = 0  # statuses of the C interface, see its header
_THREADS, _CPU, _INSTRUCTION_SET = 3, 4, 5
_MAX_THREADS = 256

Pixel: TypeAlias = type[np.float32] | type[np.uint8]
"""What the values of an image are: normalised, or raw."""

Opened = TypeVar("Opened", bound="RunnableNetwork")


@dataclass(frozen=True)
class LayerRun:
    """One layer of one run: ``array`` is what it computed, float32 (N, H, W, C), ``nanoseconds`` its wall time."""

    name: str
    array: NDArray[np.float32]
    nanoseconds: int
    macs: int


@dataclass(frozen=True)
class Build:
    """A directory that ``mnv2c build`` wrote, and what its manifest says."""

    directory: Path
    manifest: Manifest

    @property
    def interface(self) -> Interface:
        """How the library is called."""
        return self.manifest.interface

    @property
    def architecture(self) -> str:
        """What it is for, as ``uname -m`` names it."""
        return self.manifest.target.architecture

    @property
    def header(self) -> Path:
        """Where a C compiler finds it."""
        return self.directory / "include" / f"{self.interface.identifier}.h"

    @property
    def shared_library(self) -> Path:
        """The file that is loaded."""
        return self.directory / "lib" / f"lib{self.interface.identifier}.so"

    @property
    def static_library(self) -> Path:
        """The file that is linked into a program."""
        return self.directory / "lib" / f"lib{self.interface.identifier}.a"

    def checked(self, path: Path) -> Path:
        """``path``, a file of the library; LibraryError where it is missing, or not as it was built."""
        read_file(self.directory, self.manifest, path.relative_to(self.directory).as_posix())
        return path


class RunnableNetwork(ABC):
    """A library with a context of its own, here or on another machine. Close it, or use it in a ``with``."""

    def __init__(self, build: Build) -> None:
        self._build = build

    @property
    def directory(self) -> Path:
        """Where the library was built."""
        return self._build.directory

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, height, width, channels)"""
        return self._build.interface.input_shape

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """By name, in the order of the C functions' arguments; ``logits`` has (batch, classes)."""
        return {output.name: output.shape for output in self._build.interface.outputs}

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """What the library has kernels for, best first."""
        return self._build.interface.instruction_sets

    @property
    @abstractmethod
    def processor(self) -> str:
        """What it runs on, for people: ``AMD EPYC 7763``, ``qemu (cortex-a53)``."""

    @property
    @abstractmethod
    def instruction_set(self) -> str:
        """The one in use."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many share the work, the caller included."""

    @abstractmethod
    def close(self) -> None:
        """Frees the context; afterwards only ``close`` may be called. No other thread may be running it."""

    @abstractmethod
    def _run(self, x: Any, pixel: Pixel, seen: list[LayerRun] | None = None) -> tuple[list[NDArray[np.float32]], int]:
        """One run on images of ``pixel``: the outputs in the order of the manifest, and the nanoseconds that it took.

        What every layer computed is added to ``seen`` where there is one.
        """

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The one output, such as logits (batch, classes), of normalised images.

        ``x`` is float32 NHWC, or HWC where the batch is 1. LibraryError where it is of another shape or type, a kernel
        refuses, or there are several ``outputs``.
        """
        self._check_one_output("run")
        return self._run(x, np.float32)[0][0]

    def run_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same of raw RGB bytes: uint8 NHWC, or HWC where the batch is 1."""
        self._check_one_output("run_rgb")
        return self._run(image, np.uint8)[0][0]

    def time(self, x: NDArray[np.float32]) -> tuple[dict[str, NDArray[np.float32]], int]:
        """``outputs`` of normalised images, and the nanoseconds that the run took where it ran."""
        outputs, nanoseconds = self._run(x, np.float32)
        return dict(zip(self.output_shapes, outputs, strict=True)), nanoseconds

    def outputs(self, x: NDArray[np.float32] | NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output by name, float32, of normalised images (float32) or raw RGB bytes (uint8); errors as ``run``."""
        return dict(zip(self.output_shapes, self._run(x, _pixel(x))[0], strict=True))

    def layers(self, x: NDArray[np.float32] | NDArray[np.uint8]) -> list[LayerRun]:
        """Runs once, on floats or on bytes, and returns what every layer computed, in order; errors as ``run``."""
        seen: list[LayerRun] = []
        self._run(x, _pixel(x), seen)
        return seen

    def _check_one_output(self, method: str) -> None:
        names = list(self.output_shapes)
        if len(names) > 1:
            raise LibraryError(
                f"{self.directory}: {method} is for a network with one output, and this one has {len(names)} "
                f"({', '.join(names)}): use outputs"
            )

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_build(directory: Path) -> Build:
    """LibraryError where ``directory`` is not what ``mnv2c build`` writes."""
    return Build(directory, read_manifest(directory))


def check_threads(threads: int) -> None:
    """LibraryError where no context can have as many."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:
        raise LibraryError(f"threads must be a whole number from 1 to {_MAX_THREADS}, got {threads!r}")


def check_cpus(cpus: Sequence[int]) -> None:
    """LibraryError where they are no list of processors' numbers."""
    if not cpus or any(isinstance(cpu, bool) or not isinstance(cpu, int) or not 0 <= cpu < 2**31 for cpu in cpus):
        raise LibraryError(f"cpus must be the numbers of processors, such as [0, 1], got {cpus!r}")


def fitting(build: Build, x: Any, pixel: Pixel) -> NDArray[Any]:
    """``x`` as a contiguous array of the library's input shape, its values unchanged.

    LibraryError where its type is not ``pixel`` or its shape is another; the batch axis may be missing where it is 1.
    """
    try:
        return binding.fitting(x, pixel, build.interface.input_shape)
    except NetworkError as error:
        raise LibraryError(f"{build.directory}: {error}") from error


def explain_create(
    build: Build, status: int, message: str, *, threads: int, instruction_set: str | None
) -> LibraryError:
    """Why there is no context; ``message`` is the library's own for ``status``."""
    names = ", ".join(build.interface.instruction_sets)
    if status == _CPU and instruction_set is None:
        message = f"this processor has none of the library's instruction sets: {names}"
    elif status == _CPU:
        message = f"this processor lacks the instruction set {instruction_set}; the library has {names}"
    elif status == _INSTRUCTION_SET:
        message = f"no instruction set {instruction_set!r} in the library; it has {names}"
    elif status == _THREADS:
        message = f"the system would not start {threads} threads; use fewer"
    return LibraryError(f"{build.directory}: {message}")


def _pixel(x: Any) -> Pixel:
    return np.uint8 if np.asarray(x).dtype == np.uint8 else np.float32
