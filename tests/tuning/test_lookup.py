"""What a build takes from the records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import succeed
from compiled_kernels import NATIVE
from kept_trials import ELSEWHERE, HERE, add
from kernel_examples import AFTER, ALL, depthwise, pointwise, stem

from mnv2c.ir.graph import Padding
from mnv2c.kernels.cpu.device import CPU
from mnv2c.targets import V2, V3
from mnv2c.tuning.lookup import best_record, by_rule, from_records
from mnv2c.tuning.records import Database, Origin
from mnv2c.workloads import Dense

WORK = pointwise(7, 7, 40, 64, activation="relu6")
STATIC = Origin("znver4", "a model", "static cost", "0.27")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "schedules")


def test_the_very_workload_goes_first(database: Database) -> None:
    rule, better, worse = CPU.space(WORK, NATIVE)[:3]
    for schedule, seconds in ((rule, 2e-3), (better, 1e-3), (worse, 3e-3)):
        add(database, WORK, schedule, seconds)
    choice = from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE)
    assert (choice.schedule, choice.origin) == (better, "exact")


def test_a_gain_counts_and_not_a_fast_machine(database: Database) -> None:
    rule, here, elsewhere = CPU.space(WORK, NATIVE)[:3]
    for schedule, seconds, origin in (
        (rule, 2e-3, HERE),
        (here, 1e-3, HERE),
        (rule, 2e-4, ELSEWHERE),
        (elsewhere, 1.9e-4, ELSEWHERE),
    ):
        add(database, WORK, schedule, seconds, origin=origin)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == here


def test_what_was_measured_goes_before_what_was_estimated(database: Database) -> None:
    rule, measured, estimated = CPU.space(WORK, NATIVE)[:3]
    add(database, WORK, rule, 2e-3)
    add(database, WORK, measured, 1.9e-3)
    add(database, WORK, rule, 2e-3, origin=STATIC)
    add(database, WORK, estimated, 1e-3, origin=STATIC)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == measured


def test_the_nearest_workload_lends_its_parameters(database: Database) -> None:
    near, far = pointwise(7, 7, 48, 64, activation="relu6"), pointwise(7, 7, 640, 64, activation="relu6")
    rule = CPU.space(WORK, NATIVE)[0]
    schedule = next(one for one in CPU.space(WORK, NATIVE) if getattr(one, "rows", 0) != getattr(rule, "rows", 0))
    add(database, WORK, rule, 2e-3)
    add(database, WORK, schedule, 1e-3)
    choose = from_records(database.directory, [NATIVE], pytest.fail)
    assert (choose(near, NATIVE).schedule, choose(near, NATIVE).origin) == (schedule, "transferred")
    assert schedule in CPU.space(far, NATIVE), "it would fit, and comes from too far away"
    assert choose(far, NATIVE) == by_rule(far, NATIVE)
    assert choose(Dense(k=24, n=3), NATIVE).origin == "rule"


def test_in_bands_the_schedule_is_the_whole_map_s(database: Database) -> None:
    """Where bands leave it open: another depthwise tile here is as high as two bands."""
    whole = pointwise(14, 14, 24, 144, activation="relu6", border=ALL)
    in_bands = replace(whole, border=Padding(), band=1)
    schedule = CPU.space(in_bands, NATIVE)[7]
    assert schedule in CPU.space(whole, NATIVE)
    add(database, whole, schedule, 1e-3)
    filtered = depthwise(14, 14, 24, 1, activation="relu6")
    ring = replace(filtered, rows=3, band=1, ring=True)
    add(database, filtered, next(one for one in CPU.space(filtered, NATIVE) if one.height == 2), 1e-3)
    choose = from_records(database.directory, [NATIVE], pytest.fail)
    assert (choose(in_bands, NATIVE).schedule, choose(in_bands, NATIVE).origin) == (schedule, "transferred")
    assert choose(ring, NATIVE) == by_rule(ring, NATIVE)


def test_stems_that_pad_otherwise_lend_to_a_third(database: Database) -> None:
    same, symmetric, wider = (
        stem(48, 48, n, 2, 96, 96, padding=padding, border=ALL)
        for n, padding in ((16, AFTER), (16, Padding(1, 1, 0, 0)), (24, ALL))
    )
    assert same.name != symmetric.name
    for known in (same, symmetric):
        add(database, known, CPU.space(known, NATIVE)[0], 1e-3)
    choose = from_records(database.directory, [NATIVE], pytest.fail)
    assert [choose(one, NATIVE).origin for one in (same, symmetric, wider)] == ["exact", "exact", "transferred"]


def test_where_the_rule_won_it_is_the_rule_that_is_lent(database: Database) -> None:
    near = pointwise(7, 7, 48, 72, activation="relu6")
    rule = CPU.space(near, V3)[0]
    assert rule != CPU.space(WORK, V3)[0]
    add(database, WORK, CPU.space(WORK, V3)[0], 1e-3, isa=V3)
    choice = from_records(database.directory, [V3], pytest.fail)(near, V3)
    assert (choice.schedule, choice.origin) == (rule, "transferred")


def test_records_for_one_core_are_not_another_s(database: Database) -> None:
    add(database, WORK, CPU.space(WORK, V2)[1], 1e-3, isa=V2)
    choose = from_records(database.directory, [V2, V3], pytest.fail)
    assert choose(WORK, V2).origin == "exact"
    assert choose(WORK, V3).origin == "rule"


def test_a_record_that_no_longer_replays_is_named(database: Database) -> None:
    add(database, WORK, CPU.space(WORK, NATIVE)[0], 1e-3)
    (record,) = database.load(NATIVE.mcpu).records
    database.keep(NATIVE.mcpu, lambda records: [])
    add(database, WORK, replace(record.schedule, rows=999), 1e-3)
    heard: list[str] = []
    choice = from_records(database.directory, [NATIVE], heard.append)(WORK, NATIVE)
    assert choice.origin == "rule"
    (complaint,) = heard
    assert WORK.name in complaint
    assert "rows=999" in complaint
    assert "no longer replay" in complaint


def test_a_library_for_everyone_takes_the_best_worst_case(database: Database) -> None:
    rule, here, elsewhere, both = CPU.space(WORK, NATIVE)[:4]
    for origin, seconds in (
        (HERE, {rule: 2e-3, here: 1e-3, elsewhere: 2.2e-3, both: 1.5e-3}),
        (ELSEWHERE, {rule: 2e-4, here: 3e-4, elsewhere: 1e-4, both: 1.6e-4}),
    ):
        for schedule, time in seconds.items():
            add(database, WORK, schedule, time, origin=origin)
    chosen = {
        processor: from_records(database.directory, [NATIVE], pytest.fail, processor=processor)(WORK, NATIVE).schedule
        for processor in (None, "znver4", "znver5", "znver3")
    }
    assert chosen == {None: both, "znver4": here, "znver5": elsewhere, "znver3": both}
    best = best_record(database.load(NATIVE.mcpu).records, NATIVE, pytest.fail)
    assert best is not None
    assert best.processor == "znver5", "where it gains least"


def test_the_rule_is_followed_where_the_gain_may_be_noise(database: Database) -> None:
    rule, little, more = CPU.space(WORK, NATIVE)[:3]
    add(database, WORK, rule, 1e-3)
    add(database, WORK, little, 0.98e-3)
    choose = from_records(database.directory, [NATIVE], pytest.fail)
    assert (choose(WORK, NATIVE).schedule, choose(WORK, NATIVE).origin) == (rule, "exact")
    add(database, WORK, more, 0.96e-3)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == more


def test_a_models_estimates_have_no_noise(database: Database) -> None:
    rule, little = CPU.space(WORK, NATIVE)[:2]
    add(database, WORK, rule, 1e-3, origin=STATIC)
    add(database, WORK, little, 0.99e-3, origin=STATIC)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == little


def test_prune_keeps_a_processors_own_where_it_gains_more_than_noise(database: Database) -> None:
    rule, everyones, a_little, more = CPU.space(WORK, NATIVE)[:4]
    for origin, own, gain in ((HERE, a_little, 0.49e-3), (ELSEWHERE, more, 0.4e-3)):
        add(database, WORK, rule, 1e-3, origin=origin)
        add(database, WORK, everyones, 0.5e-3, origin=origin)
        add(database, WORK, own, gain, origin=origin)
    add(database, WORK, a_little, 2e-3, origin=ELSEWHERE)
    add(database, WORK, more, 2e-3, origin=HERE)
    succeed("records", "prune", "--schedules", database.directory)
    kept = [(one.processor, one.schedule) for one in database.load(NATIVE.mcpu).records]
    assert set(kept) == {(where, one) for where in ("znver4", "znver5") for one in (rule, everyones, more)}


def test_other_numbers_of_threads_are_another_origin(database: Database) -> None:
    rule, one, both = CPU.space(WORK, NATIVE)[:3]
    add(database, WORK, rule, 2e-3)
    add(database, WORK, one, 1.8e-3)
    add(database, WORK, rule, 2e-3, 2e-3)
    add(database, WORK, both, 2e-3, 1e-3)
    assert from_records(database.directory, [NATIVE], pytest.fail)(WORK, NATIVE).schedule == both
