"""Puts trials that never ran into a database of tuning records."""

from __future__ import annotations

from compiled_kernels import NATIVE

from mnv2c.kernels.abi import Schedule
from mnv2c.targets import X86, InstructionSet
from mnv2c.tuning.records import Database, Origin, record_json
from mnv2c.workloads import Workload

HERE = Origin("a machine", "measured", "0.27")


def add(
    database: Database,
    workload: Workload,
    schedule: Schedule,
    *seconds: float,
    isa: InstructionSet = NATIVE,
    origin: Origin = HERE,
) -> None:
    record = record_json(workload, schedule, target=X86, isa=isa, seconds=seconds, origin=origin)
    database.append(isa.mcpu, [(workload, record)])
