"""Kernel families, one per file: the computation, its schedule template, and the rule for an untuned build.

What comes in: a workload and a CPU. What goes out: ``space(workload, isa)``, the schedules to choose from, the rule's
first; and ``scheduled(workload, schedule)``, a PrimFunc that ``lower`` turns into a C function.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from typing import Any

import tvm
from tvm import s_tir, tirx

from mnv2c.kernels.cpu import dense, depthwise, pad, pointwise, pool, stem
from mnv2c.kernels.cpu.dense import Dense, DenseSchedule
from mnv2c.kernels.cpu.depthwise import Depthwise, DepthwiseSchedule
from mnv2c.kernels.cpu.pad import Pad, PadSchedule
from mnv2c.kernels.cpu.pointwise import Pointwise, PointwiseSchedule
from mnv2c.kernels.cpu.pool import Pool, PoolSchedule
from mnv2c.kernels.cpu.stem import Stem, StemSchedule
from mnv2c.targets import InstructionSet

WeightedWorkload = Stem | Pointwise | Depthwise | Dense
Workload = WeightedWorkload | Pad | Pool
Schedule = StemSchedule | PointwiseSchedule | DepthwiseSchedule | DenseSchedule | PadSchedule | PoolSchedule
"""A schedule's parameters."""

__all__ = [
    "SCHEDULE_TYPES",
    "WORKLOADS",
    "Dense",
    "Depthwise",
    "Pad",
    "Pointwise",
    "Pool",
    "Schedule",
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
SCHEDULE_TYPES: dict[type[Any], type[Any]] = {
    Stem: StemSchedule,
    Pointwise: PointwiseSchedule,
    Depthwise: DepthwiseSchedule,
    Pad: PadSchedule,
    Pool: PoolSchedule,
    Dense: DenseSchedule,
}
"""The class of each workload's schedules."""


@functools.cache
def computation(workload: Workload) -> tirx.PrimFunc:
    """The workload's PrimFunc, not scheduled, named after it, with its description as an attribute."""
    return workload.compute().with_attr({"global_symbol": workload.name, "mnv2c.workload": describe(workload)})


def describe(workload: Workload) -> str:
    """The workload's class and fields as JSON."""
    return json.dumps({"family": type(workload).__name__, **asdict(workload)}, separators=(",", ":"))


@functools.cache
def space(workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
    """Every schedule of the workload that may be good on ``isa``; first what the family's rule takes, untuned."""
    return tuple(_FAMILIES[type(workload)].space(workload, isa))


def apply(s: s_tir.Schedule, workload: Workload, schedule: Schedule) -> None:
    """Schedules ``s``, of the workload's computation, as ``schedule`` says."""
    _FAMILIES[type(workload)].apply(s, workload, schedule)


def scheduled(workload: Workload, schedule: Schedule) -> tirx.PrimFunc:
    """The workload's computation under the schedule ``schedule``."""
    s = s_tir.Schedule(tvm.IRModule({"main": computation(workload)}))
    apply(s, workload, schedule)
    return s.mod["main"]
