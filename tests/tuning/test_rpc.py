"""Tuning on boards: TVM's tracker and servers on loopback, killed and stopped while they work."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command_line import mnv2c
from compiled_kernels import NATIVE
from kernel_examples import pointwise
from loopback import free_port
from mini_spec import MINI
from tried import try_schedules

from mnv2c.errors import ToolError
from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.device import CPU
from mnv2c.targets import X86, native_target
from mnv2c.tuning.records import Database
from mnv2c.tuning.runners import rpc
from mnv2c.tuning.runners.rpc import RpcRunner
from mnv2c.workloads import Dense, Workload

WORK = pointwise(7, 7, 40, 64, activation="relu6")
_NEEDED = ("cloudpickle", "psutil", "tornado")

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in _NEEDED), reason=f"TVM's servers need {', '.join(_NEEDED)}"
)


class Boards:
    """A tracker and its servers, each with a process group of its own: they start others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self._start("rpc_tracker", "--port", str(self.port), "--port-end", str(self.port + 1))
        _wait_until(lambda: self._tracker() is not None, "the tracker")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self) -> subprocess.Popen[bytes]:
        known = self.count()
        port = free_port()
        ports = ("--port", str(port), "--port-end", str(port + 1))
        server = self._start("rpc_server", *ports, "--tracker", self.address, "--key", "board")
        _wait_until(lambda: self.count() > known, "a server")
        return server

    def count(self) -> int:
        tracker = self._tracker()
        assert tracker is not None
        return len(tracker.summary()["server_info"])

    def free(self) -> int:
        tracker = self._tracker()
        assert tracker is not None
        return int(tracker.summary()["queue_info"]["board"]["free"])

    def close(self) -> None:
        for process in self._started:
            send(process, signal.SIGKILL)
            process.wait()

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *arguments]
        with (self._directory / f"{module}{len(self._started)}.log").open("wb") as log:
            started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=self._directory)
        self._started.append(started)
        return started

    def _tracker(self):  # type: ignore[no-untyped-def]
        try:
            return rpc._connect(self.address)
        except ToolError:
            return None


def send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To all that ``process`` has started."""
    os.killpg(process.pid, number)


def _wait_until(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    for _ in range(600):
        if condition():
            return
        time.sleep(0.2)
    pytest.fail(f"{what} did not start")


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Boards]:
    started = Boards(tmp_path)
    try:
        yield started
    finally:
        started.close()


def times(runner: RpcRunner, workload: Workload, schedules: Sequence[Schedule]) -> bool:
    """Whether every schedule has a time."""
    trials = try_schedules(runner, workload, schedules)
    return [trial.schedule for trial in trials if trial.seconds] == list(schedules)


def test_a_board_that_dies_or_hangs_is_let_go_of(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_CALL", 12)
    first, second = boards.add(), boards.add()
    runner = RpcRunner(native_target(), NATIVE, boards.address, "board", rounds=2)
    schedules = CPU.space(WORK, NATIVE)[:3]
    try:
        assert times(runner, WORK, schedules)
        send(first, signal.SIGKILL)
        assert times(runner, WORK, schedules), "the other goes on"
        _wait_until(lambda: boards.free() > 0, "the other board's turn")
        send(second, signal.SIGSTOP)  # the tracker goes on to offer it
        third = boards.add()
        assert times(runner, WORK, schedules), "so does one that comes late"
        send(second, signal.SIGCONT)
        send(third, signal.SIGKILL)
        other = Dense(k=24, n=3)
        assert times(runner, other, CPU.space(other, NATIVE)[:1])
    finally:
        runner.close()


def test_three_boards_work_at_once(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3)
    real = rpc._Turn.time

    def time_together(turn: rpc._Turn, library: Path, rounds: int) -> dict[int, list[int]]:
        together.wait(30)  # breaks where fewer than three come
        return real(turn, library, rounds)

    monkeypatch.setattr(rpc._Turn, "time", time_together)
    for _ in range(3):
        boards.add()
    runner = RpcRunner(native_target(), NATIVE, boards.address, "board", rounds=2)
    try:
        assert times(runner, WORK, CPU.space(WORK, NATIVE)[:6])
    finally:
        runner.close()
    assert not together.broken


def test_tune_on_boards(boards: Boards, tmp_path: Path) -> None:
    boards.add()
    spec = tmp_path / "mini.yaml"
    spec.write_text(MINI, encoding="utf-8")
    where = ("--rpc", boards.address, "--key", "board", "--schedules", tmp_path / "schedules")
    done = mnv2c("tune", spec, "--target", "native", "--trials", "2", *where)
    assert done.returncode == 0, done.stderr
    records = Database(tmp_path / "schedules").load(NATIVE.mcpu).records
    assert records
    assert not any(record.failed for record in records)
    assert {record.origin.machine for record in records} == {"board board"}


def test_no_board_and_no_tracker(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_WAIT", 2)
    runner = RpcRunner(X86, NATIVE, boards.address, "a; b", rounds=1)
    with pytest.raises(ToolError, match=r"no board 'a; b' at the tracker .*rpc_server --tracker 127.* --key 'a; b'$"):
        try_schedules(runner, WORK, CPU.space(WORK, NATIVE)[:1])
    runner.close()
    with pytest.raises(ToolError, match=r"no tracker at 127.0.0.1:1 .*rpc_tracker --port 1"):
        RpcRunner(X86, NATIVE, "127.0.0.1:1", "board")
    with pytest.raises(ToolError, match="give the tracker's HOST:PORT"):
        RpcRunner(X86, NATIVE, "nowhere", "board")
