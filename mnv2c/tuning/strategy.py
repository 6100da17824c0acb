"""What to try next, as MetaSchedule's search strategy: ``search.propose`` on the workload's space.

What comes in: what was tried, by schedule, in seconds, infinity where it failed; more of it with every batch. What
goes out: measure candidates, the family's rule's choice first, or None where all of the space was tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels import device
from mnv2c.kernels.abi import Schedule
from mnv2c.targets import InstructionSet
from mnv2c.tuning.search import propose
from mnv2c.tuning.space import schedule_of, traced
from mnv2c.workloads import Workload


@derived_object
class StepsFromTheBest(ms.search_strategy.PySearchStrategy):
    """``tried`` is what is known before it begins, ``elsewhere`` schedules that were good on other machines."""

    def __init__(
        self,
        workload: Workload,
        isa: InstructionSet,
        tried: Mapping[Schedule, float],
        *,
        elsewhere: Sequence[Schedule] = (),
    ) -> None:
        super().__init__()
        self._workload, self._isa, self._tried, self._elsewhere = workload, isa, dict(tried), tuple(elsewhere)
        self._count = 0

    def _initialize_with_tune_context(self, context: Any) -> None:
        """It knows its workload."""

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: Any,
        database: Any = None,
        cost_model: Any = None,
    ) -> None:
        self._count = int(num_trials_per_iter)

    def post_tuning(self) -> None:
        """It holds nothing."""

    def generate_measure_candidates(self) -> list[Any] | None:
        candidates = device(self._isa.kind).space(self._workload, self._isa)
        wanted = propose(candidates, self._tried, self._count, elsewhere=self._elsewhere)
        return [candidate(self._workload, self._isa, schedule) for schedule in wanted] or None

    def notify_runner_results(self, measure_candidates: Sequence[Any], results: Sequence[Any]) -> None:
        for one, result in zip(measure_candidates, results, strict=True):
            schedule = schedule_of(one.sch.trace, self._workload, self._isa)
            self._tried[schedule] = mean(map(float, result.run_secs)) if result.run_secs else math.inf

    def clone(self) -> Any:
        return StepsFromTheBest(self._workload, self._isa, self._tried, elsewhere=self._elsewhere)


def candidate(workload: Workload, isa: InstructionSet, schedule: Schedule) -> Any:
    """MetaSchedule's measure candidate of a schedule."""
    s = traced(workload, isa, schedule)
    return ms.search_strategy.MeasureCandidate(s, ms.arg_info.ArgInfo.from_prim_func(s.mod["main"]))


@derived_object
class Supervised(ms.search_strategy.PySearchStrategy):
    """Another strategy's candidates for a task, those left out that are known already, until enough was tried; the
    best so far runs again before them where times drift."""

    def __init__(self, inner: Any, task: Any, trials: int | None) -> None:
        super().__init__()
        self._inner, self._task, self._trials = inner, task, trials
        self._proposed: list[Any] = []

    def _initialize_with_tune_context(self, context: Any) -> None:
        self._inner._initialize_with_tune_context(context)

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: Any,
        database: Any = None,
        cost_model: Any = None,
    ) -> None:
        self._inner.pre_tuning(max_trials, num_trials_per_iter, design_spaces, database, cost_model)

    def post_tuning(self) -> None:
        self._inner.post_tuning()

    def generate_measure_candidates(self) -> list[Any] | None:
        left = self._task.trials_left(self._trials)
        if left <= 0:
            return None
        for _ in range(_ATTEMPTS):
            proposed = self._inner.generate_measure_candidates()
            if not proposed:
                return None
            new: dict[Schedule, Any] = {}
            for one in proposed:
                schedule = self._task.schedule_of(one)
                if schedule is not None and schedule not in self._task.tried:
                    new.setdefault(schedule, one)
            self._proposed = list(proposed)
            if new:
                return [*self._task.reference(), *list(new.values())[:left]]
            self._inner.notify_runner_results(proposed, [self._known(one) for one in proposed])
        return None

    def notify_runner_results(self, measure_candidates: Sequence[Any], results: Sequence[Any]) -> None:
        measured = {
            self._task.schedule_of(one): result for one, result in zip(measure_candidates, results, strict=True)
        }
        everything = [measured.get(self._task.schedule_of(one)) or self._known(one) for one in self._proposed]
        self._inner.notify_runner_results(self._proposed, everything)

    def clone(self) -> Any:
        return Supervised(self._inner.clone(), self._task, self._trials)

    def _known(self, one: Any) -> Any:
        seconds = self._task.tried.get(self._task.schedule_of(one), math.inf)
        if math.isinf(seconds):
            return ms.runner.RunnerResult(None, "not tried")
        return ms.runner.RunnerResult([seconds], None)


_ATTEMPTS = 8  # batches of nothing new after which a strategy has nothing left
