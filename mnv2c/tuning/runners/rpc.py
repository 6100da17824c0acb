"""Times candidates on boards, through TVM's tracker and servers.

What comes in: a library of candidates, compiled and linked here, so that a board needs Python and TVM's wheel, and no
compiler. What goes out: their times. A batch is shared out among all boards that are free; a board that dies or hangs
is let go of, and another goes on with what it had.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
import shlex
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tvm import rpc
from tvm.ir.utils import derived_object

from mnv2c.errors import ToolError
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.records import MEASURED, Origin
from mnv2c.tuning.runners import ROUNDS, BatchRunner, Conditions, Timing, fastest

Value = TypeVar("Value")

_SESSION = 120  # seconds for a batch
_CALL = 30  # seconds for one thing asked of a board
_WAIT = 60  # seconds for a board to be free
_PAUSE = 0.1  # seconds between two looks at the tracker
_TRIES = 2  # boards that a candidate may take with it


class _Lost(Exception):
    """A board has died, hangs, or cannot do what it was asked."""


@derived_object
class RpcRunner(BatchRunner):
    """``address`` is the tracker's HOST:PORT, ``key`` what its boards were started with."""

    def __init__(self, target: Target, isa: InstructionSet, address: str, key: str, *, rounds: int = ROUNDS) -> None:
        super().__init__()
        self._key, self._rounds, self._address = key, rounds, address
        tvm = importlib.metadata.version("apache-tvm")
        self.conditions = Conditions(
            target,
            isa,
            Origin(isa.mcpu, f"board {key}", MEASURED, tvm, (1,)),
            macs_per_second=math.inf,  # a board's peak is not measured
            drifts=True,
        )
        self._tracker = _connect(address)

    def time(self, library: Path, indices: Sequence[int]) -> list[Timing]:
        batch = _Batch(library, indices, self._rounds)
        sessions = [self._session()]
        while batch.remaining:
            sessions += self._more(len(batch.remaining) - len(sessions))
            parts = batch.share(len(sessions))
            threads = [
                threading.Thread(target=batch.run, args=(session, part), daemon=True)
                for session, part in zip(sessions, parts, strict=False)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sessions = [self._session()] if batch.remaining else []
        return batch.timings()

    def close(self) -> None:
        self._tracker.close()

    def _session(self) -> Any:
        """The next free board that answers. ToolError where none comes: a tracker goes on to offer one that hangs."""
        deadline = time.monotonic() + _WAIT
        reason = "none is free"
        while time.monotonic() < deadline:
            try:
                if self._free() > 0:
                    return _within(_CALL, self._request)
            except _Lost as error:
                reason = str(error)
            time.sleep(_PAUSE)
        raise ToolError(
            f"no board {self._key!r} at the tracker {self._address} within {_WAIT} s ({reason}); on a board: "
            f"python -m tvm.exec.rpc_server --tracker {self._address} --key {shlex.quote(self._key)}"
        )

    def _more(self, most: int) -> list[Any]:
        """The boards that are free now, beside the one that there is."""
        sessions: list[Any] = []
        while len(sessions) < most and self._free() > 0:
            try:
                sessions.append(_within(_CALL, self._request))
            except _Lost:
                break
        return sessions

    def _free(self) -> int:
        summary = _within(_CALL, self._tracker.summary)
        return int(summary["queue_info"].get(self._key, {}).get("free", 0))

    def _request(self) -> Any:
        return self._tracker.request(self._key, session_timeout=_SESSION, max_retry=3)


class _Batch:
    """A library's candidates, shared among boards. Each board also times the first one, and its times are set in
    relation to that: boards of one kind are not equally fast."""

    def __init__(self, library: Path, indices: Sequence[int], rounds: int) -> None:
        self._library, self._indices, self._rounds = library, list(indices), rounds
        self.remaining = list(indices)
        self._done: dict[int, Timing] = {}
        self._lost = Counter[int]()
        self._first: float | None = None
        self._lock = threading.Lock()

    def share(self, boards: int) -> list[list[int]]:
        """What is left, in turns."""
        return [part for part in (self.remaining[board::boards] for board in range(boards)) if part]

    def run(self, session: Any, part: Sequence[int]) -> None:
        """On one board; what it loses is left for another."""
        first = self._indices[0]
        failed = first in self._done and not self._done[first].seconds
        wanted = list(part) if failed or first in part else [first, *part]
        turn = _Turn(session, wanted)
        try:
            seconds = {index: fastest(runs) for index, runs in turn.time(self._library, self._rounds).items()}
        except _Lost as error:
            with self._lock:
                self._lose(turn.current, error)
            return
        with self._lock:
            scale = 1.0
            if first in seconds:
                self._first = self._first or seconds[first]
                scale = self._first / seconds[first]
            for index in part:
                self._end(index, Timing((seconds[index] * scale,)))

    def timings(self) -> list[Timing]:
        """In the order of the indices."""
        return [self._done[index] for index in self._indices]

    def _lose(self, index: int, error: _Lost) -> None:
        self._lost[index] += 1
        if self._lost[index] >= _TRIES and index in self.remaining:
            self._end(index, Timing(failure=f"{_TRIES} boards were lost: {error}"))

    def _end(self, index: int, timing: Timing) -> None:
        self._done[index] = timing
        self.remaining.remove(index)


class _Turn:
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
                nanoseconds = int(_within(_CALL, functools.partial(run, index, 1)))
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
