"""How evenly threads can share the tasks: the most that n threads can give, for every target and shipped spec."""

from __future__ import annotations

import functools
import math

import pytest
from command_line import SPECS
from tvm import tirx
from tvm_ffi import structural_walk

from mnv2c.driver import workloads
from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.device import CPU
from mnv2c.kernels.cpu.lower import lower
from mnv2c.kernels.cpu.tir_passes import TASK, task_count
from mnv2c.shipped import SCHEDULES
from mnv2c.spec.table import load_spec
from mnv2c.targets import TARGETS, X86, InstructionSet
from mnv2c.tuning.lookup import by_rule, from_records
from mnv2c.workloads import Dense, Workload

INSTRUCTION_SETS = tuple(
    dict.fromkeys(isa for target in TARGETS if target.kind == "cpu" for isa in target.instruction_sets)
)
ARM_SETS = tuple(
    dict.fromkeys(isa for target in TARGETS if target.architecture != "x86_64" for isa in target.instruction_sets)
)
NAMES = sorted(path.stem for path in SPECS.glob("*.yaml"))
LEAST = {2: 0.97, 4: 0.97, 8: 0.9}


@functools.cache
def _layers(name: str) -> list[tuple[str, Workload]]:
    return [(layer, workload) for layer, workload in workloads(load_spec(SPECS / f"{name}.yaml"), X86) if workload.macs]


@functools.cache
def _tasks(workload: Workload, schedule: Schedule) -> int:
    """Without the passes that lower a kernel, which take ten times as long; see the test below."""
    extents: list[int] = []

    def look(loop: tirx.For) -> None:
        if TASK in loop.annotations:
            extents.append(int(loop.extent))

    structural_walk(CPU.scheduled(workload, schedule).body, [(tirx.For, look)])
    return task_count(extents[::-1])  # the walk comes back from the inside


def _share(tasks: dict[Workload, int], threads: int) -> float:
    """Of the threads' time, weighted by multiply-adds: what is left when each does a whole number of tasks."""
    macs = sum(workload.macs for workload in tasks)
    return macs / sum(w.macs * math.ceil(count / threads) * threads / count for w, count in tasks.items())


@pytest.mark.parametrize("tuned", [True, False], ids=["by records", "by rule"])
@pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=lambda isa: isa.mcpu)
def test_threads_are_busy(isa: InstructionSet, tuned: bool) -> None:
    choose = from_records(SCHEDULES, [isa], pytest.fail) if tuned else by_rule
    for name in NAMES:
        tasks = {workload: _tasks(workload, choose(workload, isa).schedule) for _, workload in _layers(name)}
        for threads, least in LEAST.items():
            assert _share(tasks, threads) >= least, (name, threads, sorted(tasks.values())[:5])


@pytest.mark.parametrize("tuned", [True, False], ids=["by records", "by rule"])
@pytest.mark.parametrize("isa", ARM_SETS, ids=lambda isa: isa.mcpu)
def test_four_cores_of_a_board_share_the_classifier_evenly(isa: InstructionSet, tuned: bool) -> None:
    """Its tasks are few and long."""
    choose = from_records(SCHEDULES, [isa], pytest.fail) if tuned else by_rule
    for name in NAMES:
        (classifier,) = {workload for _, workload in _layers(name) if isinstance(workload, Dense)}
        assert _share({classifier: _tasks(classifier, choose(classifier, isa).schedule)}, 4) == 1, name


def test_the_loops_of_tasks_are_what_is_lowered() -> None:
    isa = INSTRUCTION_SETS[0]
    for _, workload in _layers("mnv2_0.35")[::7]:
        schedule = by_rule(workload, isa).schedule
        assert lower(CPU.scheduled(workload, schedule), "kernel", pointer_bits=64).tasks == _tasks(workload, schedule)
