"""The tuning loop: ``mnv2c tune``.

What comes in: the workloads of some networks, how often each layer uses them, a runner, a database. What goes out:
the database, with every trial in it as soon as its batch has run. A batch goes to the workload where the networks
have most to gain; what the database holds already is never tried again, so that a run that was ended in any way is
taken up where it stood.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from statistics import mean

from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.device import space
from mnv2c.tuning.records import Database, Record, by_workload
from mnv2c.tuning.runners import Runner, Trial
from mnv2c.tuning.search import propose
from mnv2c.workloads import Workload

BATCH = 8
_PATIENCE = 24  # trials without a gain after which a workload is left alone
_GAIN = 0.01  # less than that is noise


@dataclass
class Task:
    """One workload on one core, and the ``layers`` of all networks that run it; times are in seconds.

    ``floor`` is the least time at the core's peak; ``tried`` every candidate's time in the order of the trials,
    infinity where it failed.
    """

    workload: Workload
    layers: tuple[str, ...]
    floor: float
    space: tuple[Schedule, ...]
    tried: dict[Schedule, float] = field(default_factory=dict)

    @property
    def default(self) -> float | None:
        """The rule's time."""
        return self.tried.get(self.space[0])

    @property
    def best_schedule(self) -> Schedule | None:
        """None where nothing was tried or all failed."""
        schedule = min(self.tried, key=lambda schedule: self.tried[schedule], default=None)
        return None if schedule is None or math.isinf(self.tried[schedule]) else schedule

    @property
    def best(self) -> float | None:
        """Its time."""
        return None if self.best_schedule is None else self.tried[self.best_schedule]

    @property
    def fruitless(self) -> int:
        """How many trials there were since the last one that gained something."""
        best, since = math.inf, 0
        for seconds in self.tried.values():
            gained = seconds < best * (1 - _GAIN)
            best, since = (seconds, 0) if gained else (best, since + 1)
        return since

    @property
    def promise(self) -> float:
        """What all its layers could gain at most, less for trials that gained nothing; infinity before the first."""
        if self.best is None:
            return 0.0 if self.tried else math.inf
        gain: float = len(self.layers) * max(self.best - self.floor, 0.0)
        return gain * math.pow(0.5, self.fruitless / BATCH)

    def wanted(self, limits: Limits) -> list[Schedule]:
        """The next batch; none where enough was tried or nothing promising is left."""
        left = BATCH if limits.trials is None else min(BATCH, limits.trials - len(self.tried))
        if left <= 0 or self.fruitless >= _PATIENCE:
            return []
        return propose(self.space, self.tried, left)


@dataclass(frozen=True)
class Limits:
    """``trials`` per workload and ``seconds`` in all; None where there is no limit."""

    trials: int | None
    seconds: float | None


def make_tasks(layers: Sequence[tuple[str, Workload]], runner: Runner, records: Sequence[Record]) -> list[Task]:
    """A task per workload, with what ``records`` of this very runner know of it already."""
    names: dict[Workload, list[str]] = {}
    for name, workload in layers:
        names.setdefault(workload, []).append(name)
    known = by_workload(record for record in records if replace(record.origin, threads=(1,)) == runner.origin)
    tasks = []
    for workload, users in names.items():
        task = Task(workload, tuple(users), workload.macs / runner.macs_per_second, space(workload, runner.isa))
        candidates = set(task.space)
        for record in known.get(workload, ()):
            if record.schedule in candidates:
                seconds = math.inf if record.failed else record.objective
                task.tried[record.schedule] = min(seconds, task.tried.get(record.schedule, seconds))
        tasks.append(task)
    return tasks


def tune(
    tasks: Sequence[Task],
    runner: Runner,
    database: Database,
    *,
    limits: Limits,
    show: Callable[[Task, list[Trial]], None],
) -> None:
    """Until nothing promises a gain, or a limit is reached. ``show`` is given every batch, once it is kept."""
    deadline = math.inf if limits.seconds is None else time.monotonic() + limits.seconds
    while time.monotonic() < deadline:
        for task in sorted(tasks, key=lambda task: -task.promise):
            wanted = task.wanted(limits)
            if wanted:
                break
        else:
            return
        trials = _run(task, wanted, runner)
        _keep(task, trials, runner, database)
        show(task, trials)


def _run(task: Task, wanted: Sequence[Schedule], runner: Runner) -> list[Trial]:
    """Tries candidates, the best so far beside them.

    A machine is faster at one time than at another. The best so far runs again in every batch, and the batch's times
    are set in relation to its first one, so that times of different batches can be compared.
    """
    best, before = task.best_schedule, task.best
    if best is None or before is None or not runner.drifts:
        return runner.run(task.workload, wanted)
    again, *trials = runner.run(task.workload, [best, *wanted])
    if again.failure:
        return trials
    scale = before / mean(again.seconds)
    return [replace(trial, seconds=tuple(seconds * scale for seconds in trial.seconds)) for trial in trials]


def _keep(task: Task, trials: Sequence[Trial], runner: Runner, database: Database) -> None:
    def record(trial: Trial) -> Record:
        origin, seconds = runner.origin, {1: mean(trial.seconds)} if trial.seconds else {}
        where = (origin.processor, origin.machine, origin.kind, date.today().isoformat(), origin.tvm)
        return Record(task.workload, trial.schedule, seconds, *where)

    database.append(runner.isa.mcpu, [record(trial) for trial in trials])
    for trial in trials:
        task.tried[trial.schedule] = mean(trial.seconds) if trial.seconds else math.inf
