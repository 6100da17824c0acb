"""Tuning on a GPU, with a stand-in for the driver; records of GPUs; schedules that no rule takes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import mnv2c, succeed
from emulated import EmulatedKernels, run, stand_in
from gpu_kernels import SM_90, kernels_of
from kernel_examples import FUSED, ON_TENSOR_CORES, TRIED, example
from loopback import Loopback, loopback
from mini_spec import MINI

from mnv2c.deploy.ssh import Host
from mnv2c.driver import workloads
from mnv2c.errors import TargetError, ToolError
from mnv2c.kernels.abi import Choice
from mnv2c.kernels.cuda.device import CUDA
from mnv2c.kernels.cuda.lower import CudaKernel
from mnv2c.precision import Precision
from mnv2c.spec.table import load_spec
from mnv2c.targets import target_named
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.gpu_timing import CubinWriter
from mnv2c.tuning.lookup import from_records
from mnv2c.tuning.records import MEASURED, Database, Record
from mnv2c.tuning.runners import Timing, gpu
from mnv2c.workloads import Pointwise, Workload

TARGET = target_named("cuda")
WORK = Pointwise(height=7, width=7, k=16, n=32)
CANDIDATES = 3


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return {**stand_in([], tmp_path_factory.mktemp("driver")), "STAND_IN_IDLE": "1"}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(MINI, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def elsewhere(driver: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A machine with the driver; here it is not found."""
    settings = {name: driver[name] for name in ("LD_LIBRARY_PATH", "STAND_IN_IDLE")}
    with loopback(tmp_path_factory.mktemp("ssh"), {**settings, "STAND_IN_FAILS": "candidate1"}) as started:
        yield started


def time(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, host: Host | None = None) -> list[Timing]:
    """Of three candidates."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    runner, writer = gpu.GpuRunner(TARGET, host=host, rounds=2), CubinWriter()
    try:
        assert runner.conditions.isa == SM_90
        candidates = CUDA.space(WORK, SM_90)[:CANDIDATES]
        library = writer.link(WORK, compile_candidates(WORK, candidates, TARGET, SM_90))
        return runner.time(library, range(CANDIDATES))
    finally:
        writer.close()
        runner.close()


def test_every_candidate_is_timed(driver: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    timings = time(driver, monkeypatch)
    assert [timing.failure for timing in timings] == [""] * CANDIDATES
    assert all(1e-5 <= timing.seconds[0] < 1 for timing in timings)


@pytest.mark.parametrize(("how", "reason"), [("FAILS", "CUresult 700"), ("HANGS", "still running after")])
def test_a_candidate_that_fails_or_hangs_costs_its_own_trial(
    driver: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    monkeypatch.setattr(gpu, "_SECONDS", 10)
    timings = time({**driver, f"STAND_IN_{how}": "candidate1"}, monkeypatch)
    assert reason in timings[1].failure
    assert not timings[1].seconds
    assert all(timings[index].seconds for index in (0, 2))


def test_tensor_cores_are_worth_more_trials(driver: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel could take at least is less by as much as they multiply faster: 2048 a cycle, not 128."""
    for name, value in driver.items():
        monkeypatch.setenv(name, value)
    peaks = []
    for precision in ("fp32", "fp16"):
        runner = gpu.GpuRunner(TARGET, precision)
        peaks.append(runner.conditions.macs_per_second)
        runner.close()
    assert peaks[1] == 16 * peaks[0]


def test_candidates_are_timed_on_another_machine(elsewhere: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host.parse(elsewhere.runner.removeprefix("ssh:"))
    timings = time(elsewhere.environment, monkeypatch, host)
    assert "CUresult 700" in timings[1].failure
    assert all(timings[index].seconds[0] >= 1e-5 for index in (0, 2))
    assert list(elsewhere.temporary.iterdir()) == []
    with pytest.raises(ToolError, match="ssh to nobody@"):
        time(elsewhere.environment, monkeypatch, Host("nobody@127.0.0.1", host.port))


@contextlib.contextmanager
def lying(folder: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Timing]]]:
    """Times one candidate on a machine that says to be a GPU, and ``said``, whatever it is asked; it fails then where
    there is a file ``fails``."""
    (folder / "said").write_text(f"90 132 1980000 12040 a stand-in\n{said}\n")
    library = folder / "batch1.cubin"
    library.write_bytes(b"")
    library.with_suffix(".txt").write_text("operands\nkernel\n")
    with loopback(folder, forced=f"cat >/dev/null; cat {folder}/said; test ! -f {folder}/fails") as server:
        monkeypatch.setenv("PATH", server.environment["PATH"])
        runner = gpu.GpuRunner(TARGET, host=Host.parse(server.runner.removeprefix("ssh:")), rounds=2)
        yield lambda: runner.time(library, [0])
        runner.close()


@pytest.mark.parametrize(
    "said", ["", "times", "times 1 x", "times 0 0", "times 1 2 3", "times 1 2\ntimes 1 2", "times -1 5"]
)
def test_a_machine_that_prints_no_times(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        lying(tmp_path, said, monkeypatch) as ask,
        pytest.raises(ToolError, match="something else than 2 times for each of 1 kernels"),
    ):
        ask()


@pytest.mark.parametrize("said", ["9999999", "7", "\N{SUPERSCRIPT TWO}"])
def test_a_machine_that_fails_at_no_kernel_of_ours(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lying(tmp_path, said, monkeypatch) as ask:
        (tmp_path / "fails").touch()
        assert ask() == [Timing(failure="status 1")]


def test_what_cannot_be_timed_is_said_in_one_line(
    driver: Mapping[str, str], spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, status, words in (
        ((), 1, "no GPU to time kernels on: no NVIDIA driver: libcuda.so.1 cannot be loaded"),
        (("--measure", "static"), 2, "kernels are timed on a GPU"),
        (("--threads", "1"), 2, "kernels are timed on a GPU"),
        (("--measure", "ssh:a b"), 1, "give ssh:[USER@]HOST[:PORT]"),
    ):
        finished = mnv2c("tune", spec, "--target", "cuda", *arguments)
        assert finished.returncode == status
        assert words in finished.stderr.strip().splitlines()[-1]
    for name, value in {**driver, "STAND_IN_CAPABILITY": "61"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TargetError, match="no code for a stand-in, whose compute capability is 61"):
        gpu.GpuRunner(TARGET)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tune_keeps_what_it_finds_and_goes_on(
    driver: Mapping[str, str], spec: Path, tmp_path: Path, precision: Precision
) -> None:
    records = tmp_path / "records"
    how = ("--precision", precision, "--schedules", records)
    command = ("tune", spec, "--target", "cuda", *how, "--json")
    for trials in (2, 3):
        finished = mnv2c(*command, "--trials", str(trials), environment=driver)
        assert finished.returncode == 0, finished.stderr
    loaded = Database(records).load("sm_90")
    assert not loaded.complaints
    kernels = dict.fromkeys(workload for _, workload in workloads(load_spec(str(spec)), TARGET, precision))
    for workload in kernels:
        tried = [record for record in loaded.records if record.workload == workload]
        assert len(tried) == min(3, len(CUDA.space(workload, SM_90)))
        assert all(record.processor == "a-stand-in" and not record.failed for record in tried)
    assert "do not" in succeed("records", "check", "--compile", "--schedules", records)
    there = tmp_path / "exported"
    succeed("records", "export", there, "--schedules", records)
    (tmp_path / "again").mkdir()
    succeed("records", "import", there, "--schedules", tmp_path / "again")
    again = Database(tmp_path / "again").load("sm_90")
    assert sorted(record.line for record in again.records) == sorted(record.line for record in loaded.records)
    built = succeed("build", spec, "--target", "cuda:sm_90", *how, "--require-tuned", "--out", tmp_path / "b")
    assert f"{len(kernels)} exact" in built


def test_what_tensor_cores_compute_lends_no_schedule_to_what_they_do_not(tmp_path: Path) -> None:
    with_them = replace(WORK, precision="fp16")
    without = replace(with_them, n=31)
    trials = [
        Record(with_them, schedule, {1: 1.0 / number}, "a-gpu", "a GPU", MEASURED, "2026-11-25", "0")
        for number, schedule in enumerate(CUDA.space(with_them, SM_90), 1)
    ]
    Database(tmp_path).append("sm_90", trials)
    choose = from_records(tmp_path, [SM_90], complain=pytest.fail)
    assert choose(with_them, SM_90) == Choice(trials[-1].schedule, "exact")
    assert choose(replace(with_them, k=32), SM_90).origin == "transferred"
    assert choose(without, SM_90) == Choice(CUDA.space(without, SM_90)[0], "rule")


def test_each_architecture_is_scheduled_by_its_own_records(spec: Path, tmp_path: Path) -> None:
    """And launched accordingly: the kernels of the stand-in are those of the one architecture alone."""
    found = list(dict.fromkeys(workload for _, workload in workloads(load_spec(str(spec)), TARGET)))
    records = tmp_path / "records"
    for workload in found:
        trials = [
            Record(workload, schedule, {1: 1.0 / number}, "a-gpu", "a GPU", MEASURED, "2026-11-24", "0")
            for number, schedule in enumerate(CUDA.space(workload, SM_90), 1)
        ]
        Database(records).append("sm_90", trials)
    library = tmp_path / "library"
    succeed("build", spec, "--target", "cuda", "--schedules", records, "--out", library)
    manifest = json.loads((library / "manifest.json").read_bytes())
    assert {kernel["origin"] for kernel in manifest["kernels"]["sm_90"].values()} == {"exact"}
    assert {kernel["origin"] for kernel in manifest["kernels"]["sm_75"].values()} == {"rule"}
    by_record = [CUDA.lowered(f"mini_{workload.name}", workload, CUDA.space(workload, SM_90)[-1]) for workload in found]
    by_rule = kernels_of(str(spec))
    assert [kernel.source for kernel in by_record] != [kernel.source for kernel in by_rule]
    for capability, kernels in ((90, by_record), (75, by_rule)):
        folder = tmp_path / f"driver{capability}"
        folder.mkdir()
        environment = {**stand_in(kernels, folder), "STAND_IN_CAPABILITY": str(capability)}
        finished = mnv2c("validate", library, environment=environment)
        assert finished.returncode == 0, finished.stderr
        assert f"instruction set sm_{capability}" in finished.stdout


@pytest.mark.parametrize("workload", [*TRIED[::3], *FUSED, *ON_TENSOR_CORES[::2]], ids=lambda workload: workload.name)
def test_the_whole_space_is_right(workload: Workload, tmp_path: Path) -> None:
    """Eight of it, from its begin to its end."""
    space = CUDA.space(workload, SM_90)
    chosen = list(dict.fromkeys(space[index * (len(space) - 1) // 7] for index in range(8)))
    kernels: list[CudaKernel] = [
        CUDA.lowered(f"{workload.name}_{number}", workload, schedule) for number, schedule in enumerate(chosen)
    ]
    emulated = EmulatedKernels(kernels, tmp_path)
    inputs, constants, expected = example(workload)
    for kernel, schedule in zip(kernels, chosen, strict=True):
        got = run(emulated, workload, inputs, constants, symbol=kernel.symbol)
        assert abs(got - expected).max() <= 2e-5, schedule
