"""What a build takes from the records: the schedule of each kernel, and where it came from.

What comes in: a database. What goes out: ``choose(workload, cpu)``: the best record of that very workload; else the
nearest record of its family, its parameters fitted; else the family's rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mnv2c.ir import Padding
from mnv2c.kernels import How, Workload, space
from mnv2c.targets import Cpu
from mnv2c.tuning.records import MEASURED, Database, Record

_NEAR = 3.0  # doublings, over all extents together, that a record is still worth following
_FITS = 1.0  # the same, over a schedule's parameters


@dataclass(frozen=True)
class Choice:
    """A schedule, and whose opinion it is."""

    how: How
    origin: Literal["exact", "transferred", "rule"]


Choose = Callable[[Workload, Cpu], Choice]


def by_rule(work: Workload, cpu: Cpu) -> Choice:
    """Untuned."""
    return Choice(space(work, cpu)[0], "rule")


def from_records(directory: Path, cpus: Iterable[Cpu], complain: Callable[[str], None]) -> Choose:
    """``complain`` hears of every record that cannot be used."""
    database = Database(directory)
    best: dict[str, dict[Workload, Record]] = {}
    for cpu in cpus:
        loaded = database.load(cpu.mcpu)
        for complaint in loaded.complaints:
            complain(complaint)
        best[cpu.mcpu] = best_records(loaded.records, cpu, complain)

    def choose(work: Workload, cpu: Cpu) -> Choice:
        records = best[cpu.mcpu]
        if work in records:
            return Choice(records[work].how, "exact")
        how = _transfer(work, cpu, records)
        return by_rule(work, cpu) if how is None else Choice(how, "transferred")

    return choose


def best_record(records: Sequence[Record], rule: How) -> Record | None:
    """The one that gains most over the rule where it was tried; what was measured goes before what was estimated.

    Times of different machines cannot be compared; what each gains over the rule's choice on its machine can.
    """
    rules = {record.origin: record.best for record in records if record.how == rule and not record.failed}

    def rank(record: Record) -> tuple[bool, float, float]:
        rule_seconds = rules.get(record.origin, record.best)
        return record.origin.kind != MEASURED, record.best / rule_seconds, record.best

    return min((record for record in records if not record.failed), key=rank, default=None)


def best_records(records: Sequence[Record], cpu: Cpu, complain: Callable[[str], None]) -> dict[Workload, Record]:
    """The best record of every workload that the kernels of this version can still be scheduled by."""
    by_work: dict[Workload, list[Record]] = {}
    for record in records:
        by_work.setdefault(record.work, []).append(record)
    found = {}
    for work, candidates in by_work.items():
        known = set(space(work, cpu))
        stale = [record for record in candidates if record.how not in known]
        if stale:
            complain(
                f"{len(stale)} records of {work.name} for {cpu.mcpu} no longer replay, such as {stale[0].how}; ignored"
            )
        best = best_record([record for record in candidates if record.how in known], space(work, cpu)[0])
        if best is not None:
            found[work] = best
    return found


def _transfer(work: Workload, cpu: Cpu, records: dict[Workload, Record]) -> How | None:
    """The parameters of the nearest workload, where they divide; the rule's where the rule won there."""
    near = sorted(
        (distance, other.name, other)
        for other in records
        if type(other) is type(work) and (distance := _distance(work, other)) <= _NEAR
    )
    for _, _, other in near:
        candidates = space(work, cpu)
        how = records[other].how
        if how == space(other, cpu)[0]:
            return candidates[0]
        fitted = min(candidates, key=lambda candidate: _distance(candidate, how))
        if _distance(fitted, how) <= _FITS:
            return fitted
    return None


def _distance(one: Any, other: Any) -> float:
    """How many doublings lie between two values of one dataclass; far where they differ in kind."""
    return sum(_apart(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def _apart(one: Any, other: Any) -> float:
    if one == other:
        return 0.0
    if isinstance(one, Padding):
        return 0.5 if (one == Padding()) == (other == Padding()) else 2 * _NEAR
    if isinstance(one, bool):
        return 0.5
    if isinstance(one, tuple) or min(one, other) <= 0:
        return 2 * _NEAR
    return abs(math.log2(one / other))
