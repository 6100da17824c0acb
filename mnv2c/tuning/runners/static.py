"""Estimates candidates' cycles on a core that is not here: instructions counted in qemu, times a model of the core.

What comes in: what the builder left beside a library. What goes out: cycles at a nominal 1 GHz, as seconds, for one
thread. No cache is modelled.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

from tvm.ir.utils import derived_object

from mnv2c.cost.cycles import model_name
from mnv2c.cost.kernels import kernel_cycles
from mnv2c.kernels.abi import KernelCode
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.records import STATIC_COST, Origin
from mnv2c.tuning.runners import BatchRunner, Conditions, Timing
from mnv2c.tuning.timing import operand_bytes
from mnv2c.workload_json import from_json

_HERTZ = 1e9
_MACS = 1_000_000  # of a kernel that are emulated; the others are like them


@derived_object
class StaticRunner(BatchRunner):
    """The core is the one that the target's kernels are scheduled for."""

    def __init__(self, target: Target, isa: InstructionSet) -> None:
        super().__init__()
        tvm = importlib.metadata.version("apache-tvm")
        self.conditions = Conditions(
            target,
            isa,
            Origin(isa.mcpu, model_name(isa.mcpu), STATIC_COST, tvm, (1,)),
            macs_per_second=isa.fmas_per_cycle * isa.lanes * _HERTZ,
            drifts=False,
        )

    def time(self, library: Path, indices: Sequence[int]) -> list[Timing]:
        listed = json.loads(library.with_suffix(".json").read_bytes())
        workload = from_json(listed["workload"])
        kernels = [KernelCode(**listed["kernels"][index]) for index in indices]
        share = _MACS / max(workload.macs, _MACS)
        object_, sizes = library.with_suffix(".o").read_bytes(), operand_bytes(workload)
        cycles = kernel_cycles(object_, kernels, sizes, self.conditions.target, self.conditions.isa, share=share)
        return [Timing((cycles[kernel.symbol] / _HERTZ,)) for kernel in kernels]
