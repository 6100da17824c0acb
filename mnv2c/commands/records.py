"""``mnv2c records``: what tuning has found, and how to keep it in order."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnv2c.commands import UsageError, say, say_json
from mnv2c.errors import RecordError
from mnv2c.kernels.cpu.device import space
from mnv2c.shipped import SCHEDULES
from mnv2c.targets import InstructionSet, core_named
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.lookup import best_record
from mnv2c.tuning.records import Database, Record, by_workload


def command(options: argparse.Namespace) -> int:
    """One of list, show, check, prune, merge."""
    if (options.argument is None) == (options.action in ("show", "merge")):
        wanted = {"show": "a KERNEL, or a part of its name", "merge": "a DIR"}.get(options.action, "nothing else")
        raise UsageError(f"records {options.action} takes {wanted}")
    directory = options.schedules or SCHEDULES
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such directory; `mnv2c tune` makes one")
    actions = {"list": _list, "show": _show, "check": _check, "prune": _prune, "merge": _merge}
    return actions[options.action](Database(directory), options)


def _load(database: Database, core: str) -> list[Record]:
    loaded = database.load(core)
    for complaint in loaded.complaints:
        _note(complaint)
    return list(loaded.records)


def _note(complaint: str) -> None:
    print(f"mnv2c: note: {complaint}", file=sys.stderr)


def _list(database: Database, options: argparse.Namespace) -> int:
    """A line per kernel: its trials and the best of them."""
    rows = [
        _summary(core, records) for core in database.cores() for records in by_workload(_load(database, core)).values()
    ]
    if options.json:
        say_json(rows)
        return 0
    for row in rows:
        best = f"{row['best_us']:9.1f} us  {row['gain']:5.2f}x the rule" if row["best_us"] else "all failed"
        say(f"{row['core']:12} {row['kernel']:56} {row['trials']:4} trials {best}  {row['origin']}")
    if not rows:
        say("no records")
    return 0


def _summary(core: str, records: Sequence[Record]) -> dict[str, Any]:
    """Of one kernel: the best time, and how much it gains over the rule's under the same origin."""
    workload, (_, isa) = records[0].workload, core_named(core)
    row = {"core": core, "kernel": workload.name, "trials": len(records), "failed": sum(r.failed for r in records)}
    best = best_record(records, isa, _note)
    if best is None:
        return row | {"best_us": None, "gain": None, "schedule": None, "origin": str(records[-1].origin)}
    rules = [
        record.best for record in records if record.origin == best.origin and record.schedule == space(workload, isa)[0]
    ]
    gain = min(rules, default=best.best) / best.best
    return row | {"best_us": best.best * 1e6, "gain": gain, "schedule": str(best.schedule), "origin": str(best.origin)}


def _show(database: Database, options: argparse.Namespace) -> int:
    """Every trial of some kernels, the fastest first."""
    records = [record for core in database.cores() for record in _load(database, core)]
    found = [record for record in records if options.argument in record.workload.name]
    if not found:
        raise RecordError(f"no record of a kernel with {options.argument!r} in its name; see `mnv2c records list`")
    found.sort(key=lambda record: (record.core, record.workload.name, record.best))
    if options.json:
        say_json([_trial(record) for record in found])
        return 0
    for row in map(_trial, found):
        time = "failed" if row["best_us"] is None else f"{row['best_us']:.1f} us, spread {row['spread']:.1%}"
        say(f"{row['core']}  {row['kernel']}  {row['schedule']}  {time}  {row['origin']}")
    return 0


def _trial(record: Record) -> dict[str, Any]:
    return {
        "core": record.core,
        "kernel": record.workload.name,
        "schedule": str(record.schedule),
        "best_us": None if record.failed else record.best * 1e6,
        "spread": record.spread,
        "origin": str(record.origin),
    }


def _check(database: Database, options: argparse.Namespace) -> int:
    """Whether the best record of every kernel is still a schedule of this version, and compiles."""
    failures: list[str] = []
    checked = 0
    for core in database.cores():
        target, isa = core_named(core)
        for workload, records in by_workload(_load(database, core)).items():
            best = best_record(records, isa, failures.append)
            if best is not None:
                checked += 1
                compiled = compile_candidates(workload, [best.schedule], target, isa)
                failures += [f"{core}: {workload.name}: {best.schedule}: {why}" for why in compiled.failures.values()]
    if options.json:
        say_json({"checked": checked, "failures": failures})
    else:
        say("\n".join([*failures, f"{checked} kernels' best records replay, {len(failures)} do not"]))
    return 1 if failures else 0


def _prune(database: Database, options: argparse.Namespace) -> int:
    """Keeps of every kernel the best record, and the rule's beside it, which says how much it gains."""
    dropped = 0
    for core in database.cores():
        _, isa = core_named(core)
        _load(database, core)  # for its complaints: what cannot be read stays
        dropped += database.keep(core, functools.partial(_worth_keeping, isa))
    if options.json:
        say_json({"dropped": dropped})
    else:
        say(f"{dropped} records dropped")
    return 0


def _worth_keeping(isa: InstructionSet, records: Sequence[Record]) -> list[Record]:
    kept = []
    for workload, trials in by_workload(records).items():
        best = best_record(trials, isa, _note)
        if best is not None:
            rule = space(workload, isa)[0]
            rules = [record for record in trials if record.schedule == rule and record.origin == best.origin]
            kept += [record for record in trials if record is best or (record in rules and not record.failed)]
    return kept


def _merge(database: Database, options: argparse.Namespace) -> int:
    """Adds another directory's records, those that are not there already."""
    other = Path(options.argument)
    if not other.is_dir():
        raise RecordError(f"{other}: no such directory")
    source = Database(other)
    added = 0
    for core in source.cores():
        known = {record.content for record in _load(database, core)}
        new = [record for record in _load(source, core) if record.content not in known]
        database.append(core, [(record.workload, record.content_json) for record in new])
        added += len(new)
    if options.json:
        say_json({"added": added})
    else:
        say(f"{added} records added to {database.directory}")
    return 0
