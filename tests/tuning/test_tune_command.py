"""``tune``, ``records`` and what a build makes of them, from the command line."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import REPOSITORY, SPECS, mnv2c, obey_permissions, succeed, succeed_json
from small_library import SMALL

from mnv2c.targets import native_target
from mnv2c.tuning.processor import processor_name
from mnv2c.tuning.records import Database

CORE = native_target().instruction_sets[0].mcpu
RECORDS = f"{processor_name()}.jsonl"
TUNE = (SMALL[0], *SMALL[1:-2])  # without the seed


@pytest.fixture(scope="module")
def schedules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trials of every kernel of the small network."""
    directory = tmp_path_factory.mktemp("tuned") / "schedules"
    succeed("tune", *TUNE, "--trials", "3", "--schedules", directory)
    return directory


def test_tune_tells_what_it_found(schedules: Path) -> None:
    (result,) = succeed_json("tune", *TUNE, "--trials", "3", "--schedules", schedules)
    assert result["core"] == CORE
    for kernel in result["kernels"]:
        assert kernel["best_seconds"] <= kernel["rule_seconds"]
        assert 1 <= kernel["trials"] <= 3
    assert sum(len(kernel["layers"]) for kernel in result["kernels"]) == 55, "54 layers, the stem once more for bytes"


def test_what_is_known_is_not_tried_again(schedules: Path) -> None:
    before = (schedules / CORE / RECORDS).read_bytes()
    text = succeed("tune", *TUNE, "--trials", "3", "--schedules", schedules)
    assert ": 0 new trials" in text
    assert (schedules / CORE / RECORDS).read_bytes() == before


def test_there_is_a_log_to_read(schedules: Path) -> None:
    log = (schedules / CORE / "tuning.log").read_text(encoding="utf-8")
    assert "Schedule(" in log
    assert "by threads" in log


def test_a_build_takes_the_records(schedules: Path, tmp_path: Path) -> None:
    out = tmp_path / "library"
    result = succeed_json(
        "build", *SMALL, "--target", "native", "--schedules", schedules, "--require-tuned", "--out", out
    )
    for kernels in result["manifest"]["kernels"].values():
        assert {kernel["origin"] for kernel in kernels.values()} == {"exact"}
    assert succeed_json("validate", out, "--inputs", "2")["max_abs_error"] <= 1e-4
    untuned = succeed_json("build", *SMALL, "--target", "native", "--untuned", "--out", tmp_path / "untuned")
    for kernels in untuned["manifest"]["kernels"].values():
        assert {kernel["origin"] for kernel in kernels.values()} == {"rule"}


def test_another_network_takes_what_fits(schedules: Path, tmp_path: Path) -> None:
    out = tmp_path / "library"
    other = (str(SPECS / "mnv2_0.5.yaml"), "--set", "resolution=96", "--set", "classes=1001")
    result = succeed_json("build", *other, "--target", "native", "--schedules", schedules, "--out", out)
    (kernels,) = result["manifest"]["kernels"].values()
    origins = [kernel["origin"] for kernel in kernels.values()]
    assert origins.count("exact") >= 1, "the classifier, at least, is the same"
    assert origins.count("transferred") > len(origins) / 2
    assert succeed_json("validate", out, "--inputs", "2")["max_abs_error"] <= 1e-4
    done = mnv2c(
        "build", *other, "--target", "native", "--schedules", schedules, "--require-tuned", "--out", tmp_path / "no"
    )
    assert done.returncode == 1
    assert "kernels have no record of their own" in done.stderr
    assert not (tmp_path / "no").exists()


def test_fresh_starts_over(schedules: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    succeed("records", "merge", schedules, "--schedules", _empty(copy))
    succeed("tune", *TUNE, "--trials", "1", "--schedules", copy, "--fresh")
    before, after = (succeed_json("records", "list", "--schedules", directory) for directory in (schedules, copy))
    assert [(row["kernel"], row["trials"]) for row in after] == [(row["kernel"], 1) for row in before]


def test_records_are_listed_shown_checked_pruned_and_merged(schedules: Path, tmp_path: Path) -> None:
    copy = _empty(tmp_path / "copy")
    added = succeed_json("records", "merge", schedules, "--schedules", copy)["added"]
    rows = succeed_json("records", "list", "--schedules", copy)
    assert sum(row["trials"] for row in rows) == added
    assert succeed_json("records", "merge", schedules, "--schedules", copy)["added"] == 0
    shown = succeed_json("records", "show", "dense", "--schedules", copy)
    assert {row["kernel"] for row in shown} == {row["kernel"] for row in rows if row["kernel"].startswith("dense")}
    assert succeed_json("records", "check", "--schedules", copy) == {"checked": len(rows), "failures": []}
    dropped = succeed_json("records", "prune", "--schedules", copy)["dropped"]
    after = succeed_json("records", "list", "--schedules", copy)
    assert sum(row["trials"] for row in after) == added - dropped
    assert [(row["kernel"], row["schedule"]) for row in after] == [(row["kernel"], row["schedule"]) for row in rows]


def test_killed_at_any_moment_it_keeps_what_was_finished(tmp_path: Path) -> None:
    directory = tmp_path / "schedules"
    command = [sys.executable, "-m", "mnv2c", "tune", *TUNE, "--schedules", str(directory)]
    chance, known = random.Random(7), 0
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=REPOSITORY) as run:
            assert run.stderr is not None
            told = 0
            while told < 2:  # two batches at least are said to be kept
                told += b"trials, best" in run.stderr.readline()
            time.sleep(chance.uniform(0, 1.5))
            run.send_signal(signal.SIGKILL)
        _wait_until_nobody_works_for(directory)
        loaded = Database(directory).load(CORE)
        assert len(loaded.complaints) <= 1
        assert len(loaded.records) >= known + 2, "every trial that was finished is there"
        known = len(loaded.records)
    text = succeed("tune", *TUNE, "--trials", "1", "--schedules", directory)
    assert Database(directory).load(CORE).complaints == ()
    assert f"{CORE}," in text


@pytest.mark.parametrize(("how", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_ended_it_says_so_and_keeps_what_was_finished(how: signal.Signals, word: str, tmp_path: Path) -> None:
    directory = tmp_path / "schedules"
    command = [sys.executable, "-m", "mnv2c", "tune", *TUNE, "--schedules", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as run:
        assert run.stderr is not None
        while b"trials, best" not in run.stderr.readline():
            pass
        run.send_signal(how)
        rest = run.stderr.read().decode()
    assert run.returncode == 128 + how
    kept = len(Database(directory).load(CORE).records)
    assert kept > 0
    what = f"{kept} new trials are kept in {directory}; the same command goes on where this one stopped"
    assert rest.splitlines()[-1] == f"mnv2c: error: {word}: {what}"
    assert "Traceback" not in rest
    log = (directory / CORE / "tuning.log").read_text(encoding="utf-8")
    assert log.splitlines()[-1].startswith("interrupted after")


def test_another_versions_record_is_named_and_the_rest_is_used(schedules: Path, tmp_path: Path) -> None:
    copy = _empty(tmp_path / "copy")
    succeed("records", "merge", schedules, "--schedules", copy)
    path = copy / CORE / RECORDS
    path.write_text('{"kernel": "of another kind"}\n' + path.read_text("utf-8"), "utf-8")
    done = mnv2c("build", *SMALL, "--target", "native", "--schedules", copy, "--out", tmp_path / "library")
    assert done.returncode == 0
    assert f"{path}:1: not a record this version reads" in done.stderr
    assert "exact" in done.stdout


def _wait_until_nobody_works_for(directory: Path) -> None:
    """What a killed run had started ends by itself."""
    for _ in range(600):
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        if str(directory) not in listed:
            return
        time.sleep(0.1)
    pytest.fail("a process is left")


def _empty(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = mnv2c("tune", *TUNE, "--trials", "1", "--schedules", tmp_path / "locked", before=obey_permissions)
    assert done.returncode == 1
    assert "cannot be written: Permission denied" in done.stderr
