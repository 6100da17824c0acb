"""Compiles workloads for a CPU of this machine and calls them through the C signature of ``codegen.program``."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2c.kernels import Schedule, Workload, scheduled, space
from mnv2c.kernels.cpu.lower import LoweredKernel, build_object, lower
from mnv2c.targets import X86, InstructionSet, native_target
from mnv2c.toolchain import find_zig, link_shared

Operand = NDArray[np.float32] | NDArray[np.uint8] | None
CANARY = np.float32(-77.25)
NATIVE = native_target().instruction_sets[0]
RUNNABLE = tuple(
    isa
    if isa in X86.instruction_sets[X86.instruction_sets.index(NATIVE) :]
    else replace(isa, name=f"{isa.name} schedules", mcpu=NATIVE.mcpu)
    for isa in X86.instruction_sets
)
"""Every CPU of x86; where this machine lacks one, its schedules in this machine's instructions."""


class CompiledKernels:
    """``workloads`` in one shared object; ``run`` gives what a kernel wrote."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        isa: InstructionSet,
        directory: Path,
        *,
        schedules: Mapping[Workload, Schedule] | None = None,
    ) -> None:
        """``schedules`` schedules them otherwise than by rule."""
        chosen = {workload: space(workload, isa)[0] for workload in workloads} | dict(schedules or {})
        self.lowered: dict[str, LoweredKernel] = {w.name: lower(scheduled(w, chosen[w]), w.name) for w in workloads}
        (directory / "kernels.o").write_bytes(build_object(self.lowered, X86, isa))
        link_shared(find_zig(X86.zig_triple), directory, ["kernels.o"], output="kernels.so")
        self._library = ctypes.CDLL(str(directory / "kernels.so"))

    def run(
        self,
        workload: Workload,
        operands: Sequence[Operand],
        shape: tuple[int, ...],
        tasks: Sequence[tuple[int, int]] = (),
    ) -> NDArray[np.float32]:
        """What ``workload`` makes of input, weight, bias and residual, in ``tasks`` (all at once where none are given).

        Every buffer is aligned to its element alone, the output stands between canaries, the scratch is full of NaN.
        """
        kernel = self.lowered[workload.name]
        size = int(np.prod(shape))
        memory = np.full(size + 32, CANARY)
        scratch = np.full(kernel.scratch_bytes // 4 + 1, np.nan, np.float32)
        moved = [_unaligned(operand) for operand in operands]
        output = memory[16 : 16 + size]
        for begin, end in tasks or [(0, kernel.tasks)]:
            arguments = [*moved, *(None for _ in range(4 - len(moved))), output, scratch]
            status = self._library[workload.name](*(_address(a) for a in arguments), begin, end)
            assert status == 0
        assert np.array_equal(memory[:16], np.full(16, CANARY)), "wrote before its output"
        assert np.array_equal(memory[16 + size :], np.full(16, CANARY)), "wrote past its output"
        return output.reshape(shape)


def _unaligned(value: Operand) -> Operand:
    if value is None:
        return None
    raw = np.zeros(value.nbytes + 64 + value.itemsize, np.uint8)
    start = -raw.ctypes.data % 64 + value.itemsize
    moved = raw[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    moved[...] = value
    return moved


def _address(value: Operand) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if value is None else value.ctypes.data)
