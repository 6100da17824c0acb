"""Our records as MetaSchedule's database: safe against crashes, any number of writers, one instruction set.

What comes in: MetaSchedule's tuning records, or a batch of trials. What goes out: records on the disk; MetaSchedule's
tuning records of those that were taken under the same conditions.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels import device
from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.families import workload_of
from mnv2c.tuning.records import Database, Record
from mnv2c.tuning.runners import Conditions, Trial
from mnv2c.tuning.space import module, schedule_of, traced
from mnv2c.workloads import Workload

_FAILED = 1e9  # seconds: MetaSchedule's mark of a trial that failed is above this


@derived_object
class TuningDatabase(ms.database.PyDatabase):
    """Those of ``records`` that were taken under ``conditions``."""

    def __init__(self, records: Database, conditions: Conditions) -> None:
        super().__init__()
        self._records, self._conditions = records, conditions
        here = conditions.origin
        loaded = records.load(conditions.isa.mcpu).records
        self._known = [one for one in loaded if not one.failed and one.origin == here]

    def append(self, workload: Workload, trials: Sequence[Trial]) -> None:
        """A batch, on the disk when it returns."""
        new = [self._record(workload, trial.schedule, trial.seconds) for trial in trials]
        self._records.append(self._conditions.isa.mcpu, new)
        self._known += [one for one in new if not one.failed]

    def has_workload(self, mod: tvm.IRModule) -> bool:
        workload = workload_of(mod["main"])
        return any(one.workload == workload for one in self._known)

    def commit_workload(self, mod: tvm.IRModule) -> Any:
        return ms.database.Workload(mod)

    def commit_tuning_record(self, record: Any) -> None:
        workload = workload_of(record.workload.mod["main"])
        schedule = schedule_of(record.trace, workload, self._conditions.isa)
        if schedule is not None:
            runs = [float(run) for run in record.run_secs or ()]
            self.append(workload, [Trial(schedule, by_threads(runs, self._conditions))])

    def get_top_k(self, workload: Any, top_k: int) -> list[Any]:
        wanted = workload_of(workload.mod["main"])
        known = (one for one in self._known if one.workload == wanted)
        return [self._tuning_record(one) for one in sorted(known, key=lambda one: one.objective)[:top_k]]

    def get_all_tuning_records(self) -> list[Any]:
        return [self._tuning_record(one) for one in self._known]

    def __len__(self) -> int:
        return len(self._known)

    def _record(self, workload: Workload, schedule: Schedule, seconds: Mapping[int, float]) -> Record:
        here = self._conditions.origin
        today = datetime.date.today().isoformat()
        return Record(workload, schedule, seconds, here.processor, here.machine, here.kind, today, here.tvm)

    def _tuning_record(self, one: Record) -> Any:
        """Those whose schedule the space no longer has are not among them."""
        conditions = self._conditions
        trace = traced(one.workload, conditions.isa, one.schedule).trace
        kernels = device(conditions.isa.kind)
        target = kernels.tvm_target(conditions.target, conditions.isa, model=str(conditions.origin))
        arguments = ms.arg_info.ArgInfo.from_prim_func(module(one.workload, conditions.isa)["main"])
        workload = ms.database.Workload(module(one.workload, conditions.isa))
        return ms.database.TuningRecord(trace, workload, list(one.seconds.values()), target, arguments)


def by_threads(runs: Sequence[float], conditions: Conditions) -> dict[int, float]:
    """A runner's times, one for each number of threads; the mean of all where there is one number; none where the
    trial failed."""
    threads = conditions.origin.threads
    if not runs or max(runs) > _FAILED:
        return {}
    return {threads[0]: mean(runs)} if len(threads) == 1 else dict(zip(threads, runs, strict=True))
