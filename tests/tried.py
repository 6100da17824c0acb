"""Tries schedules as tuning does: builder and runner, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.lower import tvm_target
from mnv2c.tuning.builder import Builder
from mnv2c.tuning.runners import Trial
from mnv2c.tuning.space import traced
from mnv2c.workloads import Workload


def try_schedules(runner: Any, workload: Workload, schedules: Sequence[Schedule]) -> list[Trial]:
    """A trial of each, in order."""
    conditions = runner.conditions
    target = tvm_target(conditions.target, conditions.isa)
    builder = Builder(conditions.target, conditions.isa)
    try:
        modules = [traced(workload, conditions.isa, schedule).mod for schedule in schedules]
        built = builder.build([ms.builder.BuilderInput(module, target) for module in modules])
        inputs = [ms.runner.RunnerInput(one.artifact_path, "llvm", []) for one in built if one.error_msg is None]
        results = iter([future.result() for future in runner.run(inputs)])
        trials = []
        for schedule, one in zip(schedules, built, strict=True):
            result = one if one.error_msg is not None else next(results)
            runs = [float(run) for run in getattr(result, "run_secs", None) or ()]
            threads = conditions.origin.threads
            trials.append(Trial(schedule, dict(zip(threads, runs, strict=False)), str(result.error_msg or "")))
        return trials
    finally:
        builder.close()
