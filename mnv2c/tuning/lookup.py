"""What a build takes from the records: the schedule of each kernel, and where it came from.

What comes in: a database. What goes out: ``choose(workload, isa)``: the best record of that very workload; else, in
bands, that of the same layer's whole map; else the nearest record of its family, its parameters fitted; else the
family's rule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mnv2c.ir.graph import Padding
from mnv2c.kernels import device
from mnv2c.kernels.abi import Choice, Choose, Schedule
from mnv2c.targets import InstructionSet
from mnv2c.tuning.records import MEASURED, Database, Record, by_workload
from mnv2c.workloads import Workload

_NEAR = 3.0  # doublings, over all extents together, that a record is still worth following
_FITS = 1.0  # the same, over a schedule's parameters
_NOISE = 0.03
"""A gain that timings of single kernels do not tell from none: schedules picked for less made the network slower on a
shared Zen 3."""


def by_rule(workload: Workload, isa: InstructionSet) -> Choice:
    """Untuned."""
    return Choice(_space(workload, isa)[0], "rule")


def from_records(
    directory: Path,
    instruction_sets: Iterable[InstructionSet],
    complain: Callable[[str], None],
    *,
    processor: str | None = None,
) -> Choose:
    """``complain`` is told of every line that cannot be read, and of a kernel's records that no longer replay.

    ``processor`` is the one that the library is for; None where it is for everyone.
    """
    database = Database(directory)
    records: dict[str, dict[Workload, list[Record]]] = {}
    for isa in instruction_sets:
        loaded = database.load(isa.mcpu)
        for complaint in loaded.complaints:
            complain(complaint)
        records[isa.mcpu] = by_workload(loaded.records)

    @functools.cache
    def best(workload: Workload, isa: InstructionSet) -> Record | None:
        return best_record(records[isa.mcpu].get(workload, ()), isa, complain, processor=processor)

    def choose(workload: Workload, isa: InstructionSet) -> Choice:
        record = best(workload, isa)
        if record is not None:
            return Choice(record.schedule, "exact")
        wholes = (best(other, isa) for other in records[isa.mcpu] if _is_whole_of(workload, other))
        candidates = _space(workload, isa)
        for whole in wholes:
            if whole is not None and (schedule := _with_tasks_of(candidates[0], whole.schedule)) in candidates:
                return Choice(schedule, "transferred")
        near = (best(other, isa) for other in _nearest(workload, records[isa.mcpu]))
        schedules = (_fit(workload, isa, record) for record in near if record is not None)
        schedule = next((schedule for schedule in schedules if schedule is not None), None)
        return by_rule(workload, isa) if schedule is None else Choice(schedule, "transferred")

    return choose


def best_record(
    records: Sequence[Record],
    isa: InstructionSet,
    complain: Callable[[str], None],
    *,
    processor: str | None = None,
) -> Record | None:
    """Of one workload's records that can still be scheduled by, the one to follow; None where there is none.

    Where ``processor`` has records of its own, only those count; what was measured goes before what was estimated.
    Times of different origins cannot be compared; what each gains over the rule's there can. A schedule is as good as
    its gain on that processor where it gains least, of those that tried it; the best such schedule is taken, and of
    its records the one from there. Where that gains no more than ``noise`` the rule's is.
    """
    good = [record for record in records if not record.failed]
    if not good:
        return None
    workload, known = good[0].workload, _space(good[0].workload, isa)
    usable = set(known)
    stale = [record for record in good if record.schedule not in usable]
    if stale:
        what = f"{len(stale)} records of {workload.name} for {isa.mcpu}"
        complain(f"{what} no longer replay, such as {stale[0].schedule}; ignored")
    rules = {record.origin: record.objective for record in good if record.schedule == known[0]}
    good = [record for record in good if record.schedule in usable]
    good = [record for record in good if record.processor == processor] or good
    good = [record for record in good if record.kind == MEASURED] or good

    def rank(record: Record) -> tuple[float, float]:
        return record.objective / rules.get(record.origin, record.objective), record.objective

    best_there: dict[Schedule, dict[str, Record]] = {}
    for record in sorted(good, key=rank, reverse=True):
        best_there.setdefault(record.schedule, {})[record.processor] = record
    worst = [max(processors.values(), key=rank) for processors in best_there.values()]
    best = min(worst, key=rank, default=None)
    untuned = [record for record in worst if record.schedule == known[0]]
    return untuned[0] if best is not None and untuned and rank(best)[0] > 1 - noise(best) else best


def noise(record: Record) -> float:
    """The share of its time that says nothing: a model's estimates repeat exactly."""
    return _NOISE if record.kind == MEASURED else 0.0


def _space(workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
    return device(isa.kind).space(workload, isa)


def _is_whole_of(workload: Workload, other: Workload) -> bool:
    """Whether ``workload`` is what ``other`` is for whole maps, in bands: row by row the same loops."""
    if type(other) is not type(workload) or not getattr(workload, "band", 0):
        return False
    of_bands = {name: getattr(workload, name) for name in ("band", "border", "rows", "ring") if hasattr(workload, name)}
    return replace(other, **of_bands) == workload


def _with_tasks_of(in_bands: Schedule, whole: Schedule) -> Schedule:
    """The register tile of ``whole``; how much a task is, bands decide."""
    tasks = {name: getattr(in_bands, name) for name in ("strip", "weights_outer", "band") if hasattr(whole, name)}
    return replace(whole, **tasks)


def _nearest(workload: Workload, others: Iterable[Workload]) -> list[Workload]:
    """Those of its family that are near enough, the nearest first."""
    distances = {other: _distance(workload, other) for other in others if type(other) is type(workload)}
    return sorted((other for other in distances if distances[other] <= _NEAR), key=lambda other: distances[other])


def _fit(workload: Workload, isa: InstructionSet, record: Record) -> Schedule | None:
    """The record's parameters where they divide ``workload``, the rule's where that won there; else None."""
    candidates = _space(workload, isa)
    if record.schedule == _space(record.workload, isa)[0]:
        return candidates[0]
    if type(record.schedule) is not type(candidates[0]):
        return None  # the one on tensor cores, the other not
    fitted = min(candidates, key=lambda candidate: _distance(candidate, record.schedule))
    return fitted if _distance(fitted, record.schedule) <= _FITS else None


def _distance(one: Any, other: Any) -> float:
    """How many doublings lie between two values of one dataclass; far where they differ in kind."""
    return sum(_apart(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def _apart(one: Any, other: Any) -> float:
    if one == other:
        return 0.0
    if isinstance(one, Padding):
        return 0.5 if bool(one) == bool(other) else 2 * _NEAR
    if isinstance(one, bool) or (isinstance(one, tuple) and one and other) or 0 in (one, other):
        return 0.5  # a shortcut or none, another mean or scale, in bands or not: the same loops
    if isinstance(one, int) and isinstance(other, int):
        return abs(math.log2(one / other))
    return 0.5 if {one, other} <= {None, "relu6", "relu"} else 2 * _NEAR
