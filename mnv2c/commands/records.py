"""``mnv2c records``: what tuning has found, and how to keep it in order."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2c.commands import UsageError, note, progress, say, say_json
from mnv2c.errors import RecordError
from mnv2c.kernels import device
from mnv2c.shipped import SCHEDULES
from mnv2c.targets import InstructionSet, core_named
from mnv2c.tuning import export
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.lookup import best_record, noise
from mnv2c.tuning.records import Database, Record, by_workload, in_unit


def command(options: argparse.Namespace) -> int:
    """One of list, show, check, prune, merge, export, import."""
    if (options.argument is None) == (options.action in ("show", "merge", "export", "import")):
        wanted = {"show": "a KERNEL, or a part of its name", "list": "nothing else", "check": "nothing else"}
        wanted["prune"] = "nothing else"
        raise UsageError(f"records {options.action} takes {wanted.get(options.action, 'a DIR')}")
    if options.compile and options.action != "check":
        raise UsageError("--compile belongs to records check")
    directory = options.schedules or SCHEDULES
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such directory; `mnv2c tune` makes one")
    actions = {"list": _list, "show": _show, "check": _check, "prune": _prune, "merge": _merge}
    actions |= {"export": _export, "import": _import}
    return actions[options.action](Database(directory), options)


def _load(database: Database, core: str) -> list[Record]:
    loaded = database.load(core)
    for complaint in loaded.complaints:
        note(complaint)
    return list(loaded.records)


def _list(database: Database, options: argparse.Namespace) -> int:
    """A line per kernel and processor: its trials, and the best of them there."""
    rows = [
        row
        for core in database.instruction_sets()
        for records in by_workload(_load(database, core)).values()
        for row in _summaries(core, records)
    ]
    if options.json:
        say_json(rows)
        return 0
    for row in rows:
        best = f"{row['best']:9.1f} {row['unit']:7}  {row['gain']:5.2f}x the rule" if row["best"] else "all failed"
        taken = "*" if row["taken"] else " "
        where = f"{row['core']:10} {row['processor']:10}"
        say(f"{where} {row['kernel']:56} {row['trials']:4} trials {taken} {best}  {row['origin']}")
    say("* what a library for every processor takes" if rows else "no records")
    return 0


def _summaries(core: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of one kernel, for each processor."""
    _, isa = core_named(core)
    taken = best_record(records, isa, note)
    processors = dict.fromkeys(record.processor for record in records)
    return [
        _summary(core, [record for record in records if record.processor == processor], taken)
        for processor in processors
    ]


def _summary(core: str, records: Sequence[Record], taken: Record | None) -> dict[str, Any]:
    """Of one kernel on one processor: the best time, and how much it gains over the rule's under the same origin."""
    workload, (_, isa) = records[0].workload, core_named(core)
    row = {"core": core, "processor": records[0].processor, "kernel": workload.name, "trials": len(records)}
    row["failed"] = sum(record.failed for record in records)
    best = best_record(records, isa, lambda complaint: None)
    if best is None:
        nothing = {"best": None, "unit": None, "gain": None, "schedule": None, "taken": False}
        return row | nothing | {"origin": str(records[-1].origin)}
    rule = device(isa.kind).space(workload, isa)[0]
    rules = [record.objective for record in records if record.origin == best.origin and record.schedule == rule]
    gain = min(rules, default=best.objective) / best.objective
    value, unit = in_unit(best.objective, best.kind)
    found = {"best": value, "unit": unit, "gain": gain, "schedule": str(best.schedule), "origin": str(best.origin)}
    return row | found | {"taken": taken is not None and taken.schedule == best.schedule}


def _show(database: Database, options: argparse.Namespace) -> int:
    """Every trial of some kernels, the fastest first."""
    records = [(core, record) for core in database.instruction_sets() for record in _load(database, core)]
    found = [(core, record) for core, record in records if options.argument in record.workload.name]
    if not found:
        raise RecordError(f"no record of a kernel with {options.argument!r} in its name; see `mnv2c records list`")
    found.sort(key=lambda one: (one[0], one[1].workload.name, one[1].objective))
    rows = [_trial(core, record) for core, record in found]
    if options.json:
        say_json(rows)
        return 0
    for row in rows:
        times = (
            f"{value:.1f} {row['unit']}{'' if threads == '1' else f' on {threads} threads'}"
            for threads, value in row["times"].items()
        )
        time = ", ".join(times) or "failed"
        say(f"{row['core']}  {row['kernel']}  {row['schedule']}  {time}  {row['origin']}")
    return 0


def _trial(core: str, record: Record) -> dict[str, Any]:
    return {
        "core": core,
        "kernel": record.workload.name,
        "schedule": str(record.schedule),
        "times": {str(threads): in_unit(seconds, record.kind)[0] for threads, seconds in record.seconds.items()},
        "unit": in_unit(0.0, record.kind)[1],
        "origin": str(record.origin),
        "date": record.date,
    }


def _check(database: Database, options: argparse.Namespace) -> int:
    """Whether the best record of every kernel is still a schedule of this version; with ``--compile``, and compiles."""
    failures: list[str] = []
    report = progress()
    checked = 0
    for core in database.instruction_sets():
        target, isa = core_named(core)
        kernels = by_workload(_load(database, core))
        with report.counting(f"{core}: kernel", kernels.items(), total=len(kernels)) as counted:
            for workload, records in counted:
                best = best_record(records, isa, failures.append)
                checked += best is not None
                if best is not None and options.compile:
                    compiled = compile_candidates(workload, [best.schedule], target, isa)
                    reasons = compiled.failures.values()
                    failures += [f"{core}: {workload.name}: {best.schedule}: {why}" for why in reasons]
    if options.json:
        say_json({"checked": checked, "failures": failures})
    else:
        say("\n".join([*failures, f"{checked} kernels' best records replay, {len(failures)} do not"]))
    return 1 if failures else 0


def _prune(database: Database, options: argparse.Namespace) -> int:
    """Keeps of every kernel the best schedules, for each processor and for all, and the rule's beside them, which say
    how much they gain."""
    dropped = 0
    for core in database.instruction_sets():
        _, isa = core_named(core)
        _load(database, core)  # for its complaints: what cannot be read stays
        dropped += database.keep(core, functools.partial(_worth_keeping, isa))
    if options.json:
        say_json({"dropped": dropped})
    else:
        say(f"{dropped} records dropped")
    return 0


def _worth_keeping(isa: InstructionSet, records: Sequence[Record]) -> list[Record]:
    """A processor's own best schedule is, where it gains more than noise over what all take."""
    kept = []
    for workload, trials in by_workload(records).items():
        processors: list[str | None] = [None, *dict.fromkeys(record.processor for record in trials)]
        found = [best_record(trials, isa, lambda complaint: None, processor=processor) for processor in processors]
        best = [record for record in found if record is not None]
        schedules = {device(isa.kind).space(workload, isa)[0], *(record.schedule for record in best[:1])}
        for own in best[1:]:
            same = [one.objective for one in trials if one.origin == own.origin and one.schedule == best[0].schedule]
            if min(same, default=math.inf) * (1 - noise(own)) > own.objective:
                schedules.add(own.schedule)
        origins = {record.origin for record in best}
        kept += [record for record in trials if record.origin in origins and record.schedule in schedules]
    return kept


def _merge(database: Database, options: argparse.Namespace) -> int:
    """Adds another directory's records, those that are not there already."""
    source = Database(_existing(options.argument))
    return _add(database, {isa: _load(source, isa) for isa in source.instruction_sets()}, options)


def _import(database: Database, options: argparse.Namespace) -> int:
    """The same of MetaSchedule's JSON databases, one in the folder of each instruction set."""
    directory = _existing(options.argument)
    found: dict[str, list[Record]] = {}
    for path in sorted(directory.glob(f"*/{export.RECORD_FILE}")):
        _, isa = core_named(path.parent.name)
        loaded = export.read(path.parent, isa.kind)
        for complaint in loaded.complaints:
            note(complaint)
        found[path.parent.name] = list(loaded.records)
    if not found:
        raise RecordError(f"{directory}: no INSTRUCTION-SET/{export.RECORD_FILE} in it")
    return _add(database, found, options)


def _add(database: Database, found: Mapping[str, Sequence[Record]], options: argparse.Namespace) -> int:
    added = 0
    for isa, records in found.items():
        known = {(record.processor, record.line) for record in _load(database, isa)}
        new = [record for record in records if (record.processor, record.line) not in known]
        database.append(isa, new)
        added += len(new)
    if options.json:
        say_json({"added": added})
    else:
        say(f"{added} records added to {database.directory}")
    return 0


def _export(database: Database, options: argparse.Namespace) -> int:
    """MetaSchedule's JSON databases, one in the folder of each instruction set."""
    report, written = progress(), 0
    for core in database.instruction_sets():
        target, isa = core_named(core)
        records = _load(database, core)
        current = [record for record in records if record.schedule in device(isa.kind).space(record.workload, isa)]
        if len(current) < len(records):
            note(f"{len(records) - len(current)} records for {core} no longer replay; left out")
        with report.counting(f"{core}: record", current, total=len(current)) as counted:
            export.write(Path(options.argument) / core, target, isa, counted)
        written += len(current)
    if options.json:
        say_json({"exported": written})
    else:
        say(f"{written} records written to {options.argument}")
    return 0


def _existing(name: str) -> Path:
    directory = Path(name)
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such directory")
    return directory
