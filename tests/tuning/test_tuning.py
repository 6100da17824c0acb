"""Tuning: the space, the records, the search, the guarded trials, and what a build takes from them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from compiled_kernels import NATIVE, CompiledKernels
from kept_trials import HERE
from kernel_examples import TRIED, depthwise, example, pointwise
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels.abi import KernelCode, Schedule
from mnv2c.kernels.cpu.device import space
from mnv2c.targets import A53, A72, ARM, V2, V3, V4, X86, InstructionSet, native_target
from mnv2c.toolchain import compile_c, find_zig
from mnv2c.tuning import candidates as compiling
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.records import Database
from mnv2c.tuning.runners import Trial
from mnv2c.tuning.runners import local as local_runner
from mnv2c.tuning.runners.local import LocalRunner
from mnv2c.tuning.search import propose
from mnv2c.tuning.space import module, sampled_values, schedule_fn, traced
from mnv2c.tuning.tune import BATCH, Limits, make_tasks, tune
from mnv2c.workloads import Dense, Workload

WORK = pointwise(7, 7, 40, 64, activation="relu6")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "schedules")


# The space


@pytest.mark.parametrize("isa", [V4, V3, V2, A72, A53], ids=lambda isa: isa.mcpu)
@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_a_trace_says_how(workload: Workload, isa: InstructionSet) -> None:
    candidates = space(workload, isa)
    assert len(set(candidates)) == len(candidates)
    for schedule in {candidates[0], candidates[-1], candidates[len(candidates) // 2]}:
        trace = traced(workload, isa, schedule).trace.as_json()
        assert sampled_values(trace) == tuple(int(value) for value in vars(schedule).values())


def test_metaschedule_samples_the_space() -> None:
    context = ms.TuneContext(
        module(WORK),
        target=tvm.target.Target({"kind": "llvm", "num-cores": 2}),
        space_generator=ms.space_generator.ScheduleFn(schedule_fn(WORK, NATIVE), postprocs=[], mutator_probs={}),
        search_strategy="replay-func",
        num_threads=1,
    )
    known = {tuple(int(value) for value in vars(schedule).values()) for schedule in space(WORK, NATIVE)}
    context.pre_tuning(max_trials=8, num_trials_per_iter=8, design_spaces=context.generate_design_space())
    candidates = context.generate_measure_candidates()
    assert len(candidates) == 8
    assert {sampled_values(one.sch.trace.as_json()) for one in candidates} <= known


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_what_is_far_from_the_rule_computes_the_same(workload: Workload, tmp_path: Path) -> None:
    candidates = space(workload, NATIVE)
    schedules = list(dict.fromkeys(candidates[len(candidates) * part // 7] for part in range(7)))
    inputs, constants, expected = example(workload)
    for number, schedule in enumerate(schedules):
        (tmp_path / str(number)).mkdir()
        kernels = CompiledKernels([workload], NATIVE, tmp_path / str(number), schedules={workload: schedule})
        np.testing.assert_allclose(kernels.run(workload, inputs, constants), expected, rtol=0, atol=2e-5)


# The search


def test_the_search_begins_with_the_rule_and_never_repeats() -> None:
    candidates = space(WORK, NATIVE)
    tried: dict[Schedule, float] = {}
    while wanted := propose(candidates, tried, BATCH):
        assert not set(wanted) & set(tried)
        assert tried or wanted[0] == candidates[0]
        tried |= {schedule: float(candidates.index(schedule)) for schedule in wanted}
    assert set(tried) == set(candidates), "it ends when all are tried, and tries nothing else"


def test_the_search_climbs_to_the_best() -> None:
    candidates = space(pointwise(14, 14, 576, 96, residual=True), V3)
    goal = candidates[len(candidates) // 2]

    def seconds(schedule: Schedule) -> float:
        return float(
            sum(abs(int(a) - int(b)) for a, b in zip(vars(schedule).values(), vars(goal).values(), strict=True))
        )

    tried: dict[Schedule, float] = {}
    while goal not in tried:
        wanted = propose(candidates, tried, BATCH)
        assert wanted, "the search gave up"
        tried |= {schedule: seconds(schedule) for schedule in wanted}
    assert len(tried) < len(candidates) / 2


# Trials


def test_a_crash_of_the_compiler_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = space(WORK, NATIVE)[:3]
    real = compiling.scheduled

    def crash(workload: Workload, schedule: Schedule) -> tvm.tirx.PrimFunc:
        if schedule == schedules[1]:
            os.abort()
        return real(workload, schedule)

    monkeypatch.setattr(compiling, "scheduled", crash)
    compiled = compile_candidates(WORK, schedules, X86, NATIVE)
    assert [candidate.schedule for candidate in compiled.candidates] == [schedules[0], schedules[2]]
    assert compiled.failures == {schedules[1]: "the compiler crashed (SIGABRT)"}


def test_what_the_template_cannot_do_costs_one_trial() -> None:
    good = space(WORK, NATIVE)[0]
    bad = replace(good, turns=0)
    compiled = compile_candidates(WORK, [bad, good], X86, NATIVE)
    assert [candidate.schedule for candidate in compiled.candidates] == [good]
    assert list(compiled.failures) == [bad]


@pytest.mark.parametrize(
    ("body", "failure"),
    [("*(volatile int *)0 = 1; return 0;", "crashed (SIGSEGV)"), ('for (;;) __asm__ volatile("");', "still running")],
    ids=["crash", "hang"],
)
def test_a_candidate_that_misbehaves_costs_one_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, failure: str
) -> None:
    good, bad = space(WORK, NATIVE)[:2]
    real = compiling.compile_candidates

    def compile_bad(workload: Workload, schedules: list[Schedule], target: object, isa: object) -> compiling.Compiled:
        """The real kernels, and one in C in the place of ``bad``."""
        compiled = real(workload, [good], X86, NATIVE)
        (tmp_path / "bad.c").write_text(f"int misbehave(void) {{ {body} }}\n", encoding="utf-8")
        (tmp_path / "good.o").write_bytes(compiled.object)
        toolchain = find_zig(X86.zig_triple)
        compile_c(toolchain, tmp_path, "bad.c", flags=("-fvisibility=default",))
        subprocess.run(["ld", "-r", "good.o", "bad.o", "-o", "both.o"], cwd=tmp_path, check=True)
        dead = compiling.Candidate(bad, KernelCode("misbehave", 1, 64))
        return compiling.Compiled((tmp_path / "both.o").read_bytes(), (dead, *compiled.candidates), {})

    monkeypatch.setattr(local_runner, "compile_candidates", compile_bad)
    monkeypatch.setattr(local_runner, "_SECONDS", 2)
    runner = LocalRunner(native_target(), NATIVE, rounds=2)
    try:
        dead, alive = runner.run(WORK, [bad, good])
    finally:
        runner.close()
    assert failure in dead.failure
    assert alive.schedule == good
    assert alive.seconds[0] > 0


def test_tuning_keeps_every_trial_and_takes_up_where_it_stood(database: Database) -> None:
    layers = [("one", WORK), ("two", WORK), ("three", Dense(k=112, n=48))]
    runner = LocalRunner(native_target(), NATIVE, rounds=3)
    seen: list[Trial] = []
    try:
        tasks = make_tasks(layers, runner, ())
        assert [(task.workload, task.layers) for task in tasks] == [
            (WORK, ("one", "two")),
            (Dense(k=112, n=48), ("three",)),
        ]
        tune(tasks, runner, database, limits=Limits(12, None), show=lambda task, trials: seen.extend(trials))
        records = database.load(NATIVE.mcpu).records
        assert len(seen) == len(records) == sum(len(task.tried) for task in tasks)
        assert all(not record.failed and record.origin == runner.origin for record in records)
        assert {record.schedule for record in records if record.workload == WORK} >= {space(WORK, NATIVE)[0]}
        again = make_tasks(layers, runner, records)
        for before, after in zip(tasks, again, strict=True):
            assert after.tried == pytest.approx(before.tried, rel=1e-5), "a record has six digits"
        tune(again, runner, database, limits=Limits(12, None), show=lambda task, trials: pytest.fail("tried again"))
    finally:
        runner.close()


class KnownMachine:
    """A machine whose kernels take known times, and that is half as fast with every batch."""

    target, isa, origin, macs_per_second, drifts = X86, NATIVE, HERE, 1e9, True

    def __init__(self, seconds: dict[Schedule, float]) -> None:
        self._seconds, self._slowness = seconds, 1.0

    def run(self, workload: Workload, schedules: Sequence[Schedule]) -> list[Trial]:
        self._slowness *= 2
        return [Trial(schedule, (self._seconds[schedule] * self._slowness,)) for schedule in schedules]

    def close(self) -> None:
        """Nothing to give back."""


def test_times_of_different_batches_can_be_compared(database: Database) -> None:
    candidates = space(WORK, NATIVE)
    seconds = {schedule: 1.0 + 0.001 * ((7 * number) % 101) for number, schedule in enumerate(candidates)}
    (task,) = tasks = make_tasks([("one", WORK)], KnownMachine(seconds), ())
    tune(tasks, KnownMachine(seconds), database, limits=Limits(3 * BATCH, None), show=lambda task, trials: None)
    assert len(task.tried) == 3 * BATCH
    assert task.best_schedule == min(task.tried, key=lambda schedule: seconds[schedule])
    ratios = [task.tried[schedule] / seconds[schedule] for schedule in task.tried]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_what_gains_nothing_is_left_alone(database: Database) -> None:
    same = dict.fromkeys(space(WORK, NATIVE), 1.0)
    (task,) = tasks = make_tasks([("one", WORK)], KnownMachine(same), ())
    tune(tasks, KnownMachine(same), database, limits=Limits(None, None), show=lambda task, trials: None)
    assert 24 < len(task.tried) <= 24 + BATCH


def test_a_batch_goes_where_most_is_to_be_gained(database: Database) -> None:
    often, once = WORK, pointwise(7, 7, 40, 64)
    seconds = dict.fromkeys((*space(often, NATIVE), *space(once, NATIVE)), 1.0)
    tasks = make_tasks([("a", once), ("b", often), ("c", often)], KnownMachine(seconds), ())
    seen: list[Workload] = []
    limits = Limits(2 * BATCH, None)
    tune(tasks, KnownMachine(seconds), database, limits=limits, show=lambda task, trials: seen.append(task.workload))
    assert seen[:3] == [once, often, often], "each once, then the one that two layers use"


def test_a_limit_of_time_is_kept(database: Database) -> None:
    runner = LocalRunner(native_target(), NATIVE, rounds=2)
    try:
        tasks = make_tasks([("one", WORK)], runner, ())
        tune(tasks, runner, database, limits=Limits(None, 0.0), show=lambda task, trials: None)
    finally:
        runner.close()
    assert not tasks[0].tried


def test_arm_kernels_of_the_whole_space_compile() -> None:
    for workload in (WORK, depthwise(14, 14, 24, 1, activation="relu6")):
        schedules = space(workload, A72)[::9]
        compiled = compile_candidates(workload, schedules, ARM, A72)
        assert compiled.failures == {}
        assert [candidate.schedule for candidate in compiled.candidates] == list(schedules)
