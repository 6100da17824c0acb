"""Compiles candidates, guarded: what crashes the compiler costs one trial.

What comes in: schedules of one workload for one CPU. What goes out: ``Compiled``: one object with all that compiled,
and why the others did not. The work is done in a fork of this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mnv2c.forked import CrashError, in_fork
from mnv2c.kernels.abi import KernelCode, Schedule
from mnv2c.kernels.cpu.device import scheduled
from mnv2c.kernels.cpu.lower import LoweredKernel, build_object, lower
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload


@dataclass(frozen=True)
class Candidate:
    """A schedule, and the kernel in the object that it makes."""

    schedule: Schedule
    kernel: KernelCode


@dataclass(frozen=True)
class Compiled:
    """``object`` is empty where nothing compiled; ``failures`` say why, by schedule."""

    object: bytes
    candidates: tuple[Candidate, ...]
    failures: dict[Schedule, str]


def compile_candidates(
    workload: Workload, schedules: Sequence[Schedule], target: Target, isa: InstructionSet
) -> Compiled:
    """All of ``schedules`` in one go; where that fails, one by one, to find out which."""
    try:
        return _unpack(in_fork(lambda: _compile(workload, schedules, target, isa)), schedules)
    except CrashError as error:
        reason = str(error)
    if len(schedules) == 1:
        return Compiled(b"", (), {schedules[0]: reason})
    failures: dict[Schedule, str] = {}
    for schedule in schedules:
        failures |= compile_candidates(workload, [schedule], target, isa).failures
    good = [schedule for schedule in schedules if schedule not in failures]
    if not good or len(good) == len(schedules):
        return Compiled(b"", (), failures or dict.fromkeys(schedules, reason))
    rest = compile_candidates(workload, good, target, isa)
    return Compiled(rest.object, rest.candidates, failures | rest.failures)


def _compile(workload: Workload, schedules: Sequence[Schedule], target: Target, isa: InstructionSet) -> bytes:
    """What ``_unpack`` reads: a line of JSON, and the object. A template that TVM cannot follow is a failure."""
    lowered: dict[str, LoweredKernel] = {}
    found: list[tuple[int, str, int, int]] = []
    failures: list[tuple[int, str]] = []
    for number, schedule in enumerate(schedules):
        symbol = f"candidate{number}"
        try:
            kernel = lower(scheduled(workload, schedule), symbol, pointer_bits=target.pointer_bits)
        except Exception as error:  # TVM raises many kinds
            failures.append((number, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
        else:
            lowered[symbol] = kernel
            found.append((number, symbol, kernel.tasks, kernel.scratch_bytes))
    head = json.dumps([found, failures])
    return head.encode() + b"\n" + (build_object(lowered, target, isa) if lowered else b"")


def _unpack(content: bytes, schedules: Sequence[Schedule]) -> Compiled:
    head, _, object_ = content.partition(b"\n")
    found, failures = json.loads(head)
    candidates = tuple(Candidate(schedules[index], KernelCode(*fields)) for index, *fields in found)
    return Compiled(object_, candidates, {schedules[index]: why for index, why in failures})
