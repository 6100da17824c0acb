"""Compiles workloads for an instruction set of this machine and calls them through the signature of ``kernels.abi``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.device import CPU
from mnv2c.targets import X86, InstructionSet, native_target
from mnv2c.toolchain import find_zig, link_shared
from mnv2c.workloads import Workload

CANARY = np.float32(-77.25)
NATIVE = native_target().instruction_sets[0]
RUNNABLE = tuple(
    isa
    if isa in X86.instruction_sets[X86.instruction_sets.index(NATIVE) :]
    else replace(isa, name=f"{isa.name} schedules", mcpu=NATIVE.mcpu)
    for isa in X86.instruction_sets
)
"""Every instruction set of x86; where this machine lacks one, its schedules in this machine's instructions."""


class CompiledKernels:
    """Workloads in one shared object, by name; ``run`` gives what one of them wrote."""

    def __init__(self, chosen: Sequence[tuple[str, Workload, Schedule]], isa: InstructionSet, directory: Path) -> None:
        code, kernels = CPU.compile(chosen, X86, isa)
        self.kernels = {kernel.symbol: kernel for kernel in kernels}
        self._workloads = {name: workload for name, workload, _ in chosen}
        (directory / "kernels.o").write_bytes(code)
        link_shared(find_zig(X86.zig_triple), directory, ["kernels.o"], output="kernels.so")
        self._library = ctypes.CDLL(str(directory / "kernels.so"))

    @classmethod
    def by_rule(cls, workloads: Sequence[Workload], isa: InstructionSet, directory: Path) -> CompiledKernels:
        """Each under its own name."""
        return cls([(workload.name, workload, CPU.space(workload, isa)[0]) for workload in workloads], isa, directory)

    def run(
        self,
        name: str,
        inputs: Sequence[NDArray[Any]],
        constants: Sequence[NDArray[Any]],
        tasks: Sequence[tuple[int, int]] = (),
    ) -> NDArray[np.float32]:
        """What the kernel ``name`` writes, in ``tasks``, all at once where none are given; ``constants`` are a graph's.

        Every buffer is aligned to its element alone, the output stands between canaries, the scratch is full of NaN.
        """
        kernel, workload = self.kernels[name], self._workloads[name]
        (type_,) = workload.outputs
        memory = np.full(type_.elements + 32, CANARY)
        scratch = np.full(kernel.scratch_bytes // 4 + 16, np.nan, np.float32)
        output = memory[16 : 16 + type_.elements]
        operands = [*map(_unaligned, inputs), *map(_unaligned, CPU.pack(workload, constants)), output]
        table = (ctypes.c_void_p * len(operands))(*(operand.ctypes.data for operand in operands))
        for begin, end in tasks or [(0, kernel.tasks)]:
            assert self._library[name](table, ctypes.c_void_p(scratch.ctypes.data), begin, end) == 0
        assert np.array_equal(memory[:16], np.full(16, CANARY)), "wrote before its output"
        assert np.array_equal(memory[16 + type_.elements :], np.full(16, CANARY)), "wrote past its output"
        return output.reshape(type_.shape)


def _unaligned(value: NDArray[Any]) -> NDArray[Any]:
    raw = np.zeros(value.nbytes + 64 + value.itemsize, np.uint8)
    start = -raw.ctypes.data % 64 + value.itemsize
    moved = raw[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    moved[...] = value
    return moved
