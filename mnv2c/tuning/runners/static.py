"""Estimates candidates' cycles on a core that is not here: what runs in qemu by a model of the core, and its L1 misses.

What comes in: what the builder left beside a library. What goes out: cycles at a nominal 1 GHz, as seconds, for one
thread. No other cache is modelled. A schedule whose kernel has too few registers fails: a model does not know what the
loads of what was just stored wait for.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

from tvm.ir.utils import derived_object

from mnv2c.cost.cores import core_for
from mnv2c.cost.cycles import model_name
from mnv2c.cost.kernels import KernelCost, kernel_costs
from mnv2c.kernels.abi import KernelCode
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.records import STATIC_COST, STATIC_HERTZ, Origin
from mnv2c.tuning.runners import BatchRunner, Conditions, Timing
from mnv2c.tuning.timing import operand_bytes
from mnv2c.workload_json import from_json

_MACS = 1_000_000  # of a kernel that are emulated; the others are like them


@derived_object
class StaticRunner(BatchRunner):
    """The core is the one that the target's kernels are scheduled for."""

    def __init__(self, target: Target, isa: InstructionSet) -> None:
        super().__init__()
        core = core_for(isa.mcpu, target.architecture)
        model = f"{model_name(isa.mcpu, target.triple)}, {core.l1_miss:g} cycles an L1 miss"
        tvm = importlib.metadata.version("apache-tvm")
        self.conditions = Conditions(
            target,
            isa,
            Origin(isa.mcpu, model, STATIC_COST, tvm, (1,)),
            macs_per_second=core.macs_per_cycle * STATIC_HERTZ,
            drifts=False,
        )

    def time(self, library: Path, indices: Sequence[int]) -> list[Timing]:
        listed = json.loads(library.with_suffix(".json").read_bytes())
        workload = from_json(listed["workload"])
        kernels = [KernelCode(**listed["kernels"][index]) for index in indices]
        share = _MACS / max(workload.macs, _MACS)
        object_, sizes = library.with_suffix(".o").read_bytes(), operand_bytes(workload)
        costs = kernel_costs(object_, kernels, sizes, self.conditions.target, self.conditions.isa, share=share)
        return [_timing(costs[kernel.symbol]) for kernel in kernels]


def _timing(cost: KernelCost) -> Timing:
    if cost.unknown:
        return Timing(failure=f"the model of the core does not know {', '.join(sorted(cost.unknown))}")
    if cost.spills:
        return Timing(failure=f"vectors lie on the stack in an inner loop: {', '.join(cost.spills[:3])}")
    return Timing((cost.cycles / STATIC_HERTZ,))
