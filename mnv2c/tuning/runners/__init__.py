"""Where candidates are tried: this machine (``local``), its GPU (``gpu``), boards (``rpc``), a model (``static``).

Each is a MetaSchedule runner that reads what ``builder`` built, and has ``conditions``: what makes its times comparable
with others. A candidate that crashes or hangs costs its own trial, nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import tvm_ffi
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.errors import RecordError, TargetError, ToolError
from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.records import Origin

for _error in (RecordError, TargetError, ToolError):
    tvm_ffi.register_error(_error)  # or it would come out of MetaSchedule as a RuntimeError

ROUNDS = 16
"""How often each candidate of a batch is timed, for each number of threads."""
_KEPT = 5


@dataclass(frozen=True)
class Conditions:
    """Where, how and for which numbers of threads times are taken, by ``origin``; ``macs_per_second`` is the peak of
    one thread; ``drifts`` whether the same candidate takes another time at another time."""

    target: Target
    isa: InstructionSet
    origin: Origin
    macs_per_second: float
    drifts: bool


@dataclass(frozen=True)
class Trial:
    """``seconds`` by number of threads, each the mean of the fastest runs; empty where there is a ``failure``."""

    schedule: Schedule
    seconds: Mapping[int, float]
    failure: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds of a built candidate, one for each number of threads, or why there are none."""

    seconds: tuple[float, ...] = ()
    failure: str = ""


def fastest(nanoseconds: Sequence[int]) -> float:
    """The mean of the fastest runs, in seconds: what disturbed the others says nothing about the kernel."""
    return mean(sorted(nanoseconds)[:_KEPT]) / 1e9


@dataclass(frozen=True)
class Died:
    """The process that timed candidates is gone: during which of them, and how."""

    index: int
    reason: str


def time_survivors(
    indices: Sequence[int], ask: Callable[[Sequence[int]], list[list[list[int]]] | Died]
) -> list[Timing]:
    """``ask`` gives nanoseconds by candidate, number of threads and round; or who died of it, who is then left out."""
    timings: dict[int, Timing] = {}
    remaining = list(indices)
    while remaining:
        answer = ask(remaining)
        if isinstance(answer, Died):
            timings[answer.index] = Timing(failure=answer.reason)
            remaining.remove(answer.index)
            continue
        for index, runs in zip(remaining, answer, strict=True):
            timings[index] = Timing(tuple(map(fastest, runs)))
        break
    return [timings[index] for index in indices]


class BatchRunner(ms.runner.PyRunner, ABC):
    """Times whole batches, each one library."""

    conditions: Conditions

    def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
        """MetaSchedule's: a future per input, all done."""
        paths = [str(one.artifact_path).rpartition(":") for one in runner_inputs]
        if not paths:
            return []
        timings = self.time(Path(paths[0][0]), [int(index) for _, _, index in paths])
        return [done(timing) for timing in timings]

    @abstractmethod
    def time(self, library: Path, indices: Sequence[int]) -> list[Timing]:
        """A timing for each of the library's candidates, in order."""

    def close(self) -> None:
        """Gives back what it holds."""


@derived_object
class _Done(ms.runner.PyRunnerFuture):
    def __init__(self, timing: Timing) -> None:
        super().__init__()
        self._timing = timing

    def done(self) -> bool:
        return True

    def result(self) -> Any:
        return ms.runner.RunnerResult(list(self._timing.seconds) or None, self._timing.failure or None)


def done(timing: Timing) -> Any:
    """MetaSchedule's future of what is known already."""
    return _Done(timing)
