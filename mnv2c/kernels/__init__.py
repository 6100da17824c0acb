"""Kernel families, one per file: the computation, its schedule template, and the rule for an untuned build.

``scheduled(workload, cpu)`` is what comes out: a PrimFunc that ``lower`` turns into a C function.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

from mnv2c.kernels import dense, depthwise, pointwise, pool, stem
from mnv2c.kernels.dense import Dense
from mnv2c.kernels.depthwise import Depthwise
from mnv2c.kernels.pointwise import Pointwise
from mnv2c.kernels.pool import Pool
from mnv2c.kernels.stem import Stem
from mnv2c.targets import Cpu

Workload = Stem | Pointwise | Depthwise | Pool | Dense

_FAMILIES: dict[type[Any], Any] = {Stem: stem, Pointwise: pointwise, Depthwise: depthwise, Pool: pool, Dense: dense}


def scheduled(work: Workload, cpu: Cpu) -> tuple[tirx.PrimFunc, str]:
    """The workload's computation under its default schedule for ``cpu``, and that schedule as text."""
    family = _FAMILIES[type(work)]
    how = family.default(work, cpu)
    s = s_tir.Schedule(tvm.IRModule({"main": work.compute()}))
    family.schedule(s, work, how)
    return s.mod["main"], str(how)
