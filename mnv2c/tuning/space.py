"""The kernel families' templates as MetaSchedule's design space, and their schedules as its traces.

What comes in: a workload, an instruction set. What goes out: a space generator whose trace samples the fields of the
family's schedule, in the order of its dataclass, one ``SampleCategorical`` each; a postprocessor that then applies the
template, and rejects what ``kernels.space`` has not; a mutator that steps from a schedule of the space to another.
So whatever a search strategy makes of the decisions, a candidate is a schedule of the space, computed by its template.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import tvm
from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels import device
from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Workload

_SPREAD = 8  # design spaces: the values to sample among depend on those sampled before
_NEAREST = 12  # schedules that a mutation goes to


def space_generator(workload: Workload, isa: InstructionSet) -> Any:
    """``meta_schedule.space_generator.ScheduleFn`` of the workload's space."""
    return ms.space_generator.ScheduleFn(
        lambda s: [_sampled(s.copy(), workload, isa) for _ in range(_SPREAD)],
        sch_rules=[],
        postprocs=[ApplyTemplate(workload, isa)],
        mutator_probs={StepInSpace(workload, isa): 1.0},
    )


def traced(workload: Workload, isa: InstructionSet, schedule: Schedule) -> s_tir.Schedule:
    """The workload under ``schedule``, with the trace of a sample that came out so."""
    s = _sampled(s_tir.Schedule(module(workload, isa)), workload, isa, schedule)
    s.enter_postproc()
    _apply(s, workload, isa, schedule)
    return s


def module(workload: Workload, isa: InstructionSet) -> tvm.IRModule:
    """The workload as MetaSchedule knows it."""
    return tvm.IRModule({"main": device(isa.kind).computation(workload)})


def schedule_of(trace: s_tir.Trace, workload: Workload, isa: InstructionSet) -> Schedule | None:
    """What a trace decided; None where that is not in the space."""
    return _by_values(workload, isa).get(_decided(trace))


def sampled_values(trace: Any) -> tuple[int, ...]:
    """What a trace in JSON sampled, in order. ValueError, TypeError, KeyError, IndexError where it is none."""
    instructions, decisions = trace
    chosen = {int(index): int(decision) for index, decision in decisions}
    return tuple(
        int(attributes[0][chosen[index]])
        for index, (kind, _, attributes, _) in enumerate(instructions)
        if kind == "SampleCategorical"
    )


@derived_object
class ApplyTemplate(ms.postproc.PyPostproc):
    """Applies the family's template as the trace has decided; fails where that is not in the space."""

    def __init__(self, workload: Workload, isa: InstructionSet) -> None:
        super().__init__()
        self._workload, self._isa = workload, isa

    def _initialize_with_tune_context(self, context: Any) -> None:
        """It knows all that it needs."""

    def apply(self, sch: s_tir.Schedule) -> bool:
        schedule = schedule_of(sch.trace, self._workload, self._isa)
        if schedule is None:
            return False
        _apply(sch, self._workload, self._isa, schedule)
        return True

    def clone(self) -> Any:
        return ApplyTemplate(self._workload, self._isa)


@derived_object
class StepInSpace(ms.mutator.PyMutator):
    """From one schedule of the space to one of those nearest to it."""

    def __init__(self, workload: Workload, isa: InstructionSet) -> None:
        super().__init__()
        self._workload, self._isa = workload, isa

    def _initialize_with_tune_context(self, context: Any) -> None:
        """It knows all that it needs."""

    def apply(self, trace: s_tir.Trace, _: Any) -> s_tir.Trace | None:
        here = _decided(trace)
        known = _by_values(self._workload, self._isa)
        if here not in known:
            return None
        near = sorted(known, key=lambda other: _distance(here, other))[1 : _NEAREST + 1]
        if not near:
            return None
        schedule = known[random.choice(near)]
        return _sampled(s_tir.Schedule(module(self._workload, self._isa)), self._workload, self._isa, schedule).trace

    def clone(self) -> Any:
        return StepInSpace(self._workload, self._isa)


def _sampled(
    s: s_tir.Schedule, workload: Workload, isa: InstructionSet, schedule: Schedule | None = None
) -> s_tir.Schedule:
    """Samples each field among the values that go with those before it: those of ``schedule``, else at random.

    Each is noted under its name: MetaSchedule drops samples that nothing uses.
    """
    remaining: Sequence[tuple[int, ...]] = list(_by_values(workload, isa))
    wanted = None if schedule is None else _values(schedule)
    noted = _noted_block(s)
    for index, name in enumerate(_names(workload, isa)):
        options = sorted({values[index] for values in remaining})
        decision = None if wanted is None else options.index(wanted[index])
        sample = s.sample_categorical(options, [1 / len(options)] * len(options), decision)
        s.annotate(noted, name, sample)
        chosen = int(s.get(sample))
        remaining = [values for values in remaining if values[index] == chosen]
    return s


def _apply(s: s_tir.Schedule, workload: Workload, isa: InstructionSet, schedule: Schedule) -> None:
    """The template, in the place of the notes."""
    noted = _noted_block(s)
    for name in _names(workload, isa):
        s.unannotate(noted, name)
    device(isa.kind).apply(s, workload, schedule)


def _noted_block(s: s_tir.Schedule) -> Any:
    """The first one. Not the root: TVM 0.27 then schedules what other schedules of the same PrimFunc share."""
    return s.get_child_blocks(s.get_sblock("root"))[0]


def _names(workload: Workload, isa: InstructionSet) -> list[str]:
    return [f"mnv2c.schedule.{field.name}" for field in fields(device(isa.kind).space(workload, isa)[0])]


@functools.cache
def _by_values(workload: Workload, isa: InstructionSet) -> Mapping[tuple[int, ...], Schedule]:
    return {_values(schedule): schedule for schedule in device(isa.kind).space(workload, isa)}


def _values(schedule: Any) -> tuple[int, ...]:
    return tuple(int(getattr(schedule, field.name)) for field in fields(schedule))


def _decided(trace: s_tir.Trace) -> tuple[int, ...]:
    return tuple(
        int(instruction.attrs[0][int(trace.decisions[instruction])])
        for instruction in trace.insts
        if str(instruction.kind.name) == "SampleCategorical" and instruction in trace.decisions
    )


def _distance(one: Sequence[int], other: Sequence[int]) -> tuple[int, float]:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return len(pairs), sum(abs(a - b) / max(a, b) for a, b in pairs)
