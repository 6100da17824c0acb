"""Tuning records: what is written comes back, and what cannot be read is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from compiled_kernels import NATIVE
from kept_trials import ELSEWHERE, HERE, add
from kernel_examples import TRIED, pointwise

from mnv2c.errors import RecordError
from mnv2c.kernels.cpu.device import CPU
from mnv2c.shipped import SCHEDULES as SHIPPED
from mnv2c.tuning.lookup import best_record
from mnv2c.tuning.records import Database
from mnv2c.workloads import Dense

WORK = pointwise(7, 7, 40, 64, activation="relu6")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "schedules")


def test_records_come_back_as_they_went(database: Database) -> None:
    """Of every family; batches, odd numbers of channels and raw bytes among them."""
    for workload in TRIED:
        add(database, workload, CPU.space(workload, NATIVE)[-1], 2e-3, 1.234567e-3)
    loaded = database.load(NATIVE.mcpu)
    assert loaded.complaints == ()
    assert [record.workload for record in loaded.records] == list(TRIED)
    assert [record.schedule for record in loaded.records] == [CPU.space(workload, NATIVE)[-1] for workload in TRIED]
    assert loaded.records[0].seconds == {1: 2e-3, 2: 1.23457e-3}
    assert loaded.records[0].objective == pytest.approx(1.617285e-3)
    assert loaded.records[0].origin == replace(HERE, threads=(1, 2))
    assert database.instruction_sets() == [NATIVE.mcpu]


def test_a_failed_trial_is_kept_and_never_chosen(database: Database) -> None:
    schedule = CPU.space(WORK, NATIVE)[2]
    add(database, WORK, schedule)
    (record,) = database.load(NATIVE.mcpu).records
    assert record.failed
    assert best_record([record], NATIVE, pytest.fail) is None


def test_a_torn_line_is_dropped_and_then_gone(database: Database) -> None:
    first, second, third = CPU.space(WORK, NATIVE)[:3]
    add(database, WORK, first, 1e-3)
    add(database, WORK, second, 1e-3)
    path = _file(database)
    path.write_bytes(path.read_bytes()[:-10])
    loaded = database.load(NATIVE.mcpu)
    assert [record.schedule for record in loaded.records] == [first]
    assert loaded.complaints == (f"{path}:2: the last line is cut short; dropped",)
    add(database, WORK, third, 1e-3)
    loaded = database.load(NATIVE.mcpu)
    assert [record.schedule for record in loaded.records] == [first, third]
    assert loaded.complaints == ()


GOOD: dict[str, Any] = {
    "dense": {"k": 24, "n": 3},
    "schedule": {"panels": 1, "lanes": 4},
    "seconds": {"1": 1e-3},
    "machine": "a machine",
    "date": "2026-11-24",
    "tvm": "0.27",
}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("nonsense", "Expecting value"),
        ("[1, 2]", "no JSON object"),
        ("\x00\xff", "Expecting value"),
        ("[" * 100_000, ""),
        ({"dense": None}, "no field dense"),
        ({"dense": {"k": 24}}, "missing"),
        ({"dense": {"k": 24, "n": 3, "depth": 2}}, "dense: unknown field depth"),
        ({"dense": {"k": "24", "n": 3}}, "k: '24' is no int"),
        ({"more": 1}, "unknown field more"),
        ({"schedule": None}, "no field schedule"),
        ({"schedule": {"panels": 1}}, "schedule: no field lanes"),
        ({"schedule": {"panels": 1, "lanes": 4, "turns": 1}}, "schedule: unknown field turns"),
        ({"schedule": {"panels": True, "lanes": 4}}, "schedule: panels: True is no int"),
        ({"schedule": {"panels": 1.5, "lanes": 4}}, "schedule: panels: 1.5 is no int"),
        ({"seconds": {"1": float("nan")}}, "seconds: nan is no time"),
        ({"seconds": {"1": float("inf")}}, "seconds: inf is no time"),
        ({"seconds": {"1": -1e-3}}, "seconds: -0.001 is no time"),
        ({"seconds": {"1": 0}}, "seconds: 0 is no time"),
        ({"seconds": {"1": True}}, "seconds: True is no time"),
        ({"seconds": {"1": 10**400}}, "is no time"),
        ({"seconds": {"one": 1e-3}}, "seconds: 'one' is no number of threads"),
        ({"seconds": [1e-3]}, "seconds: [0.001] is no JSON object"),
        ({"kind": "guessed"}, "kind: 'guessed' is neither"),
        ({"date": 20261124}, "date: 20261124 is no text"),
    ],
    ids=str,
)
def test_a_line_that_is_no_record_is_named(database: Database, damage: str | dict[str, Any], complaint: str) -> None:
    path = _file(database)
    path.parent.mkdir(parents=True)
    bad = damage if isinstance(damage, str) else json.dumps(GOOD | damage)
    path.write_text(bad + "\n" + json.dumps(GOOD) + "\n", encoding="utf-8")
    loaded = database.load(NATIVE.mcpu)
    assert [record.workload for record in loaded.records] == [Dense(k=24, n=3)]
    (said,) = loaded.complaints
    assert said.startswith(f"{path}:1: not a record this version reads (")
    assert complaint in said
    assert loaded.unread == (bad,)


def test_a_family_of_another_version_is_named(database: Database) -> None:
    path = _file(database)
    path.parent.mkdir(parents=True)
    other = {"attention" if name == "dense" else name: item for name, item in GOOD.items()}
    path.write_text(json.dumps(other) + "\n", encoding="utf-8")
    assert "no family of kernels among kind, attention" in database.load(NATIVE.mcpu).complaints[0]


def test_a_field_added_with_a_default_leaves_old_records_as_they_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Later:
        panels: int
        lanes: int
        unroll: int = 1

    path = _file(database)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    monkeypatch.setattr(CPU, "schedule_class", lambda workload: Later)
    (record,) = database.load(NATIVE.mcpu).records
    assert record.schedule == Later(1, 4, 1)
    assert record.line == json.dumps(GOOD, separators=(",", ":"))
    assert '"unroll":2' in replace(record, schedule=Later(1, 4, 2)).line


def test_processors_have_files_of_their_own(database: Database) -> None:
    rule, other = CPU.space(WORK, NATIVE)[:2]
    for origin in (HERE, ELSEWHERE):
        add(database, WORK, rule, 1e-3, origin=origin)
        add(database, WORK, other, 1e-3, origin=origin)
    assert sorted(path.name for path in database.directory.glob("*/*")) == ["znver4.jsonl", "znver5.jsonl"]
    assert [record.processor for record in database.load(NATIVE.mcpu).records] == ["znver4"] * 2 + ["znver5"] * 2
    assert database.keep(NATIVE.mcpu, lambda records: [one for one in records if one.processor == "znver5"]) == 2
    assert [record.processor for record in database.load(NATIVE.mcpu).records] == ["znver5"] * 2
    with pytest.raises(RecordError, match="is no name of a processor"):
        add(database, WORK, rule, 1e-3, origin=replace(HERE, processor="../up"))


def test_the_shipped_records_are_small_and_read() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.jsonl")) < 1_000_000
    shipped = Database(SHIPPED)
    for isa in shipped.instruction_sets():
        loaded = shipped.load(isa)
        assert loaded.complaints == ()
        assert all(len(record.line) < 500 for record in loaded.records)


def test_what_cannot_be_read_stays(database: Database) -> None:
    first, second = CPU.space(WORK, NATIVE)[:2]
    add(database, WORK, first, 1e-3)
    path = _file(database)
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
        "from mnv2c.kernels.cpu.device import CPU\n"
        "from mnv2c.tuning.records import Database\n"
        "from mnv2c.workloads import Dense\n"
        "database = Database(Path(sys.argv[1]))\n"
        "for number in range(40):\n"
        "    work = Dense(k=24 + number % 7, n=int(sys.argv[2]) + 3)\n"
        "    add(database, work, CPU.space(work, NATIVE)[0], number + 1.0)\n",
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
        (record.workload.n, record.seconds[1]) for record in loaded.records if isinstance(record.workload, Dense)
    )
    assert found == [(n, number + 1.0) for n in (3, 4) for number in range(40)]


def test_one_writer_waits_for_the_other(database: Database) -> None:
    database.directory.mkdir()
    path = _file(database)
    writer = threading.Thread(target=add, args=(database, WORK, CPU.space(WORK, NATIVE)[0], 1e-3))
    with database._locked():
        writer.start()
        writer.join(1)
        assert writer.is_alive()
        assert not path.exists()
    writer.join()
    assert len(database.load(NATIVE.mcpu).records) == 1


def test_records_that_never_begin_are_an_error(database: Database) -> None:
    _file(database).parent.mkdir(parents=True)
    os.mkfifo(_file(database))
    with pytest.raises(RecordError, match="cannot be read: not a file"):
        database.load(NATIVE.mcpu)


def test_records_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(RecordError, match="the records cannot be written: Not a directory"):
        add(Database(tmp_path / "file"), WORK, CPU.space(WORK, NATIVE)[0], 1e-3)


def _file(database: Database) -> Path:
    return database.directory / NATIVE.mcpu / f"{HERE.processor}.jsonl"
