"""Tunes kernels with MetaSchedule: ``mnv2c tune``.

What comes in: the workloads of some networks, how often each layer uses them, a database, and MetaSchedule's parts:
a search strategy, a cost model, a builder, a runner, each ours where none is given. What goes out: the database, with
every trial in it as soon as its batch has run. What the database holds already is never tried again, so that a run
that was ended in any way is taken up where it stood.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from tvm.s_tir import meta_schedule as ms

from mnv2c.errors import ToolError
from mnv2c.kernels import device
from mnv2c.kernels.abi import Schedule
from mnv2c.processes import ENDING
from mnv2c.targets import InstructionSet
from mnv2c.tuning.database import TuningDatabase, by_threads
from mnv2c.tuning.lookup import best_record
from mnv2c.tuning.records import Database, Record, by_workload
from mnv2c.tuning.runners import Conditions, Trial
from mnv2c.tuning.scheduler import AfterBatch, Scheduler, Steadied
from mnv2c.tuning.space import module, schedule_of, space_generator
from mnv2c.tuning.strategy import StepsFromTheBest, Supervised, candidate
from mnv2c.workloads import Workload

BATCH = 8
_ENDLESS = 1 << 30
_PATIENCE = 24  # trials without a gain after which a workload is left alone
_GAIN = 0.01  # less than that is noise


@dataclass
class Task:
    """One workload on one core, and the ``layers`` of all networks that run it; times are in seconds.

    ``floor`` is the least time at the core's peak; ``tried`` every candidate's time in the order of the trials,
    infinity where it failed; ``best_seconds`` the best one's by number of threads. ``elsewhere`` are the best schedules
    of each other processor, or under other conditions.
    """

    workload: Workload
    layers: tuple[str, ...]
    conditions: Conditions
    floor: float
    space: tuple[Schedule, ...]
    elsewhere: tuple[Schedule, ...] = ()
    tried: dict[Schedule, float] = field(default_factory=dict)
    best_seconds: Mapping[int, float] = field(default_factory=dict)

    def add(self, schedule: Schedule, seconds: Mapping[int, float]) -> None:
        """A trial: ``seconds`` by number of threads, empty where it failed. Of a candidate's trials the best counts."""
        objective = mean(seconds.values()) if seconds else math.inf
        if objective < (math.inf if self.best is None else self.best):
            self.best_seconds = seconds
        self.tried[schedule] = min(objective, self.tried.get(schedule, math.inf))

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

    def trials_left(self, most: int | None) -> int:
        """Of the next batch, where a workload may have ``most`` trials; none where nothing promising is left."""
        left = BATCH if most is None else min(BATCH, most - len(self.tried))
        return 0 if self.fruitless >= _PATIENCE else max(left, 0)

    def schedule_of(self, measured: Any) -> Schedule | None:
        """Of MetaSchedule's measure candidate; None where it is not in the space."""
        return schedule_of(measured.sch.trace, self.workload, self.conditions.isa)

    def trial(self, measured: Any, result: Any) -> Trial:
        """What a runner said of a measure candidate."""
        runs = [float(run) for run in result.run_secs or ()]
        return Trial(self.schedule_of(measured), by_threads(runs, self.conditions), str(result.error_msg or ""))

    def reference(self) -> list[Any]:
        """What runs again in every batch: the best so far, where times drift."""
        best = self.best_schedule if self.conditions.drifts else None
        return [] if best is None else [candidate(self.workload, self.conditions.isa, best)]


@dataclass(frozen=True)
class Limits:
    """``trials`` per workload and ``seconds`` in all; None where there is no limit."""

    trials: int | None
    seconds: float | None


STRATEGIES: dict[str, Callable[[Task], Any]] = {
    "ours": lambda task: StepsFromTheBest(task.workload, task.conditions.isa, task.tried, elsewhere=task.elsewhere),
    "evolutionary": lambda task: ms.search_strategy.EvolutionarySearch(population_size=64, init_min_unmeasured=16),
    "replay": lambda task: ms.search_strategy.ReplayFunc(),
}
"""By the names of ``mnv2c tune --search``. The population is small, as the spaces are."""


def make_tasks(layers: Sequence[tuple[str, Workload]], conditions: Conditions, records: Sequence[Record]) -> list[Task]:
    """A task per workload, with what ``records`` under these very conditions know of it already, and what was best of
    those under others."""
    names: dict[Workload, list[str]] = {}
    for name, workload in layers:
        names.setdefault(workload, []).append(name)
    known = by_workload(record for record in records if is_comparable(record, conditions))
    others = by_workload(record for record in records if not is_comparable(record, conditions))
    threads = conditions.origin.threads
    share = sum(1 / count for count in threads) / len(threads)  # the mean over the numbers of threads, at their peaks
    tasks = []
    for workload, users in names.items():
        floor = workload.macs / conditions.macs_per_second * share
        elsewhere = _best_of_each_processor(others.get(workload, ()), conditions.isa)
        task = Task(
            workload,
            tuple(users),
            conditions,
            floor,
            device(conditions.isa.kind).space(workload, conditions.isa),
            elsewhere,
        )
        candidates = set(task.space)
        for record in known.get(workload, ()):
            if record.schedule in candidates:
                task.add(record.schedule, record.seconds)
        tasks.append(task)
    return tasks


def _best_of_each_processor(records: Sequence[Record], isa: InstructionSet) -> tuple[Schedule, ...]:
    processors = dict.fromkeys(record.processor for record in records)
    best = [best_record(records, isa, lambda complaint: None, processor=processor) for processor in processors]
    return tuple(dict.fromkeys(record.schedule for record in best if record is not None))


def is_comparable(record: Record, conditions: Conditions) -> bool:
    """Whether the record's times are of these conditions; what failed there failed for any number of threads."""
    origin = record.origin
    where = (origin.processor, origin.machine, origin.kind, origin.tvm)
    there = conditions.origin
    same_threads = record.failed or sorted(origin.threads) == sorted(there.threads)
    return where == (there.processor, there.machine, there.kind, there.tvm) and same_threads


def tune(
    tasks: Sequence[Task],
    database: Database,
    *,
    runner: Any,
    builder: Any,
    strategy: Callable[[Task], Any] = STRATEGIES["ours"],
    cost_model: Any = None,
    limits: Limits = Limits(None, None),
    show: Callable[[Task, list[Trial]], None] = lambda task, trials: None,
) -> None:
    """Until nothing promises a gain, or a limit is reached.

    ``strategy`` makes MetaSchedule's search strategy for a task, ``cost_model``, ``runner`` and ``builder`` are
    MetaSchedule's; ``show`` is given every batch, once it is kept. KeyboardInterrupt where ^C was pressed, after the
    batch that was being tried.
    """
    contexts = [_context(task, Supervised(strategy(task), task, limits.trials)) for task in tasks]
    known = TuningDatabase(database, tasks[0].conditions)

    def keep(number: int, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        task = tasks[number]
        trials = [trial for trial in map(task.trial, candidates, results) if trial.schedule not in task.tried]
        known.append(task.workload, trials)
        for trial in trials:
            task.add(trial.schedule, trial.seconds)
        show(task, trials)

    model = [] if cost_model is None else [ms.measure_callback.UpdateCostModel()]
    with _interrupts_held() as received:
        scheduler = Scheduler(tasks, limits.seconds, received)
        try:
            scheduler.tune(
                contexts,
                [float(len(task.layers)) for task in tasks],
                _ENDLESS,
                _ENDLESS,
                BATCH,
                builder,
                Steadied(runner, scheduler),
                [*model, AfterBatch(keep, scheduler)],
                known,
                cost_model,
            )
            scheduler.raise_failure()
        except Exception:
            if not received:  # ^C may end a compiler that the builder waits for
                raise
    if received:
        signal.raise_signal(received[0])


@contextlib.contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """^C and its like that arrive meanwhile: raised while TVM calls Python, KeyboardInterrupt would crash it."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _context(task: Task, strategy: Any) -> Any:
    conditions = task.conditions
    target = device(conditions.isa.kind).tvm_target(conditions.target, conditions.isa, model=str(conditions.origin))
    with _no_intrinsics():
        return ms.TuneContext(
            module(task.workload, conditions.isa),
            target=target,
            space_generator=space_generator(task.workload, conditions.isa),
            search_strategy=strategy,
            task_name=task.workload.name,
            num_threads=1,
        )


@contextlib.contextmanager
def _no_intrinsics() -> Iterator[None]:
    """Keeps TuneContext from importing TVM's tensor intrinsics, which takes 10 s: our templates use none."""
    name = "tvm.s_tir.tensor_intrin"
    is_needed = name not in sys.modules
    if is_needed:
        sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        if is_needed:
            del sys.modules[name]


def stock_cost_model(name: str, search: str) -> Any:
    """MetaSchedule's cost model ``none`` or ``xgb``; a random one for evolutionary search, which needs one."""
    if name == "none":
        return ms.cost_model.RandomModel() if search == "evolutionary" else None
    if importlib.util.find_spec("xgboost") is None:
        raise ToolError("--cost-model xgb needs the package xgboost: pip install 'mnv2c[tune]'")
    return ms.cost_model.XGBModel(num_tuning_cores=1)
