"""Times candidates on boards, through TVM's tracker and servers.

What comes in: schedules of a workload. What goes out: trials. Candidates are compiled and linked here, so that a board
needs Python and TVM's wheel, and no compiler. Each batch goes to the next board that is free; a board that dies or
hangs is let go of, and another goes on where it stopped.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tvm import rpc

from mnv2c.errors import ToolError
from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.candidates import Candidate, compile_candidates
from mnv2c.tuning.records import MEASURED, Origin
from mnv2c.tuning.runners import ROUNDS, Trial, fastest
from mnv2c.tuning.timing import MeasureLinker
from mnv2c.workloads import Workload

Value = TypeVar("Value")

_SESSION = 120  # seconds for a batch
_CALL = 30  # seconds for one thing asked of a board
_WAIT = 60  # seconds for a board to be free
_TRIES = 2  # boards that a candidate may take with it


class _Lost(Exception):
    """A board has died, hangs, or cannot do what it was asked."""


class RpcRunner:
    """``address`` is the tracker's HOST:PORT, ``key`` what its boards were started with."""

    def __init__(self, target: Target, isa: InstructionSet, address: str, key: str, *, rounds: int = ROUNDS) -> None:
        self.target, self.isa, self._key, self._rounds = target, isa, key, rounds
        self.origin = Origin(isa.mcpu, f"board {key}", MEASURED, importlib.metadata.version("apache-tvm"))
        self.macs_per_second = math.inf  # a board's peak is not measured
        self.drifts = True
        self._address = address
        self._tracker = _connect(address)
        self._linker = MeasureLinker(target, isa)

    def run(self, workload: Workload, schedules: Sequence[Schedule]) -> list[Trial]:
        compiled = compile_candidates(workload, schedules, self.target, self.isa)
        trials = {schedule: Trial(schedule, failure=failure) for schedule, failure in compiled.failures.items()}
        if compiled.candidates:
            library = self._linker.link(workload, compiled)
            trials |= {trial.schedule: trial for trial in self._time(library, compiled.candidates)}
        return [trials[schedule] for schedule in schedules]

    def close(self) -> None:
        self._tracker.close()
        self._linker.close()

    def _time(self, library: Path, candidates: Sequence[Candidate]) -> list[Trial]:
        remaining = dict(enumerate(candidates))
        trials, lost = [], Counter[int]()
        while remaining:
            batch = _Batch(self._session(), list(remaining))
            try:
                runs = batch.time(library, self._rounds)
            except _Lost as error:
                lost[batch.current] += 1
                if lost[batch.current] == _TRIES:
                    trials.append(
                        Trial(remaining.pop(batch.current).schedule, failure=f"{_TRIES} boards were lost: {error}")
                    )
                continue
            trials += [Trial(remaining[index].schedule, fastest(times)) for index, times in runs.items()]
            break
        return trials

    def _session(self) -> Any:
        """The next free board. ToolError where none comes."""
        try:
            return _within(_WAIT, self._request)
        except _Lost as error:
            raise ToolError(
                f"no board {self._key!r} at the tracker {self._address} within {_WAIT} s ({error}); on a board: "
                f"python -m tvm.exec.rpc_server --tracker {self._address} --key {self._key}"
            ) from error

    def _request(self) -> Any:
        return self._tracker.request(self._key, session_timeout=_SESSION, max_retry=3)


class _Batch:
    """One session: ``current`` is the candidate that the board was last asked to run."""

    def __init__(self, session: Any, indices: list[int]) -> None:
        self._session, self._indices = session, indices
        self.current = indices[0]

    def time(self, library: Path, rounds: int) -> dict[int, list[int]]:
        """Nanoseconds of every run of each candidate."""
        _within(_CALL, lambda: self._session.upload(str(library)))
        run = _within(_CALL, lambda: self._session.load_module(library.name)["mnv2c_time"])
        times: dict[int, list[int]] = {index: [] for index in self._indices}
        for turn in range(rounds + 1):
            for index in self._indices:
                self.current = index
                nanoseconds = int(_within(_CALL, functools.partial(run, index)))
                if nanoseconds < 0:
                    raise _Lost("out of memory")
                if turn > 0:
                    times[index].append(nanoseconds)
        return times


def _connect(address: str) -> Any:
    logging.getLogger("RPCServer").setLevel(logging.ERROR)  # our own message says what is wrong
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ToolError(f"--rpc {address}: give the tracker's HOST:PORT")
    try:
        socket.create_connection((host, int(port)), _CALL).close()  # TVM would try again and again
        return _within(_CALL, lambda: rpc.connect_tracker(host, int(port)))
    except (OSError, OverflowError, _Lost) as error:
        raise ToolError(
            f"no tracker at {address} ({error}); start one: python -m tvm.exec.rpc_tracker --port {port}"
        ) from error


def _within(seconds: float, compute: Callable[[], Value]) -> Value:
    """What ``compute`` returns; _Lost where it raises, or is not done in time: then its thread is left behind."""
    answer: list[Value] = []
    failure: list[BaseException] = []

    def workload() -> None:
        try:
            answer.append(compute())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=workload, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise _Lost(" ".join(str(failure[0]).split())[-120:]) from failure[0]
    if not answer:
        raise _Lost(f"no answer within {seconds} s")
    return answer[0]
