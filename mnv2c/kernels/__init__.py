"""Kernel families, one per file: the computation, its schedule template, and the rule for an untuned build.

What comes in: a workload and a CPU. What goes out: ``space(workload, cpu)``, the schedules to choose from, the rule's
first; and ``scheduled(workload, how)``, a PrimFunc that ``lower`` turns into a C function.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from typing import Any

import tvm
from tvm import s_tir, tirx

from mnv2c.kernels import dense, depthwise, pad, pointwise, pool, stem
from mnv2c.kernels.dense import Dense, DenseSchedule
from mnv2c.kernels.depthwise import Depthwise, DepthwiseSchedule
from mnv2c.kernels.pad import Pad, PadSchedule
from mnv2c.kernels.pointwise import Pointwise, PointwiseSchedule
from mnv2c.kernels.pool import Pool, PoolSchedule
from mnv2c.kernels.stem import Stem, StemSchedule
from mnv2c.targets import Cpu

WeightedWorkload = Stem | Pointwise | Depthwise | Dense
Workload = WeightedWorkload | Pad | Pool
How = StemSchedule | PointwiseSchedule | DepthwiseSchedule | DenseSchedule | PadSchedule | PoolSchedule
"""A schedule's parameters."""

__all__ = [
    "HOW",
    "WORKLOADS",
    "Dense",
    "Depthwise",
    "How",
    "Pad",
    "Pointwise",
    "Pool",
    "Stem",
    "WeightedWorkload",
    "Workload",
    "apply",
    "computation",
    "scheduled",
    "space",
]

_FAMILIES: dict[type[Any], Any] = {
    Stem: stem,
    Pointwise: pointwise,
    Depthwise: depthwise,
    Pad: pad,
    Pool: pool,
    Dense: dense,
}
WORKLOADS: dict[str, type[Any]] = {kind.__name__: kind for kind in _FAMILIES}
"""By the names of their classes."""
HOW: dict[type[Any], type[Any]] = {
    Stem: StemSchedule,
    Pointwise: PointwiseSchedule,
    Depthwise: DepthwiseSchedule,
    Pad: PadSchedule,
    Pool: PoolSchedule,
    Dense: DenseSchedule,
}
"""The class of each workload's schedules."""


@functools.cache
def computation(work: Workload) -> tirx.PrimFunc:
    """The workload's PrimFunc, not scheduled, named after it, with its description as an attribute."""
    return work.compute().with_attr({"global_symbol": work.name, "mnv2c.workload": describe(work)})


def describe(work: Workload) -> str:
    """The workload's class and fields as JSON."""
    return json.dumps({"family": type(work).__name__, **asdict(work)}, separators=(",", ":"))


@functools.cache
def space(work: Workload, cpu: Cpu) -> tuple[How, ...]:
    """Every schedule of the workload that may be good on ``cpu``; first what the family's rule takes, untuned."""
    return tuple(_FAMILIES[type(work)].space(work, cpu))


def apply(s: s_tir.Schedule, work: Workload, how: How) -> None:
    """Schedules ``s``, of the workload's computation, as ``how`` says."""
    _FAMILIES[type(work)].schedule(s, work, how)


def scheduled(work: Workload, how: How) -> tirx.PrimFunc:
    """The workload's computation under the schedule ``how``."""
    s = s_tir.Schedule(tvm.IRModule({"main": computation(work)}))
    apply(s, work, how)
    return s.mod["main"]
