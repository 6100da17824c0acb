"""The one C signature of every kernel, whatever it computes and in which element types::

    int32_t kernel(void *const *operands, void *scratch, int32_t begin, int32_t end);

It computes the tasks ``begin <= task < end`` of a workload; tasks are independent of each other, so that threads may
share them, and neighbouring ones read the same rows or weights, so that a run of them costs what one large task would.
``operands`` point to the workload's inputs, its packed constants and its outputs, in this order, each aligned as its
elements are; ``scratch`` is memory of the calling thread, aligned to 64 bytes. It returns 0, or another value where it
refuses.

``runtime/kernel.h`` says the same to C: the library's runtime, the tuner's timing program and the cost model's program
include it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mnv2c.ir.graph import Array
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload

if TYPE_CHECKING:
    import tvm
    from tvm import s_tir, tirx

HEADER = "kernel.h"
"""In ``mnv2c.runtime``."""

Schedule = Any
"""A frozen dataclass of named parameters, one class per kernel family and device."""


@dataclass(frozen=True)
class Choice:
    """A schedule, and where it came from: a tuning record of this very workload (``exact``), one of another workload of
    the family (``transferred``), or the family's ``rule``."""

    schedule: Schedule
    origin: Literal["exact", "transferred", "rule"]


Choose = Callable[[Workload, InstructionSet], Choice]


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of a GPU: ``registers`` of a thread; bytes that it stores to memory and loads from there for
    want of registers (``spilled``), and its ``stack``; ``shared`` bytes of a block."""

    registers: int
    spilled: int
    stack: int
    shared: int


@dataclass(frozen=True)
class Launch:
    """How a GPU runs a kernel: blocks in the grid, threads in a block; ``operands`` are the numbers of the workload's
    operands, one for each of the kernel's parameters; no ``usage`` where the driver compiles it, from PTX."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    operands: tuple[int, ...]
    usage: Usage | None = None


@dataclass(frozen=True)
class KernelCode:
    """A kernel in an object: ``tasks`` is how many there are, ``scratch_bytes`` what each thread needs; on a GPU a task
    is a block of the ``launch``."""

    symbol: str
    tasks: int
    scratch_bytes: int
    launch: Launch | None = None


GRAIN = 200_000
"""Work that is worth a thread's part in it, in multiply-adds, an element read or written counted as two: some 2 us."""


def grain(workloads: Sequence[Workload], tasks: int) -> int:
    """How many of the tasks that do all of ``workloads`` are ``GRAIN``, at least one and at most all."""
    moved = sum(type_.elements for workload in workloads for type_ in (*workload.inputs, *workload.outputs))
    macs = sum(workload.macs for workload in workloads)
    return max(1, -(-GRAIN * tasks // max(macs + 2 * moved, GRAIN)))


class Device(Protocol):
    """The kernels of one kind of device (``Target.kind``)."""

    def pack(self, workload: Workload, constants: Sequence[Array]) -> tuple[Array, ...]:
        """The workload's ``constants``, as the graph has them, in the layouts that its kernels read."""

    def schedule_class(self, workload: Workload) -> type[Any]:
        """Of the schedules of the workload's family. ValueError where the device has no such family."""

    def computation(self, workload: Workload) -> tirx.PrimFunc:
        """The workload's PrimFunc, not scheduled, named after it, with its description as an attribute."""

    def apply(self, s: s_tir.Schedule, workload: Workload, schedule: Schedule) -> None:
        """Schedules ``s``, of the workload's computation, as ``schedule`` says."""

    def scheduled(self, workload: Workload, schedule: Schedule) -> tirx.PrimFunc:
        """The workload's computation under ``schedule``."""

    def space(self, workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
        """Every schedule that may be good on ``isa``; first what the family's rule takes, untuned."""

    workers: int
    """How many instruction sets may be compiled at once, each in a thread of its own."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of what compiles its kernels, for the manifest."""

    def symbol(self, identifier: str, isa: InstructionSet, workload: Workload) -> str:
        """The name of a workload's kernel in a library with the prefix ``identifier``."""

    def compile(
        self, kernels: Sequence[tuple[str, Workload, Schedule]], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        """An object file, or other code, with a kernel for each symbol, workload and schedule, and what is in it, in
        their order."""

    def lower(self, function: tirx.PrimFunc, symbol: str, target: Target) -> Any:
        """A scheduled PrimFunc as the kernel ``symbol``, for ``build``."""

    def build(
        self, lowered: dict[str, Any], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        """The same as ``compile`` of kernels that are lowered; what crashes the compiler ends this process."""

    def tvm_target(self, target: Target, isa: InstructionSet, *, model: str = "") -> tvm.target.Target:
        """TVM's name for what ``isa`` runs on; ``model`` says more of the machine, for people."""
