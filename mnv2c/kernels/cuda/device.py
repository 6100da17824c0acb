"""The kernel families of NVIDIA GPUs as a ``Device``: which module computes, schedules and packs which workload."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Mapping, Sequence

import tvm
from tvm import tirx

import mnv2c.workloads as workloads
from mnv2c.kernels.abi import KernelCode, Launch, Schedule, Usage
from mnv2c.kernels.cuda import (
    blocks,
    depthwise,
    expand_depthwise,
    expand_depthwise_mma,
    mma,
    pad,
    pointwise,
    pointwise_mma,
    pointwise_pool,
    pointwise_pool_mma,
    pool,
    softmax,
    stem,
)
from mnv2c.kernels.cuda.lower import CudaKernel, lower, program, tvm_target
from mnv2c.kernels.cuda.nvrtc import PACKAGE, compile_cubin, compile_ptx, version
from mnv2c.kernels.families import Families, Family
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload

_lowering = threading.Lock()  # TVM's passes want one thread


_ON_TENSOR_CORES = {
    workloads.ExpandDepthwise: Family(expand_depthwise_mma, mma.TilesSchedule),
    workloads.Pointwise: Family(pointwise_mma, pointwise_mma.PointwiseMmaSchedule),
    workloads.PointwisePool: Family(pointwise_pool_mma, mma.TilesSchedule),
}


class _Cuda(Families):
    """See ``kernels.abi.Device``. A schedule's text is the same for all architectures; NVRTC compiles several at
    once."""

    workers = os.cpu_count() or 1

    def family(self, workload: Workload) -> Family:
        multiplied = _ON_TENSOR_CORES.get(type(workload))
        if multiplied is not None and workload.precision != "fp32" and multiplied.module.takes(workload):
            return multiplied
        return super().family(workload)

    @property
    def versions(self) -> dict[str, str]:
        return {PACKAGE: version()}

    def space(self, workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
        return self._space(workload)

    @functools.cache  # noqa: B019 - there is one object, for ever
    def _space(self, workload: Workload) -> tuple[Schedule, ...]:
        return tuple(dict.fromkeys(self.family(workload).module.space(workload)))

    def symbol(self, identifier: str, isa: InstructionSet, workload: Workload) -> str:
        return f"{identifier}_{workload.name}"

    def compile(
        self, kernels: Sequence[tuple[str, Workload, Schedule]], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        with _lowering:
            lowered = {symbol: self.lowered(symbol, workload, schedule) for symbol, workload, schedule in kernels}
        return self.build(lowered, target, isa)

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - there is one object, for ever
    def lowered(self, symbol: str, workload: Workload, schedule: Schedule) -> CudaKernel:
        """The workload under ``schedule``, as the kernel ``symbol``."""
        return lower(self.scheduled(workload, schedule), symbol)

    def lower(self, function: tirx.PrimFunc, symbol: str, target: Target) -> CudaKernel:
        return lower(function, symbol)

    def build(
        self, lowered: dict[str, CudaKernel], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        compile_text = compile_ptx if isa.mcpu.startswith("compute_") else compile_cubin
        compiled = compile_text(program(list(lowered.values())), isa.mcpu)
        codes = (
            KernelCode(one.symbol, math.prod(one.grid), 0, _launch(one, compiled.usage)) for one in lowered.values()
        )
        return compiled.code, tuple(codes)

    def tvm_target(self, target: Target, isa: InstructionSet, *, model: str = "") -> tvm.target.Target:
        return tvm_target(isa.mcpu, model=model)


def _launch(kernel: CudaKernel, usage: Mapping[str, Usage]) -> Launch:
    return Launch(kernel.grid, kernel.block, kernel.operands, usage.get(kernel.symbol))


CUDA = _Cuda(
    {
        workloads.Stem: Family(stem, blocks.RowSchedule),
        workloads.ExpandDepthwise: Family(expand_depthwise, expand_depthwise.ExpandDepthwiseSchedule),
        workloads.Depthwise: Family(depthwise, blocks.RowSchedule),
        workloads.Pointwise: Family(pointwise, pointwise.PointwiseSchedule),
        workloads.PointwisePool: Family(pointwise_pool, pointwise_pool.PointwisePoolSchedule),
        workloads.Pad: Family(pad, blocks.RowSchedule),
        workloads.Pool: Family(pool, pool.PoolSchedule),
        workloads.Dense: Family(pointwise, pointwise.PointwiseSchedule),
        workloads.Softmax: Family(softmax, softmax.SoftmaxSchedule),
    }
)
