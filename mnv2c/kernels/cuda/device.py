"""The kernel families of NVIDIA GPUs: which module computes, schedules and packs which workload."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx

import mnv2c.workloads as workloads
from mnv2c.ir.graph import Array
from mnv2c.kernels.abi import KernelCode, Launch, Schedule
from mnv2c.kernels.cuda import depthwise, expand_depthwise, pad, pointwise, pointwise_pool, pool, stem
from mnv2c.kernels.cuda.lower import CudaKernel, lower, program
from mnv2c.kernels.cuda.nvrtc import PACKAGE, compile_cubin, compile_ptx, version
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload

_FAMILIES: dict[type[Workload], Any] = {
    workloads.Stem: stem,
    workloads.ExpandDepthwise: expand_depthwise,
    workloads.Depthwise: depthwise,
    workloads.Pointwise: pointwise,
    workloads.PointwisePool: pointwise_pool,
    workloads.Pad: pad,
    workloads.Pool: pool,
    workloads.Dense: pointwise,
}


@functools.cache
def space(workload: Workload) -> tuple[Schedule, ...]:
    """Every schedule of the workload that may be good; first what the family's rule takes, untuned."""
    return tuple(_FAMILIES[type(workload)].space(workload))


def pack(workload: Workload, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The workload's ``constants``, as the graph has them, in the layouts that its kernels read."""
    packed: tuple[Array, ...] = _FAMILIES[type(workload)].pack(workload, constants)
    return packed


def scheduled(workload: Workload, schedule: Schedule) -> tirx.PrimFunc:
    """The workload's computation under ``schedule``."""
    family = _FAMILIES[type(workload)]
    s = s_tir.Schedule(tvm.IRModule({"main": family.compute(workload)}))
    family.apply(s, workload, schedule)
    return s.mod["main"]


_lowering = threading.Lock()


@functools.lru_cache(maxsize=1024)
def _lowered(symbol: str, workload: Workload, schedule: Schedule) -> CudaKernel:
    return lower(scheduled(workload, schedule), symbol)


class _Cuda:
    """See ``kernels.abi.Device``. A kernel's text is the same for all architectures; NVRTC compiles several at once."""

    @property
    def versions(self) -> dict[str, str]:
        return {PACKAGE: version()}

    workers = os.cpu_count() or 1

    def symbol(self, identifier: str, isa: InstructionSet, workload: Workload) -> str:
        return f"{identifier}_{workload.name}"

    def pack(self, workload: Workload, constants: Sequence[Array]) -> tuple[Array, ...]:
        return pack(workload, constants)

    def space(self, workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
        return space(workload)

    def compile(
        self, kernels: Sequence[tuple[str, Workload, Schedule]], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        with _lowering:  # TVM's passes want one thread
            lowered = [_lowered(symbol, workload, schedule) for symbol, workload, schedule in kernels]
        compile_text = compile_ptx if isa.mcpu.startswith("compute_") else compile_cubin
        compiled = compile_text(program(lowered), isa.mcpu)
        codes = [
            KernelCode(kernel.symbol, math.prod(kernel.grid), 0, Launch(kernel.grid, kernel.block, kernel.operands))
            for kernel in lowered
        ]
        return compiled.code, tuple(codes)


CUDA = _Cuda()
