"""The cores that records are kept for, by LLVM's name, and a target whose kernels are scheduled for each."""

from __future__ import annotations

from mnv2c.errors import RecordError
from mnv2c.targets import TARGETS, Cpu, Target


def core_named(name: str) -> tuple[Target, Cpu]:
    """RecordError where no target of this version is for such a core."""
    for target in TARGETS:
        for cpu in target.cpus:
            if cpu.mcpu == name:
                return target, cpu
    raise RecordError(f"records for {name!r}: this version knows no such core")
