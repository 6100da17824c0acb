"""A built library that can be run, wherever it runs: what ``mnv2c.deploy.native`` and ``mnv2c.deploy.opening`` share.

What comes in: the manifest of a build directory, the arrays and options that a caller gives. What goes out: the
library's ``Interface``, arrays that fit it, and LibraryErrors that say what does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv2c.deploy.manifest import MANIFEST, read_manifest
from mnv2c.errors import LibraryError

OK = 0  # statuses of the C interface, see its header
_THREADS, _CPU, _INSTRUCTION_SET = 3, 4, 5
_MAX_THREADS = 256


Opened = TypeVar("Opened", bound="RunnableNetwork")


@dataclass(frozen=True)
class LayerRun:
    """One layer of one run: ``array`` is what it computed (N, H, W, C), ``nanoseconds`` its wall time."""

    name: str
    array: NDArray[np.float32]
    nanoseconds: int
    macs: int


@dataclass(frozen=True)
class Interface:
    """What the manifest says of the library in ``directory`` (``codegen.assemble.interface``)."""

    directory: Path
    identifier: str
    target: str
    triple: str
    instruction_sets: tuple[str, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def architecture(self) -> str:
        """As ``uname -m`` names it."""
        return self.triple.split("-")[0]

    @property
    def header(self) -> Path:
        """Where a C compiler finds it."""
        return self.directory / "include" / f"{self.identifier}.h"

    @property
    def shared_library(self) -> Path:
        return self.directory / "lib" / f"lib{self.identifier}.so"

    @property
    def static_library(self) -> Path:
        return self.directory / "lib" / f"lib{self.identifier}.a"


class RunnableNetwork(ABC):
    """A library with a context of its own, here or on another machine. Close it, or use it in a ``with``."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface

    @property
    def directory(self) -> Path:
        """Where the library was built."""
        return self._interface.directory

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
    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (batch, classes) of normalised images, float32 NHWC."""

    @abstractmethod
    def run_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of raw RGB bytes, uint8 NHWC, or HWC where the batch is 1."""

    @abstractmethod
    def time(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """``run``, and the nanoseconds that it took where it ran."""

    @abstractmethod
    def layers(self, x: NDArray[np.float32] | NDArray[np.uint8]) -> list[LayerRun]:
        """Runs once, on floats or on bytes, and returns what every layer computed, in order."""

    @abstractmethod
    def close(self) -> None:
        """Frees the context; afterwards only ``close`` may be called. No other thread may be running it."""

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_interface(directory: Path) -> Interface:
    """LibraryError where ``directory`` is not what ``mnv2c build`` writes."""
    try:
        fields = read_manifest(directory)["interface"]
        return Interface(
            directory=directory,
            identifier=str(fields["identifier"]),
            target=str(fields["target"]),
            triple=str(fields["triple"]),
            instruction_sets=tuple(map(str, fields["instruction_sets"])),
            input_shape=tuple(map(int, fields["input_shape"])),
            output_shape=tuple(map(int, fields["output_shape"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LibraryError(f"{directory / MANIFEST}: damaged, or not mnv2c's; build the library again") from error


def must_exist(path: Path) -> Path:
    """``path``, a file of the library."""
    if not path.is_file():
        raise LibraryError(f"{path}: missing; build the library again")
    return path


def check_threads(threads: int) -> None:
    """LibraryError where no context can have as many."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:
        raise LibraryError(f"threads must be a whole number from 1 to {_MAX_THREADS}, got {threads!r}")


def fitting(interface: Interface, x: Any, dtype: type[np.float32] | type[np.uint8]) -> NDArray[Any]:
    """``x`` with a batch axis and contiguous, without a change of values; LibraryError where it is not of the kind."""
    array, directory = np.asarray(x), interface.directory
    if array.dtype != dtype:
        raise LibraryError(
            f"{directory}: expected an array of {np.dtype(dtype)}, got {array.dtype}; see numpy's astype"
        )
    if interface.input_shape[0] == 1 and array.ndim == 3:
        array = array[np.newaxis]
    if array.shape != interface.input_shape:
        raise LibraryError(f"{directory}: expected an array of shape {interface.input_shape}, got {array.shape}")
    return np.ascontiguousarray(array)


def explain_create(
    interface: Interface, status: int, message: str, *, threads: int, instruction_set: str | None
) -> LibraryError:
    """Why there is no context; ``message`` is the library's own for ``status``."""
    names = ", ".join(interface.instruction_sets)
    if status == _CPU and instruction_set is None:
        message = f"this processor has none of the library's instruction sets: {names}"
    elif status == _CPU:
        message = f"this processor lacks the instruction set {instruction_set}; the library has {names}"
    elif status == _INSTRUCTION_SET:
        message = f"no instruction set {instruction_set!r} in the library; it has {names}"
    elif status == _THREADS:
        message = f"the system would not start {threads} threads; use fewer"
    return LibraryError(f"{interface.directory}: {message}")
