"""``mnv2c tune``: finds the best schedules of some networks' kernels, and keeps them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnv2c.commands import UsageError, note, progress, say, say_json
from mnv2c.driver import workloads
from mnv2c.errors import RecordError
from mnv2c.shipped import SCHEDULES
from mnv2c.spec.table import load_spec
from mnv2c.targets import InstructionSet, Target, in_precision, target_named
from mnv2c.tuning.builder import Builder
from mnv2c.tuning.progress import Progress, to_json
from mnv2c.tuning.records import Database
from mnv2c.tuning.tune import STRATEGIES, Limits, make_tasks, stock_cost_model, tune
from mnv2c.workloads import Workload


def command(options: argparse.Namespace) -> int:
    """One instruction set of the target after the other; for GPUs that of the one which is here."""
    if (options.rpc is None) != (options.key is None):
        raise UsageError("--rpc and --key go together: --rpc HOST:PORT --key KEY")
    report = progress()
    target = in_precision(target_named(options.target), options.precision)
    if options.rpc is not None and sum(bool(isa.parts) for isa in target.instruction_sets) > 1:
        raise UsageError(
            f"--rpc: boards of one key have one kind of core, and {target.name} is for several: give --target pi3, pi4 "
            "or pi5"
        )
    specs = [load_spec(path, options.set) for path in options.specs]
    layers = [
        (f"{spec.name} {name}", workload)
        for spec in specs
        for name, workload in workloads(spec, target, options.precision, options.backend)
    ]
    report(f"{len(layers)} layers, {len({workload for _, workload in layers})} kernels")
    tuned = target.instruction_sets[:1] if target.kind == "cuda" else target.instruction_sets
    limit = None if options.minutes is None else options.minutes * 60.0 / len(tuned)
    results = [_tune(target, isa, layers, options, limit) for isa in tuned]
    if options.json:
        say_json(results)
    return 0


def _tune(
    target: Target,
    isa: InstructionSet,
    layers: Sequence[tuple[str, Workload]],
    options: argparse.Namespace,
    seconds: float | None,
) -> dict[str, Any]:
    database = Database(_directory(options))
    cost_model = stock_cost_model(options.cost_model, options.search)
    runner = _open(options, target, isa)
    isa = runner.conditions.isa
    builder = Builder(target, isa)
    try:
        if options.fresh:
            fresh = {workload for _, workload in layers}
            database.keep(isa.mcpu, lambda records: [record for record in records if record.workload not in fresh])
        loaded = database.load(isa.mcpu)
        for complaint in loaded.complaints:
            note(complaint)
        tasks = make_tasks(layers, runner.conditions, loaded.records)
        with Progress(tasks, runner.conditions, database.directory / isa.mcpu, seconds) as shown:
            try:
                tune(
                    tasks,
                    database,
                    runner=runner,
                    builder=builder,
                    strategy=STRATEGIES[options.search],
                    cost_model=cost_model,
                    limits=Limits(options.trials, seconds),
                    show=shown.batch,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_what_is_kept(shown, database, options)) from None
        if not options.json:
            say(shown.summary())
        return to_json(tasks, runner.conditions)
    finally:
        builder.close()
        runner.close()


def _what_is_kept(shown: Progress, database: Database, options: argparse.Namespace) -> str:
    again = "the same command without --fresh" if options.fresh else "the same command"
    return f"{shown.new_trials} new trials are kept in {database.directory}; {again} goes on where this one stopped"


def _directory(options: argparse.Namespace) -> Path:
    """Where the records go; RecordError where that is among mnv2c's own, and those belong to somebody else."""
    if options.schedules is None and not os.access(SCHEDULES, os.W_OK):
        raise RecordError(
            f"{SCHEDULES}: the records that come with mnv2c cannot be written to: keep yours elsewhere with "
            "--schedules DIR, and give `mnv2c build` the same"
        )
    return options.schedules or SCHEDULES


def _open(options: argparse.Namespace, target: Target, isa: InstructionSet) -> Any:
    """The runner that was asked for; only its own packages are imported."""
    if target.kind == "cuda":
        return _open_gpu(options, target)
    is_local = options.rpc is None and options.measure == "local"
    if options.threads is not None and not is_local:
        raise UsageError("--threads: boards and the cost model time one thread alone")
    if options.rpc is not None:
        from mnv2c.tuning.runners.rpc import RpcRunner

        return RpcRunner(target, isa, options.rpc, options.key)
    if is_local:
        from mnv2c.tuning.runners.local import LocalRunner

        return LocalRunner(target, isa, threads=options.threads or _default_threads())
    if options.measure == "static":
        from mnv2c.tuning.runners.static import StaticRunner

        return StaticRunner(target, isa)
    raise UsageError(f"--measure {options.measure}: there are local and static")


def _open_gpu(options: argparse.Namespace, target: Target) -> Any:
    from mnv2c.deploy.ssh import Host
    from mnv2c.tuning.runners.gpu import GpuRunner

    where, _, host = options.measure.partition(":")
    if options.rpc is not None or options.threads is not None or where not in ("local", "ssh"):
        raise UsageError(
            f"target {target.name}: kernels are timed on a GPU, with --measure local or ssh:[USER@]HOST[:PORT], and "
            "neither --rpc nor --threads"
        )
    return GpuRunner(target, options.precision, host=Host.parse(host) if where == "ssh" else None)


def _default_threads() -> tuple[int, ...]:
    """One, and all cores that this process may use."""
    return tuple(sorted({1, len(os.sched_getaffinity(0))}))
