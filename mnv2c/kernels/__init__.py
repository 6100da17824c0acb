"""Kernel families, one per file: the computation, its schedule template, and the rule for an untuned build.

``scheduled(workload, cpu)`` is what comes out: a PrimFunc that ``lower`` turns into a C function.
"""

from __future__ import annotations

import functools
from typing import Any

import tvm
from tvm import s_tir, tirx

from mnv2c.kernels import dense, depthwise, pad, pointwise, pool, stem
from mnv2c.kernels.dense import Dense
from mnv2c.kernels.depthwise import Depthwise
from mnv2c.kernels.pad import Pad
from mnv2c.kernels.pointwise import Pointwise
from mnv2c.kernels.pool import Pool
from mnv2c.kernels.stem import Stem
from mnv2c.targets import Cpu

WeightedWorkload = Stem | Pointwise | Depthwise | Dense
Workload = WeightedWorkload | Pad | Pool

__all__ = [
    "Dense",
    "Depthwise",
    "Pad",
    "Pointwise",
    "Pool",
    "Stem",
    "WeightedWorkload",
    "Workload",
    "computation",
    "scheduled",
]

_FAMILIES: dict[type[Any], Any] = {
    Stem: stem,
    Pointwise: pointwise,
    Depthwise: depthwise,
    Pad: pad,
    Pool: pool,
    Dense: dense,
}


@functools.cache
def computation(work: Workload) -> tirx.PrimFunc:
    """The workload's PrimFunc, not scheduled, named after it."""
    return work.compute().with_attr("global_symbol", work.name)


def scheduled(work: Workload, cpu: Cpu) -> tuple[tirx.PrimFunc, str]:
    """The workload's computation under its default schedule for ``cpu``, and that schedule as text."""
    family = _FAMILIES[type(work)]
    how = family.default(work, cpu)
    s = s_tir.Schedule(tvm.IRModule({"main": computation(work)}))
    family.schedule(s, work, how)
    return s.mod["main"], str(how)
