"""Where candidates are tried: this machine (``local``), boards (``rpc``), or a model of a core (``static``).

Each is a ``Runner``: it takes schedules of one workload and gives, in the same order, the seconds of their fastest
runs, or why there are none. A candidate that crashes, hangs or does not compile costs its own trial, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.records import Origin
from mnv2c.workloads import Workload

ROUNDS = 24
"""How often each candidate of a batch is timed."""
_KEPT = 5


@dataclass(frozen=True)
class Trial:
    """``seconds`` are the fastest runs, sorted; empty where there is a ``failure``."""

    schedule: Schedule
    seconds: tuple[float, ...] = ()
    failure: str = ""


def fastest(nanoseconds: Sequence[int]) -> tuple[float, ...]:
    """The fastest runs, sorted, in seconds: what disturbed the others says nothing about the kernel."""
    return tuple(run / 1e9 for run in sorted(nanoseconds)[:_KEPT])


class Runner(Protocol):
    """Open for one CPU of one target, until closed."""

    target: Target
    isa: InstructionSet
    origin: Origin
    macs_per_second: float
    """The core's peak."""
    drifts: bool
    """Whether the same candidate takes another time at another time."""

    def run(self, workload: Workload, schedules: Sequence[Schedule]) -> list[Trial]:
        """A trial per schedule, in order."""

    def close(self) -> None:
        """Gives back what it holds."""
