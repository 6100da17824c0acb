"""The cores that records are kept for, by LLVM's name, and a target whose kernels are scheduled for each."""

from __future__ import annotations

from mnv2c.errors import RecordError
from mnv2c.targets import TARGETS, InstructionSet, Target


def core_named(name: str) -> tuple[Target, InstructionSet]:
    """RecordError where no target of this version is for such a core."""
    for target in TARGETS:
        for isa in target.instruction_sets:
            if isa.mcpu == name:
                return target, isa
    raise RecordError(f"records for {name!r}: this version knows no such core")
