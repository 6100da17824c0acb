"""``mnv2c records``: what tuning has found, and how to keep it in order."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2c.commands import UsageError, say, say_json
from mnv2c.driver import SCHEDULES
from mnv2c.errors import RecordError

if TYPE_CHECKING:
    from mnv2c.kernels import Workload
    from mnv2c.tuning.records import Database, Record


def command(options: argparse.Namespace) -> int:
    """One of list, show, check, prune, merge."""
    from mnv2c.tuning.records import Database

    directory = options.schedules or SCHEDULES
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such directory; `mnv2c tune` makes one")
    if (options.argument is None) == (options.action in ("show", "merge")):
        wanted = {"show": "a KERNEL, or a part of its name", "merge": "a DIR"}.get(options.action, "nothing else")
        raise UsageError(f"records {options.action} takes {wanted}")
    database = Database(directory)
    if options.action == "merge":
        return _merge(database, Path(options.argument), options)
    loaded = {core: _load(database, core) for core in database.cores()}
    if options.action == "list":
        return _list(loaded, options)
    if options.action == "show":
        return _show(loaded, options)
    return _check(loaded, options) if options.action == "check" else _prune(database, loaded, options)


def _load(database: Database, core: str) -> list[Record]:
    loaded = database.load(core)
    for complaint in loaded.complaints:
        print(f"mnv2c: note: {complaint}", file=sys.stderr)
    return list(loaded.records)


def _list(loaded: dict[str, list[Record]], options: argparse.Namespace) -> int:
    """A line per kernel: its trials and the best of them."""
    rows = [
        {
            "core": core,
            "kernel": work.name,
            "trials": len(records),
            "failed": sum(record.failed for record in records),
            **_best_row(core, records),
        }
        for core, all_records in loaded.items()
        for work, records in _by_work(all_records).items()
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


def _show(loaded: dict[str, list[Record]], options: argparse.Namespace) -> int:
    """Every trial of some kernels, the fastest first."""
    found = [record for records in loaded.values() for record in records if options.argument in record.work.name]
    if not found:
        raise RecordError(f"no record of a kernel with {options.argument!r} in its name; see `mnv2c records list`")
    found.sort(key=lambda record: (record.core, record.work.name, record.best))
    rows = [{"core": r.core, "kernel": r.work.name, "how": str(r.how), **_times(r)} for r in found]
    if options.json:
        say_json(rows)
        return 0
    for row in rows:
        time = "failed" if row["best_us"] is None else f"{row['best_us']:.1f} us, spread {row['spread']:.1%}"
        say(f"{row['core']}  {row['kernel']}  {row['how']}  {time}  {row['origin']}")
    return 0


def _check(loaded: dict[str, list[Record]], options: argparse.Namespace) -> int:
    """Whether the best record of every kernel is still a schedule of this version, and compiles."""
    from mnv2c.tuning.compile import compile_candidates
    from mnv2c.tuning.cores import core_named

    failures, checked = [], 0
    for core, all_records in loaded.items():
        target, cpu = core_named(core)
        for work, records in _by_work(all_records).items():
            best, complaints = _usable(work, core, records)
            failures += complaints
            if best is not None:
                checked += 1
                compiled = compile_candidates(work, [best.how], target, cpu)
                failures += [f"{core}: {work.name}: {best.how}: {why}" for why in compiled.failures.values()]
    if options.json:
        say_json({"checked": checked, "failures": failures})
    else:
        say("\n".join([*failures, f"{checked} kernels' best records replay, {len(failures)} do not"]))
    return 1 if failures else 0


def _prune(database: Database, loaded: dict[str, list[Record]], options: argparse.Namespace) -> int:
    """Keeps of every kernel the best record and the rule's, which says how much it gains."""
    from mnv2c.kernels import space
    from mnv2c.tuning.cores import core_named

    dropped = 0
    for core, all_records in loaded.items():
        kept = []
        _, cpu = core_named(core)
        for work, records in _by_work(all_records).items():
            best, _ = _usable(work, core, records)
            if best is not None:
                rule = space(work, cpu)[0]
                kept += [
                    r for r in records if r is best or (r.how == rule and r.origin == best.origin and not r.failed)
                ]
        dropped += len(all_records) - len(kept)
        database.replace(core, kept)
    if options.json:
        say_json({"dropped": dropped})
    else:
        say(f"{dropped} records dropped")
    return 0


def _merge(database: Database, other: Path, options: argparse.Namespace) -> int:
    """Adds another directory's records, those that are not there already."""
    from mnv2c.tuning.records import Database

    if not other.is_dir():
        raise RecordError(f"{other}: no such directory")
    source = Database(other)
    added = 0
    for core in source.cores():
        known = {record.content for record in _load(database, core)}
        new = [record for record in _load(source, core) if record.content not in known]
        database.append(core, [(record.work, record.content_json) for record in new])
        added += len(new)
    if options.json:
        say_json({"added": added})
    else:
        say(f"{added} records added to {database.directory}")
    return 0


def _by_work(records: Sequence[Record]) -> dict[Workload, list[Record]]:
    found: dict[Workload, list[Record]] = {}
    for record in records:
        found.setdefault(record.work, []).append(record)
    return found


def _usable(work: Workload, core: str, records: Sequence[Record]) -> tuple[Record | None, list[str]]:
    """What a build would take, and the complaints about the others."""
    from mnv2c.tuning.cores import core_named
    from mnv2c.tuning.lookup import best_records

    complaints: list[str] = []
    return best_records(records, core_named(core)[1], complaints.append).get(work), complaints


def _best_row(core: str, records: Sequence[Record]) -> dict[str, Any]:
    """The best time, and how much it gains over the rule's under the same origin."""
    from mnv2c.kernels import space
    from mnv2c.tuning.cores import core_named

    work = records[0].work
    best, _ = _usable(work, core, records)
    if best is None:
        return {"best_us": None, "gain": None, "how": None, "origin": str(records[-1].origin)}
    rule = space(work, core_named(core)[1])[0]
    rules = [record.best for record in records if record.how == rule and record.origin == best.origin]
    gain = min(rules, default=best.best) / best.best
    return {"best_us": best.best * 1e6, "gain": gain, "how": str(best.how), "origin": str(best.origin)}


def _times(record: Record) -> dict[str, Any]:
    return {
        "best_us": None if record.failed else record.best * 1e6,
        "spread": record.spread,
        "origin": str(record.origin),
    }
