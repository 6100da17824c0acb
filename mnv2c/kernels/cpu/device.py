"""The kernel families of CPUs as a ``Device``: which module computes, schedules and packs which workload."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tvm
from tvm import tirx

import mnv2c.workloads as workloads
from mnv2c.forked import in_fork
from mnv2c.kernels.abi import KernelCode, Schedule
from mnv2c.kernels.cpu import conv, dense, depthwise, max_pool, pad, pointwise, pool, softmax, stem
from mnv2c.kernels.cpu.lower import LoweredKernel, build_object, llvm_version, lower, tvm_target
from mnv2c.kernels.families import Families, Family
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload


class _Cpu(Families):
    """See ``kernels.abi.Device``. Each kernel becomes a C function in one object file."""

    workers = 1  # in_fork wants one thread

    @property
    def versions(self) -> dict[str, str]:
        return {"llvm": str(llvm_version())}

    @functools.cache  # noqa: B019 - there is one object, for ever
    def space(self, workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
        return tuple(self.family(workload).module.space(workload, isa))

    def symbol(self, identifier: str, isa: InstructionSet, workload: Workload) -> str:
        return f"{identifier}_{isa.name}_{workload.name}"

    def compile(
        self, kernels: Sequence[tuple[str, Workload, Schedule]], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        lowered = {
            symbol: self.lower(self.scheduled(workload, schedule), symbol, target)
            for symbol, workload, schedule in kernels
        }
        return in_fork(lambda: build_object(lowered, target, isa)), _codes(lowered)

    def lower(self, function: tirx.PrimFunc, symbol: str, target: Target) -> LoweredKernel:
        return lower(function, symbol, pointer_bits=target.pointer_bits)

    def build(
        self, lowered: dict[str, LoweredKernel], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        return build_object(lowered, target, isa), _codes(lowered)

    def tvm_target(self, target: Target, isa: InstructionSet, *, model: str = "") -> tvm.target.Target:
        return tvm_target(target, isa, model=model)


def _codes(lowered: dict[str, LoweredKernel]) -> tuple[KernelCode, ...]:
    return tuple(KernelCode(symbol, kernel.tasks, kernel.scratch_bytes) for symbol, kernel in lowered.items())


CPU = _Cpu(
    {
        workloads.Stem: Family(stem, stem.StemSchedule),
        workloads.Pointwise: Family(pointwise, pointwise.PointwiseSchedule),
        workloads.Depthwise: Family(depthwise, depthwise.DepthwiseSchedule),
        workloads.Conv: Family(conv, conv.ConvSchedule),
        workloads.Pad: Family(pad, pad.PadSchedule),
        workloads.MaxPool: Family(max_pool, max_pool.MaxPoolSchedule),
        workloads.Pool: Family(pool, pool.PoolSchedule),
        workloads.Dense: Family(dense, dense.DenseSchedule),
        workloads.Softmax: Family(softmax, softmax.SoftmaxSchedule),
    }
)
