"""Records in MetaSchedule's JSON format: TVM alone replays them, and they come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from command_line import mnv2c, succeed_json
from compiled_kernels import NATIVE
from kept_trials import HERE, add
from kernel_examples import TRIED
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels.cpu.device import CPU
from mnv2c.tuning.export import RECORD_FILE, WORKLOAD_FILE
from mnv2c.tuning.records import Database


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Of every family: the rule's schedule, the last of the space, and a failed trial of an oddly named board."""
    elsewhere = replace(HERE, processor="znver5", machine="board a; b")
    database = Database(tmp_path_factory.mktemp("records"))
    for workload in TRIED:
        candidates = CPU.space(workload, NATIVE)
        add(database, workload, candidates[0], 2e-3, 1.5e-3)
        add(database, workload, candidates[-1], 1e-3, 5e-4)
        add(database, workload, candidates[len(candidates) // 2], origin=elsewhere)
    return database


@pytest.fixture(scope="module")
def exported(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    result = succeed_json("records", "export", directory, "--schedules", database.directory)
    assert result == {"exported": 3 * len(TRIED)}
    return directory / NATIVE.mcpu


def test_tvm_alone_replays_them(exported: Path) -> None:
    stock = ms.database.JSONDatabase(str(exported / WORKLOAD_FILE), str(exported / RECORD_FILE))
    assert len(stock) == 3 * len(TRIED)
    for workload in TRIED:
        (record,) = stock.get_top_k(stock.commit_workload(_module(stock, workload.name)), 1)
        s = s_tir.Schedule(record.workload.mod)
        record.trace.apply_to_schedule(s, remove_postproc=False)
        tvm.ir.assert_structural_equal(s.mod["main"], CPU.scheduled(workload, CPU.space(workload, NATIVE)[-1]))


def _module(stock: ms.database.JSONDatabase, name: str) -> tvm.IRModule:
    modules = [record.workload.mod for record in stock.get_all_tuning_records()]
    return next(module for module in modules if str(module["main"].attrs["global_symbol"]) == name)


def test_they_come_back(database: Database, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for added in (3 * len(TRIED), 0):
        result = succeed_json("records", "import", exported.parent, "--schedules", tmp_path / "new")
        assert result == {"added": added}
    assert Database(tmp_path / "new").load(NATIVE.mcpu) == database.load(NATIVE.mcpu)


def test_what_is_no_record_is_named(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / NATIVE.mcpu
    copy.mkdir(parents=True)
    lines = (exported / WORKLOAD_FILE).read_text(encoding="utf-8").splitlines()
    (copy / WORKLOAD_FILE).write_text("\n".join(["[]", *lines[1:]]) + "\n", encoding="utf-8")
    (copy / RECORD_FILE).write_text("[7\n" + (exported / RECORD_FILE).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "new").mkdir()
    done = mnv2c("records", "import", tmp_path / "copy", "--schedules", tmp_path / "new")
    assert done.returncode == 0
    assert f"{copy / WORKLOAD_FILE}:1: not a workload this version reads" in done.stderr
    assert f"{copy / RECORD_FILE}:1: not a record this version reads" in done.stderr
    kept = Database(tmp_path / "new").load(NATIVE.mcpu).records
    assert {record.workload for record in kept} == set(TRIED[1:])
