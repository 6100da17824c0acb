"""Puts trials that never ran into a database of tuning records."""

from __future__ import annotations

from compiled_kernels import NATIVE

from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet
from mnv2c.tuning.records import Database, Origin, Record
from mnv2c.workloads import Workload

HERE = Origin("znver4", "a machine", "measured", "0.27")
ELSEWHERE = Origin("znver5", "another machine", "measured", "0.27")


def add(
    database: Database,
    workload: Workload,
    schedule: Schedule,
    *seconds: float,
    isa: InstructionSet = NATIVE,
    origin: Origin = HERE,
) -> None:
    """``seconds`` for one thread, two, and so on; none for a trial that failed."""
    times = dict(enumerate(seconds, 1))
    where = (origin.processor, origin.machine, origin.kind, "2026-11-24", origin.tvm)
    database.append(isa.mcpu, [Record(workload, schedule, times, *where)])
