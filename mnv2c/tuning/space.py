"""The kernel families' templates as a space that MetaSchedule samples, and their schedules as its traces.

What comes in: a workload, an instruction set, and a schedule's parameters or none. What goes out: a ``Schedule`` whose
trace begins with one ``SampleCategorical`` per parameter, in the order of the parameters' dataclass. A parameter is
sampled among the values that go with those before it, so that every sample is one of ``kernels.space``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import tvm
from tvm import s_tir

from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.device import apply, computation, space
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Workload


def schedule_fn(workload: Workload, isa: InstructionSet) -> Callable[[s_tir.Schedule], None]:
    """For ``meta_schedule.space_generator.ScheduleFn``: schedules what it is given at random."""
    return lambda s: apply(s, workload, _sample(s, workload, isa, None))


def traced(workload: Workload, isa: InstructionSet, schedule: Schedule) -> s_tir.Schedule:
    """The workload under ``schedule``, with the trace of a sample that came out so."""
    s = s_tir.Schedule(module(workload))
    apply(s, workload, _sample(s, workload, isa, schedule))
    return s


def module(workload: Workload) -> tvm.IRModule:
    """The workload as MetaSchedule knows it."""
    return tvm.IRModule({"main": computation(workload)})


def _sample(s: s_tir.Schedule, workload: Workload, isa: InstructionSet, schedule: Schedule | None) -> Schedule:
    remaining: Sequence[Schedule] = space(workload, isa)
    for field in fields(remaining[0]):
        values = sorted({int(getattr(one, field.name)) for one in remaining})
        decision = None if schedule is None else values.index(int(getattr(schedule, field.name)))
        sampled = int(s.get(s.sample_categorical(values, [1 / len(values)] * len(values), decision)))
        remaining = [one for one in remaining if int(getattr(one, field.name)) == sampled]
    (chosen,) = remaining
    return chosen


def sampled_values(trace: Any) -> tuple[int, ...]:
    """What a trace in JSON sampled, in order. ValueError, TypeError, KeyError, IndexError where it is none."""
    instructions, decisions = trace
    chosen = {int(index): int(decision) for index, decision in decisions}
    return tuple(
        int(attributes[0][chosen[index]])
        for index, (kind, _, attributes, _) in enumerate(instructions)
        if kind == "SampleCategorical"
    )
