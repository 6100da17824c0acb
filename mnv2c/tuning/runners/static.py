"""Estimates candidates' cycles on a core that is not here: instructions counted in qemu, times a model of the core.

What comes in: schedules of a workload. What goes out: trials whose seconds are cycles at a nominal 1 GHz. No cache is
modelled.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from mnv2c.cost.cycles import model_name
from mnv2c.cost.kernels import kernel_cycles
from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.records import STATIC_COST, Origin
from mnv2c.tuning.runners import Trial
from mnv2c.tuning.timing import operand_bytes
from mnv2c.workloads import Workload

_HERTZ = 1e9
_MACS = 1_000_000  # of a kernel that are emulated; the others are like them


class StaticRunner:
    """The core is the one that the target's kernels are scheduled for."""

    def __init__(self, target: Target, isa: InstructionSet) -> None:
        self.target, self.isa = target, isa
        self.origin = Origin(isa.mcpu, model_name(isa.mcpu), STATIC_COST, importlib.metadata.version("apache-tvm"))
        self.macs_per_second = isa.fmas_per_cycle * isa.lanes * _HERTZ
        self.drifts = False

    def run(self, workload: Workload, schedules: Sequence[Schedule]) -> list[Trial]:
        compiled = compile_candidates(workload, schedules, self.target, self.isa)
        trials = {schedule: Trial(schedule, failure=failure) for schedule, failure in compiled.failures.items()}
        if compiled.candidates:
            kernels = [candidate.kernel for candidate in compiled.candidates]
            share = _MACS / max(workload.macs, _MACS)
            sizes = operand_bytes(workload)
            cycles = kernel_cycles(compiled.object, kernels, sizes, self.target, self.isa, share=share)
            for one in compiled.candidates:
                trials[one.schedule] = Trial(one.schedule, (cycles[one.kernel.symbol] / _HERTZ,))
        return [trials[schedule] for schedule in schedules]

    def close(self) -> None:
        """It holds nothing."""
