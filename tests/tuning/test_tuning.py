"""Tuning: the space, the records, the search, the guarded trials, and what a build takes from them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from compiled_kernels import NATIVE, CompiledKernels
from kept_trials import ELSEWHERE, HERE, add
from kernel_examples import TRIED, depthwise, example, pointwise
from tried import try_schedules
from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels.abi import KernelCode, Schedule
from mnv2c.kernels.cpu.device import CPU
from mnv2c.targets import A53, A72, ARM, V2, V3, V4, X86, InstructionSet, Target, native_target
from mnv2c.toolchain import compile_c, find_zig
from mnv2c.tuning import builder as builder_module
from mnv2c.tuning import candidates as compiling
from mnv2c.tuning.builder import Builder
from mnv2c.tuning.candidates import Compiled, compile_candidates
from mnv2c.tuning.records import Database, Record
from mnv2c.tuning.runners import Conditions, Timing, Trial, done
from mnv2c.tuning.runners import local as local_runner
from mnv2c.tuning.runners.local import LocalRunner
from mnv2c.tuning.search import propose
from mnv2c.tuning.space import ApplyTemplate, StepInSpace, module, sampled_values, schedule_of, traced
from mnv2c.tuning.tune import BATCH, STRATEGIES, Limits, Task, _context, make_tasks, stock_cost_model, tune
from mnv2c.workloads import Dense, Workload

WORK = pointwise(7, 7, 40, 64, activation="relu6")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "schedules")


# The space


@pytest.mark.parametrize("isa", [V4, V3, V2, A72, A53], ids=lambda isa: isa.mcpu)
@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_a_trace_says_how(workload: Workload, isa: InstructionSet) -> None:
    candidates = CPU.space(workload, isa)
    assert len(set(candidates)) == len(candidates)
    for schedule in {candidates[0], candidates[-1], candidates[len(candidates) // 2]}:
        trace = traced(workload, isa, schedule).trace.as_json()
        assert sampled_values(trace) == tuple(int(value) for value in vars(schedule).values())


def test_metaschedule_samples_the_space() -> None:
    context = _context(make_tasks([("one", WORK)], KNOWN, ())[0], ms.search_strategy.ReplayFunc())
    context.pre_tuning(max_trials=8, num_trials_per_iter=8, design_spaces=context.generate_design_space())
    candidates = context.generate_measure_candidates()
    assert len(candidates) == 8
    for one in candidates:
        schedule = schedule_of(one.sch.trace, WORK, NATIVE)
        assert schedule in CPU.space(WORK, NATIVE)
        tvm.ir.assert_structural_equal(one.sch.mod, traced(WORK, NATIVE, schedule).mod)


def test_decisions_outside_of_the_space_are_rejected() -> None:
    s = s_tir.Schedule(module(WORK, NATIVE))
    for _ in vars(CPU.space(WORK, NATIVE)[0]):
        s.sample_categorical([999], [1.0], 0)
    assert schedule_of(s.trace, WORK, NATIVE) is None
    assert not ApplyTemplate(WORK, NATIVE).apply(s)


def test_a_mutation_stays_in_the_space() -> None:
    before = CPU.space(WORK, NATIVE)[3]
    mutator = StepInSpace(WORK, NATIVE)
    for _ in range(5):
        trace = mutator.apply(traced(WORK, NATIVE, before).trace)
        after = schedule_of(trace, WORK, NATIVE)
        assert after in CPU.space(WORK, NATIVE)
        assert after != before


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_what_is_far_from_the_rule_computes_the_same(workload: Workload, tmp_path: Path) -> None:
    candidates = CPU.space(workload, NATIVE)
    schedules = list(dict.fromkeys(candidates[len(candidates) * part // 7] for part in range(7)))
    inputs, constants, expected = example(workload)
    chosen = [(f"kernel{number}", workload, schedule) for number, schedule in enumerate(schedules)]
    kernels = CompiledKernels(chosen, NATIVE, tmp_path)
    for name, _, schedule in chosen:
        found = kernels.run(name, inputs, constants)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=str(schedule))


# The search


def test_the_search_begins_with_the_rule_and_never_repeats() -> None:
    candidates = CPU.space(WORK, NATIVE)
    tried: dict[Schedule, float] = {}
    while wanted := propose(candidates, tried, BATCH):
        assert not set(wanted) & set(tried)
        assert tried or wanted[0] == candidates[0]
        tried |= {schedule: float(candidates.index(schedule)) for schedule in wanted}
    assert set(tried) == set(candidates), "it ends when all are tried, and tries nothing else"


def test_the_search_climbs_to_the_best() -> None:
    candidates = CPU.space(pointwise(14, 14, 576, 96, residual=True), V3)
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
    schedules = CPU.space(WORK, NATIVE)[:3]
    real = CPU.scheduled

    def crash(workload: Workload, schedule: Schedule) -> tvm.tirx.PrimFunc:
        if schedule == schedules[1]:
            os.abort()
        return real(workload, schedule)

    monkeypatch.setattr(CPU, "scheduled", crash)
    compiled = compile_candidates(WORK, schedules, X86, NATIVE)
    assert sorted(compiled.kernels) == [0, 2]
    assert compiled.failures == {1: "the compiler crashed (SIGABRT)"}


def test_a_compile_that_never_ends_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = CPU.space(WORK, NATIVE)[:3]
    real = CPU.scheduled

    def hang(workload: Workload, schedule: Schedule) -> tvm.tirx.PrimFunc:
        while schedule == schedules[1]:
            pass
        return real(workload, schedule)

    monkeypatch.setattr(CPU, "scheduled", hang)
    monkeypatch.setattr(compiling, "_SECONDS", 12)
    compiled = compile_candidates(WORK, schedules, X86, NATIVE)
    assert sorted(compiled.kernels) == [0, 2]
    assert compiled.failures == {1: "the compiler is still running after 12 s"}


def test_what_the_template_cannot_do_costs_one_trial() -> None:
    good = CPU.space(WORK, NATIVE)[0]
    bad = replace(good, turns=0)
    compiled = compile_candidates(WORK, [bad, good], X86, NATIVE)
    assert list(compiled.kernels) == [1]
    assert list(compiled.failures) == [0]


@pytest.mark.parametrize(
    ("body", "failure"),
    [("*(volatile int *)0 = 1; return 0;", "crashed (SIGSEGV)"), ('for (;;) __asm__ volatile("");', "still running")],
    ids=["crash", "hang"],
)
def test_a_candidate_that_misbehaves_costs_one_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, failure: str
) -> None:
    good, bad = CPU.space(WORK, NATIVE)[:2]
    real = compiling.compile_functions

    def compile_bad(functions: Sequence[Any], target: Target, isa: InstructionSet) -> Compiled:
        """The real kernels, and one in C in the place of the first."""
        compiled = real(functions, target, isa)
        (tmp_path / "bad.c").write_text(f"int misbehave(void) {{ {body} }}\n", encoding="utf-8")
        (tmp_path / "good.o").write_bytes(compiled.object)
        toolchain = find_zig(X86.zig_triple)
        compile_c(toolchain, tmp_path, "bad.c", flags=("-fvisibility=default",))
        subprocess.run(["ld", "-r", "good.o", "bad.o", "-o", "both.o"], cwd=tmp_path, check=True)
        kernels = {**compiled.kernels, 0: KernelCode("misbehave", 1, 64)}
        return Compiled((tmp_path / "both.o").read_bytes(), kernels, {})

    monkeypatch.setattr(builder_module, "compile_functions", compile_bad)
    monkeypatch.setattr(local_runner, "_SECONDS", 6)
    runner = LocalRunner(native_target(), NATIVE, rounds=2)
    try:
        dead, alive = try_schedules(runner, WORK, [bad, good])
    finally:
        runner.close()
    assert failure in dead.failure
    assert alive.schedule == good
    assert alive.seconds[1] > 0


def test_a_trial_has_a_time_for_each_number_of_threads() -> None:
    work = pointwise(56, 56, 144, 24)
    runner = LocalRunner(native_target(), NATIVE, threads=(1, 2, 3), rounds=2)
    try:
        (trial,) = try_schedules(runner, work, CPU.space(work, NATIVE)[:1])
    finally:
        runner.close()
    assert list(trial.seconds) == [1, 2, 3]
    assert all(seconds > 0 for seconds in trial.seconds.values())


# Tuning


@pytest.fixture
def local() -> Iterator[tuple[Any, Any]]:
    runner, builder = LocalRunner(native_target(), NATIVE, rounds=3), Builder(native_target(), NATIVE)
    try:
        yield runner, builder
    finally:
        builder.close()
        runner.close()


def test_tuning_keeps_every_trial_and_takes_up_where_it_stood(database: Database, local: tuple[Any, Any]) -> None:
    layers = [("one", WORK), ("two", WORK), ("three", Dense(k=112, n=48))]
    runner, builder = local
    seen: list[Trial] = []
    tasks = make_tasks(layers, runner.conditions, ())
    assert [(task.workload, task.layers) for task in tasks] == [
        (WORK, ("one", "two")),
        (Dense(k=112, n=48), ("three",)),
    ]

    def show(task: Task, trials: list[Trial]) -> None:
        assert len(database.load(NATIVE.mcpu).records) == len(seen) + len(trials), "kept before it is shown"
        seen.extend(trials)

    tune(tasks, database, runner=runner, builder=builder, limits=Limits(12, None), show=show)
    records = database.load(NATIVE.mcpu).records
    assert len(seen) == len(records) == sum(len(task.tried) for task in tasks)
    assert all(not record.failed and record.origin == runner.conditions.origin for record in records)
    assert {record.schedule for record in records if record.workload == WORK} >= {CPU.space(WORK, NATIVE)[0]}
    again = make_tasks(layers, runner.conditions, records)
    for before, after in zip(tasks, again, strict=True):
        assert after.tried == pytest.approx(before.tried, rel=1e-3)
    tune(again, database, runner=runner, builder=builder, limits=Limits(12, None), show=lambda *_: pytest.fail("again"))


def test_trials_for_other_numbers_of_threads_are_not_mixed_in(database: Database) -> None:
    add(database, WORK, CPU.space(WORK, NATIVE)[0], 1e-3, 1e-3)
    add(database, WORK, CPU.space(WORK, NATIVE)[1], 1e-3)
    (task,) = make_tasks([("one", WORK)], KNOWN, database.load(NATIVE.mcpu).records)
    assert list(task.tried) == [CPU.space(WORK, NATIVE)[1]]


@derived_object
class KnownMachine(ms.runner.PyRunner):
    """A machine whose kernels take known times; it is half as fast with every batch, and has one core for every second
    one, so that threads gain nothing. It builds nothing."""

    def __init__(self, seconds: dict[Schedule, float], built: KnownBuilder, threads: tuple[int, ...]) -> None:
        super().__init__()
        self._seconds, self._built, self._threads, self._batches = seconds, built, threads, 0

    def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
        self._batches += 1
        schedules = [self._built.schedules[str(one.artifact_path)] for one in runner_inputs]
        slowness = [2.0**self._batches * (1 if self._batches % 2 else threads) for threads in self._threads]
        return [
            done(
                Timing(
                    tuple(
                        known_seconds(self._seconds[schedule], n) * slow
                        for n, slow in zip(self._threads, slowness, strict=True)
                    )
                )
            )
            for schedule in schedules
        ]


def known_seconds(one_thread: float, threads: int) -> float:
    """The faster on one, the less it gains by more."""
    return one_thread if threads == 1 else (2 - one_thread) / threads


@derived_object
class KnownBuilder(ms.builder.PyBuilder):
    """Recognises what it is given."""

    def __init__(self, workloads: Sequence[Workload]) -> None:
        super().__init__()
        self.schedules: dict[str, tuple[Workload, Schedule]] = {}
        self._known = {
            tvm_ffi.structural_hash(traced(workload, NATIVE, schedule).mod): (workload, schedule)
            for workload in workloads
            for schedule in CPU.space(workload, NATIVE)
        }

    def build(self, build_inputs: Sequence[Any]) -> list[Any]:
        names = [str(tvm_ffi.structural_hash(one.mod)) for one in build_inputs]
        self.schedules |= {name: self._known[int(name)] for name in names}
        return [ms.builder.BuilderResult(name, None) for name in names]


KNOWN = Conditions(X86, NATIVE, HERE, 1e9, True)


def tune_known(
    layers: Sequence[tuple[str, Workload]],
    seconds: Callable[[Workload, Schedule], float],
    database: Database,
    trials: int | None,
    show: Callable[[Task, list[Trial]], None] = lambda task, trials: None,
    threads: tuple[int, ...] = (1,),
    records: Sequence[Record] = (),
) -> list[Task]:
    builder = KnownBuilder(list(dict.fromkeys(workload for _, workload in layers)))
    known = {pair: seconds(*pair) for pair in builder._known.values()}
    tasks = make_tasks(layers, replace(KNOWN, origin=replace(HERE, threads=threads)), records)
    runner = KnownMachine(known, builder, threads)
    tune(tasks, database, runner=runner, builder=builder, limits=Limits(trials, None), show=show)
    return tasks


@pytest.mark.parametrize("threads", [(1,), (1, 2)])
def test_times_of_different_batches_can_be_compared(database: Database, threads: tuple[int, ...]) -> None:
    candidates = CPU.space(WORK, NATIVE)
    seconds = {schedule: 1.0 + 0.001 * ((7 * number) % 101) for number, schedule in enumerate(candidates)}
    (task,) = tune_known([("one", WORK)], lambda _, schedule: seconds[schedule], database, 3 * BATCH, threads=threads)
    assert len(task.tried) == 3 * BATCH
    expected = {one: np.mean([known_seconds(seconds[one], n) for n in threads]) for one in task.tried}
    assert task.best_schedule == min(task.tried, key=lambda schedule: expected[schedule])
    ratios = [task.tried[one] / expected[one] for one in task.tried]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_what_was_best_on_another_processor_is_tried_after_the_rule(database: Database) -> None:
    rule, *_, one, other = CPU.space(WORK, NATIVE)
    for schedule, seconds in ((rule, 3e-3), (one, 2e-3), (other, 1e-3)):
        add(database, WORK, schedule, seconds, origin=ELSEWHERE)
    records = database.load(NATIVE.mcpu).records
    (task,) = tune_known([("one", WORK)], lambda *_: 1.0, database, 3, records=records)
    assert list(task.tried)[:2] == [rule, other]
    assert one not in task.tried


def test_what_gains_nothing_is_left_alone(database: Database) -> None:
    (task,) = tune_known([("one", WORK)], lambda *_: 1.0, database, None)
    assert 24 < len(task.tried) <= 24 + BATCH


def test_a_batch_goes_where_most_is_to_be_gained(database: Database) -> None:
    often, once = WORK, pointwise(7, 7, 40, 64)
    seen: list[Workload] = []
    tune_known(
        [("a", once), ("b", often), ("c", often)],
        lambda *_: 1.0,
        database,
        2 * BATCH,
        lambda task, trials: seen.append(task.workload),
    )
    assert seen[:3] == [once, often, often], "each once, then the one that two layers use"


def test_a_limit_of_time_is_kept(database: Database, local: tuple[Any, Any]) -> None:
    runner, builder = local
    tasks = make_tasks([("one", WORK)], runner.conditions, ())
    tune(tasks, database, runner=runner, builder=builder, limits=Limits(None, 0.0))
    assert not tasks[0].tried


def test_what_ends_a_run_comes_out_as_what_it_was(database: Database, local: tuple[Any, Any]) -> None:
    runner, builder = local
    tasks = make_tasks([("one", WORK)], runner.conditions, ())

    def interrupt(task: Task, trials: list[Trial]) -> None:
        raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="now"):
        tune(tasks, database, runner=runner, builder=builder, show=interrupt)
    assert len(database.load(NATIVE.mcpu).records) == BATCH


@pytest.mark.parametrize("search", ["evolutionary", "replay"])
def test_a_stock_search_finds_its_way_in_our_space(search: str, database: Database, local: tuple[Any, Any]) -> None:
    runner, builder = local
    tasks = make_tasks([("one", WORK)], runner.conditions, ())
    model = stock_cost_model("none", search)
    limits = Limits(2 * BATCH, None)
    tune(tasks, database, runner=runner, builder=builder, strategy=STRATEGIES[search], cost_model=model, limits=limits)
    assert len(tasks[0].tried) == 2 * BATCH
    assert set(tasks[0].tried) <= set(CPU.space(WORK, NATIVE))
    assert tasks[0].best is not None


def test_a_cost_model_of_one_s_own(database: Database, local: tuple[Any, Any]) -> None:
    """What a user of TVM writes: their own part in the place of one of ours."""
    updates: list[int] = []

    @derived_object
    class WideTilesFirst(ms.cost_model.PyCostModel):
        def load(self, path: str) -> None: ...
        def save(self, path: str) -> None: ...
        def update(self, context: Any, candidates: Sequence[Any], results: Sequence[Any]) -> None:
            updates.append(len(results))

        def predict(self, context: Any, candidates: Sequence[Any]) -> np.ndarray:
            schedules = [schedule_of(one.sch.trace, WORK, NATIVE) for one in candidates]
            return np.array([float(schedule.columns) for schedule in schedules])

    runner, builder = local
    tasks = make_tasks([("one", WORK)], runner.conditions, ())
    tune(
        tasks,
        database,
        runner=runner,
        builder=builder,
        strategy=STRATEGIES["evolutionary"],
        cost_model=WideTilesFirst(),
        limits=Limits(3 * BATCH, None),
    )
    assert len(updates) == 3
    mean_of_space = np.mean([schedule.columns for schedule in CPU.space(WORK, NATIVE)])
    assert np.mean([schedule.columns for schedule in tasks[0].tried]) > mean_of_space


def test_arm_kernels_of_the_whole_space_compile() -> None:
    for workload in (WORK, depthwise(14, 14, 24, 1, activation="relu6")):
        schedules = CPU.space(workload, A72)[::9]
        compiled = compile_candidates(workload, schedules, ARM, A72)
        assert compiled.failures == {}
        assert sorted(compiled.kernels) == list(range(len(schedules)))
