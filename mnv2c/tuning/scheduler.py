"""MetaSchedule's task scheduler, ours: a batch goes where the networks have most to gain, and is kept before the next.

What comes in: tasks, which know what was tried. What goes out: the number of the next one. MetaSchedule's own
schedulers keep nothing before they have visited every task, and never count what the database holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.tuning.database import by_threads
from mnv2c.tuning.runners import Timing, done


@derived_object
class Scheduler(ms.task_scheduler.PyTaskScheduler):
    """Ends after ``seconds``, as soon as something is ``stopped``, and where a runner or a callback failed:
    ``raise_failure`` raises that again, since an exception does not come through TVM as what it was."""

    def __init__(self, tasks: Sequence[Any], seconds: float | None, stopped: Sequence[int]) -> None:
        super().__init__()
        self.tasks, self._stopped = tasks, stopped
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.current: int | None = None
        self.failure: BaseException | None = None

    def next_task_id(self) -> int:
        """The one with most promise, -1 to end. The batch before has been run, and is kept by now."""
        try:
            if self.current is not None and not self._outer().tasks_[self.current].is_terminated:
                self.join_running_task(self.current)
        except BaseException as error:
            self.failure = self.failure or error
        self.current = None
        if self._stopped or self.failure is not None or time.monotonic() >= self._deadline:
            return -1
        records = self._outer().tasks_
        waiting = [number for number, record in enumerate(records) if not record.is_terminated]
        if waiting:
            self.current = max(waiting, key=lambda number: self.tasks[number].promise)
        return -1 if self.current is None else self.current

    def raise_failure(self) -> None:
        """What ended the run, where something did."""
        if self.failure is not None:
            raise self.failure


@derived_object
class AfterBatch(ms.measure_callback.PyMeasureCallback):
    """Calls a function with a task's number, the candidates of its batch, and their results."""

    def __init__(self, function: Callable[[int, Sequence[Any], Sequence[Any]], None], scheduler: Any) -> None:
        super().__init__()
        self._function, self._scheduler = function, scheduler

    def apply(
        self,
        task_scheduler: Any,
        task_id: int,
        candidates: Sequence[Any],
        builds: Sequence[Any],
        results: Sequence[Any],
    ) -> None:
        if self._scheduler.failure is not None:
            return
        try:
            self._function(task_id, candidates, results)
        except BaseException as error:
            self._scheduler.failure = error


@derived_object
class Steadied(ms.runner.PyRunner):
    """Another runner, its times set in relation to the best so far, which runs again as the first of a batch, for each
    number of threads on its own.

    A machine is faster at one time than at another, and may have fewer cores to give: so times of different batches
    can be compared.
    """

    def __init__(self, inner: Any, scheduler: Any) -> None:
        super().__init__()
        self._inner, self._scheduler = inner, scheduler

    def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
        try:
            results = [future.result() for future in self._inner.run(runner_inputs)]
        except BaseException as error:
            self._scheduler.failure = error
            return [done(Timing(failure="the run ended")) for _ in runner_inputs]
        scales = self._scales(results)
        return [done(self._steadied(result, scales)) for result in results]

    def _steadied(self, result: Any, scales: Mapping[int, float]) -> Timing:
        runs = tuple(map(float, result.run_secs or ()))
        if scales:
            seconds = by_threads(runs, self._scheduler.tasks[self._scheduler.current].conditions)
            runs = tuple(seconds[threads] * scales[threads] for threads in seconds)
        return Timing(runs, str(result.error_msg or ""))

    def _scales(self, results: Sequence[Any]) -> dict[int, float]:
        """By number of threads; none where there is nothing to compare with."""
        number = self._scheduler.current
        task, record = self._scheduler.tasks[number], self._scheduler._outer().tasks_[number]
        was_built = record.builder_results[0].error_msg is None
        if not task.conditions.drifts or task.best is None or not was_built or not results[0].run_secs:
            return {}
        again = by_threads(list(map(float, results[0].run_secs)), task.conditions)
        return {threads: task.best_seconds[threads] / again[threads] for threads in again}
