"""Tuning: the space, the records, the search, the guarded trials, and what a build takes from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from compiled_kernels import NATIVE, CompiledKernels
from kept_trials import HERE, add
from kernel_examples import AFTER, ALL, TRIED, depthwise, example, pointwise, stem
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from mnv2c.errors import RecordError
from mnv2c.ir.graph import Padding
from mnv2c.kernels.abi import KernelCode, Schedule
from mnv2c.kernels.cpu.device import space
from mnv2c.targets import A53, A72, ARM, V2, V3, V4, X86, InstructionSet, native_target
from mnv2c.toolchain import compile_c, find_zig
from mnv2c.tuning import candidates as compiling
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.lookup import best_record, by_rule, from_records
from mnv2c.tuning.records import RECORD_FILE, WORKLOAD_FILE, Database, Origin
from mnv2c.tuning.runners import Trial
from mnv2c.tuning.runners import local as local_runner
from mnv2c.tuning.runners.local import LocalRunner
from mnv2c.tuning.search import propose
from mnv2c.tuning.space import module, sampled_values, schedule_fn, traced
from mnv2c.tuning.tune import BATCH, Limits, make_tasks, tune
from mnv2c.workloads import Dense, Workload

WORK = pointwise(7, 7, 40, 64, activation="relu6")
ELSEWHERE = Origin("another machine", "measured", "0.27")
STATIC = Origin("a model", "static cost", "0.27")


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


def test_a_record_replays_under_metaschedule(database: Database) -> None:
    schedule = space(WORK, NATIVE)[3]
    add(database, WORK, schedule, 1e-3)
    add(database, WORK, space(WORK, NATIVE)[0], 2e-3)
    path = database.directory / NATIVE.mcpu / RECORD_FILE
    stock = ms.database.JSONDatabase(str(database.directory / WORKLOAD_FILE), str(path))
    assert len(stock) == 2
    (best,) = stock.get_top_k(stock.commit_workload(module(WORK)), 1)
    s = s_tir.Schedule(module(WORK))
    best.trace.apply_to_schedule(s, remove_postproc=False)
    tvm.ir.assert_structural_equal(s.mod, traced(WORK, NATIVE, schedule).mod)


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


# The records


def test_records_come_back_as_they_went(database: Database) -> None:
    """Of every family; batches, odd numbers of channels and raw bytes among them."""
    for workload in TRIED:
        add(database, workload, space(workload, NATIVE)[-1], 2e-3, 1e-3)
    loaded = database.load(NATIVE.mcpu)
    assert loaded.complaints == ()
    assert [record.workload for record in loaded.records] == list(TRIED)
    assert [record.schedule for record in loaded.records] == [space(workload, NATIVE)[-1] for workload in TRIED]
    assert loaded.records[0].seconds == (1e-3, 2e-3)
    assert loaded.records[0].spread == pytest.approx(1.0)
    assert loaded.records[0].origin == HERE
    assert database.cores() == [NATIVE.mcpu]


def test_a_failed_trial_is_kept_and_never_chosen(database: Database) -> None:
    schedule = space(WORK, NATIVE)[2]
    add(database, WORK, schedule)
    (record,) = database.load(NATIVE.mcpu).records
    assert record.failed
    assert best_record([record], NATIVE, pytest.fail) is None


def test_a_torn_line_is_dropped_and_then_gone(database: Database) -> None:
    first, second, third = space(WORK, NATIVE)[:3]
    add(database, WORK, first, 1e-3)
    add(database, WORK, second, 1e-3)
    path = database.directory / NATIVE.mcpu / RECORD_FILE
    path.write_bytes(path.read_bytes()[:-10])
    loaded = database.load(NATIVE.mcpu)
    assert [record.schedule for record in loaded.records] == [first]
    assert loaded.complaints == (f"{path}:2: the last line is cut short; dropped",)
    add(database, WORK, third, 1e-3)
    loaded = database.load(NATIVE.mcpu)
    assert [record.schedule for record in loaded.records] == [first, third]
    assert loaded.complaints == ()


@pytest.mark.parametrize(
    "damage", ["nonsense", "[1, 2]", '[7, [[[], []], [1.0], {"model": "a; b; c"}, []]]', "\x00\xff"]
)
def test_a_line_that_is_no_record_is_named(database: Database, damage: str) -> None:
    add(database, WORK, space(WORK, NATIVE)[0], 1e-3)
    path = database.directory / NATIVE.mcpu / RECORD_FILE
    path.write_text(damage + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    loaded = database.load(NATIVE.mcpu)
    assert len(loaded.records) == 1
    (complaint,) = loaded.complaints
    assert complaint.startswith(f"{path}:1: not a record this version reads")


def test_a_damaged_workload_takes_its_records_with_it_and_no_other(database: Database) -> None:
    for workload in (WORK, Dense(k=24, n=3)):
        add(database, workload, space(workload, NATIVE)[0], 1e-3)
    path = database.directory / WORKLOAD_FILE
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("[]\n" + lines[1] + "\n", encoding="utf-8")
    loaded = database.load(NATIVE.mcpu)
    assert [record.workload for record in loaded.records] == [Dense(k=24, n=3)]
    assert len(loaded.complaints) == 2
    add(database, WORK, space(WORK, NATIVE)[0], 1e-3)
    assert database.load(NATIVE.mcpu).records[-1].workload == WORK


def test_what_cannot_be_read_stays(database: Database) -> None:
    first, second = space(WORK, NATIVE)[:2]
    add(database, WORK, first, 1e-3)
    path = database.directory / NATIVE.mcpu / RECORD_FILE
    path.write_text('["from another version"]\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    add(database, WORK, second, 1e-3)
    assert database.keep(NATIVE.mcpu, lambda records: [one for one in records if one.schedule == second]) == 1
    assert [record.schedule for record in database.load(NATIVE.mcpu).records] == [second]
    assert '["from another version"]\n' in path.read_text(encoding="utf-8")
    assert database.keep("no-such-core", list) == 0


def test_two_writers_lose_nothing(database: Database, tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from compiled_kernels import NATIVE\n"
        "from kept_trials import add\n"
        "from mnv2c.kernels.cpu.device import space\n"
        "from mnv2c.tuning.records import Database\n"
        "from mnv2c.workloads import Dense\n"
        "database = Database(Path(sys.argv[1]))\n"
        "for number in range(40):\n"
        "    work = Dense(k=24 + number % 7, n=int(sys.argv[2]) + 3)\n"
        "    add(database, work, space(work, NATIVE)[0], number + 1.0)\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen([sys.executable, script, database.directory, str(number)], env=environment)
        for number in (0, 1)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    loaded = database.load(NATIVE.mcpu)
    assert loaded.complaints == ()
    found = sorted(
        (record.workload.n, record.seconds[0]) for record in loaded.records if isinstance(record.workload, Dense)
    )
    assert found == [(n, number + 1.0) for n in (3, 4) for number in range(40)]


def test_one_writer_waits_for_the_other(database: Database) -> None:
    database.directory.mkdir()
    path = database.directory / NATIVE.mcpu / RECORD_FILE
    writer = threading.Thread(target=add, args=(database, WORK, space(WORK, NATIVE)[0], 1e-3))
    with database._locked():
        writer.start()
        writer.join(1)
        assert writer.is_alive()
        assert not path.exists()
    writer.join()
    assert len(database.load(NATIVE.mcpu).records) == 1


def test_records_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(RecordError, match="the records cannot be written: Not a directory"):
        add(Database(tmp_path / "file"), WORK, space(WORK, NATIVE)[0], 1e-3)


# What a build takes


def test_the_very_workload_goes_first(database: Database) -> None:
    rule, better, worse = space(WORK, NATIVE)[:3]
    for schedule, seconds in ((rule, 2e-3), (better, 1e-3), (worse, 3e-3)):
        add(database, WORK, schedule, seconds)
    choice = from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE)
    assert (choice.schedule, choice.origin) == (better, "exact")


def test_a_gain_counts_and_not_a_fast_machine(database: Database) -> None:
    rule, here, elsewhere = space(WORK, NATIVE)[:3]
    for schedule, seconds, origin in (
        (rule, 2e-3, HERE),
        (here, 1e-3, HERE),
        (rule, 2e-4, ELSEWHERE),
        (elsewhere, 1.9e-4, ELSEWHERE),
    ):
        add(database, WORK, schedule, seconds, origin=origin)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == here


def test_what_was_measured_goes_before_what_was_estimated(database: Database) -> None:
    rule, measured, estimated = space(WORK, NATIVE)[:3]
    add(database, WORK, rule, 2e-3)
    add(database, WORK, measured, 1.9e-3)
    add(database, WORK, rule, 2e-3, origin=STATIC)
    add(database, WORK, estimated, 1e-3, origin=STATIC)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == measured


def test_the_nearest_workload_lends_its_parameters(database: Database) -> None:
    near, far = pointwise(7, 7, 48, 64, activation="relu6"), pointwise(7, 7, 640, 64, activation="relu6")
    rule = space(WORK, NATIVE)[0]
    schedule = next(one for one in space(WORK, NATIVE) if getattr(one, "rows", 0) != getattr(rule, "rows", 0))
    add(database, WORK, rule, 2e-3)
    add(database, WORK, schedule, 1e-3)
    choose = from_records(database.directory, [NATIVE], pytest.fail)
    assert (choose(near, NATIVE).schedule, choose(near, NATIVE).origin) == (schedule, "transferred")
    assert schedule in space(far, NATIVE), "it would fit, and comes from too far away"
    assert choose(far, NATIVE) == by_rule(far, NATIVE)
    assert choose(Dense(k=24, n=3), NATIVE).origin == "rule"


def test_stems_that_pad_otherwise_lend_to_a_third(database: Database) -> None:
    same, symmetric, wider = (
        stem(48, 48, n, 2, 96, 96, padding=padding, border=ALL)
        for n, padding in ((16, AFTER), (16, Padding(1, 1, 0, 0)), (24, ALL))
    )
    assert same.name != symmetric.name
    for known in (same, symmetric):
        add(database, known, space(known, NATIVE)[0], 1e-3)
    choose = from_records(database.directory, [NATIVE], pytest.fail)
    assert [choose(one, NATIVE).origin for one in (same, symmetric, wider)] == ["exact", "exact", "transferred"]


def test_where_the_rule_won_it_is_the_rule_that_is_lent(database: Database) -> None:
    near = pointwise(7, 7, 48, 72, activation="relu6")
    rule = space(near, V3)[0]
    assert rule != space(WORK, V3)[0]
    add(database, WORK, space(WORK, V3)[0], 1e-3, isa=V3)
    choice = from_records(database.directory, [V3], pytest.fail)(near, V3)
    assert (choice.schedule, choice.origin) == (rule, "transferred")


def test_records_for_one_core_are_not_another_s(database: Database) -> None:
    add(database, WORK, space(WORK, V2)[1], 1e-3, isa=V2)
    choose = from_records(database.directory, [V2, V3], pytest.fail)
    assert choose(WORK, V2).origin == "exact"
    assert choose(WORK, V3).origin == "rule"


def test_a_record_that_no_longer_replays_is_named(database: Database) -> None:
    add(database, WORK, space(WORK, NATIVE)[0], 1e-3)
    path = database.directory / NATIVE.mcpu / RECORD_FILE
    index, (trace, *rest) = json.loads(path.read_text(encoding="utf-8"))
    trace[0][0][2][0] = [999 for _ in trace[0][0][2][0]]  # as if rows had once been sampled among these
    path.write_text(json.dumps([index, [trace, *rest]]) + "\n", encoding="utf-8")
    heard: list[str] = []
    choice = from_records(database.directory, [NATIVE], heard.append)(WORK, NATIVE)
    assert choice.origin == "rule"
    (complaint,) = heard
    assert WORK.name in complaint
    assert "rows=999" in complaint
    assert "no longer replay" in complaint


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
            assert after.tried == pytest.approx(before.tried)
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
