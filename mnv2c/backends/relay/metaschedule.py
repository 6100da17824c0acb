"""Relay's MetaSchedule integration: a module's tasks, tuned for some minutes on this processor, and compiled.

Imported by ``program`` alone, in the environment that has Relay. MetaSchedule's own parts do it, by their defaults, but
for the task scheduler: its own ones take a number of trials in place of a time, and keep nothing before they have
visited every task, which takes hours on two cores.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import meta_schedule as ms
from tvm.meta_schedule.utils import derived_object

from mnv2c.scratch import Scratch

_BATCH = 16  # trials of a task before another's turn
_ENDLESS = 1 << 20


@derived_object
class ForSomeTime(ms.task_scheduler.PyTaskScheduler):
    """The tasks in turn, those with most arithmetic first, until ``deadline`` (``time.monotonic``); one in any case."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline
        self._turns: Counter[int] = Counter()
        self._current: int | None = None

    def next_task_id(self) -> int:
        """-1 to end. What the task before has tried is in the database by then."""
        tasks = self._outer().tasks_
        if self._current is not None and not tasks[self._current].is_terminated:
            self.join_running_task(self._current)
        waiting = [number for number, task in enumerate(tasks) if not task.is_terminated]
        if (self._turns and time.monotonic() >= self._deadline) or not waiting:
            return -1
        self._current = min(waiting, key=lambda number: (self._turns[number], -_arithmetic(tasks[number])))
        self._turns[self._current] += 1
        return self._current


def _arithmetic(task: Any) -> float:
    """Floating-point operations of all layers that run the task."""
    return float(task.task_weight) * float(task.flop)


def tuned_library(
    module: tvm.IRModule, target: tvm.target.Target, named: Mapping[str, Any], *, minutes: float
) -> tuple[Any, int]:
    """What ``relay.build`` would give, with the best schedules that ``minutes`` find, and the number of trials that
    ran. ``named`` are the constants."""
    deadline = time.monotonic() + 60 * minutes
    with Scratch() as directory:
        database = ms.relay_integration.tune_relay(
            module,
            dict(named),
            target,
            str(directory),
            max_trials_global=_ENDLESS,
            num_trials_per_iter=_BATCH,
            task_scheduler=ForSomeTime(deadline),
        )
        library = ms.relay_integration.compile_relay(database, module, target, dict(named))
        return library, len(database)
