"""The Program: everything the C driver needs, as a frozen value: kernels, the ordered calls, the memory plan, packed
weights. Kernels have the signature of ``kernels.abi``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mnv2c.ir.graph import Padding, TensorType
from mnv2c.kernels.abi import Launch
from mnv2c.targets import InstructionSet, Target

ALIGNMENT = 64  # bytes: of the arena, of every tensor in it, of the weights and of every constant in them


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel for one instruction set.

    ``tasks`` is how many there are; ``grain`` the fewest worth waking a thread for; ``origin`` says where the
    schedule's parameters came from: a tuning record of this very workload (``exact``), one of another workload of the
    family (``transferred``), or the family's ``rule``. ``launch`` is how a GPU runs it.
    """

    name: str
    symbol: str
    tasks: int
    grain: int
    scratch_bytes: int
    origin: Literal["exact", "transferred", "rule"]
    schedule: str
    launch: Launch | None = None


@dataclass(frozen=True)
class KernelObject:
    """All kernels for one instruction set: an ELF object (for a GPU a cubin, or PTX), and what is in it, in the order
    of ``Program.kernels``."""

    isa: InstructionSet
    object: bytes
    kernels: tuple[CompiledKernel, ...]


@dataclass(frozen=True)
class Operand:
    """Where a kernel finds a tensor: the caller's input, one of the caller's outputs by its number, a byte offset in
    the arena or in the weights, or, between the layers of a ``Chain``, in the thread's scratch."""

    space: Literal["input", "output", "arena", "weights", "scratch"]
    offset: int = 0


@dataclass(frozen=True)
class Call:
    """One layer. ``layer`` is its edge in the graph; ``comment`` one line for the reader of the C driver.

    ``operands`` are in the order of the signature, the output last; ``moved_bytes`` those of all of them, once each.
    ``kernel_uint8`` is set on the first call alone: the same layer read from raw RGB bytes. ``type`` is the output's
    without its zero ``border``; in memory the rows and columns of the border surround it.
    """

    layer: str
    comment: str
    kernel: str
    operands: tuple[Operand, ...]
    type: TensorType
    border: Padding = Padding()
    kernel_uint8: str | None = None
    macs: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class Chain:
    """A block in bands: ``calls`` that run one after the other for ``rows`` rows of the depthwise convolution's output,
    then for the next, as ``runtime/bands.c`` says.

    They are those of a ``codegen.bands.Block``, each with the type and border of what it computes of the whole map;
    ``stride`` is the depthwise convolution's, ``grain`` the fewest bands worth waking a thread for.
    """

    calls: tuple[Call, ...]
    rows: int
    stride: int
    grain: int

    @property
    def expansion(self) -> Call | None:
        """None where the depthwise convolution reads a map that exists."""
        return self.calls[0] if len(self.calls) == 3 else None

    @property
    def depthwise(self) -> Call:
        """The last but one."""
        return self.calls[-2]

    @property
    def bands(self) -> int:
        """Of each image."""
        return self.depthwise.type.shape[1] // self.rows

    @property
    def window(self) -> int:
        """How many rows of its input the depthwise convolution reads for a band."""
        return (self.rows - 1) * self.stride + 3


@dataclass(frozen=True)
class Program:
    """``identifier`` is the C prefix (``mnv2_1_0``); ``outputs`` the types of the outputs by name, in the order of
    their numbers; ``kernels`` the names in the calls, each in every KernelObject."""

    name: str
    identifier: str
    target: Target
    input: TensorType
    outputs: Mapping[str, TensorType]
    kernels: tuple[str, ...]
    kernel_objects: tuple[KernelObject, ...]
    calls: tuple[Call | Chain, ...]
    arena_bytes: int
    weights: bytes

    @property
    def layers(self) -> tuple[Call, ...]:
        """All calls, those in chains too, in the order of the graph."""
        return tuple(one for call in self.calls for one in (call.calls if isinstance(call, Chain) else (call,)))

    @property
    def chains(self) -> tuple[Chain, ...]:
        """In their order."""
        return tuple(call for call in self.calls if isinstance(call, Chain))
