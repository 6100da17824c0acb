"""The kernels of a network, as they are in its library for GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from mnv2c.driver import identifier, workloads
from mnv2c.kernels.cuda.device import CUDA
from mnv2c.kernels.cuda.lower import CudaKernel
from mnv2c.precision import Precision
from mnv2c.spec.table import load_spec
from mnv2c.targets import target_named
from mnv2c.workloads import Workload

(SM_90,) = target_named("cuda:sm_90").instruction_sets


def by_rule(workload: Workload, symbol: str = "") -> CudaKernel:
    """As the rule schedules it, named after it where there is no ``symbol``."""
    return CUDA.lowered(symbol or workload.name, workload, CUDA.space(workload, SM_90)[0])


def kernels_of(spec_path: str, settings: Sequence[str] = (), precision: Precision = "fp32") -> list[CudaKernel]:
    """Of a spec, by rule."""
    spec = load_spec(spec_path, settings)
    found = dict.fromkeys(workload for _, workload in workloads(spec, target_named("cuda"), precision))
    return [by_rule(workload, CUDA.symbol(identifier(spec.name), SM_90, workload)) for workload in found]
