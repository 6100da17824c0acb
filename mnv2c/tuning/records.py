"""The database of tuning records: a line of JSON per trial, in files which any number of processes may append to.

``DIR/INSTRUCTION-SET/PROCESSOR.jsonl`` has the trials on one processor, or by the model of one core. A line has a field
named after the workload's family, with the workload's own fields, and those of ``Record``. What is at its default is
left out: so a schedule's field that is added later, with a default, leaves older records as they are.

What comes in: records to keep. What goes out: ``Record`` values; what could not be read is told in words, never
dropped in silence.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from mnv2c.errors import RecordError
from mnv2c.files import read_ordinary
from mnv2c.kernels import device
from mnv2c.kernels.abi import Schedule
from mnv2c.scratch import beside
from mnv2c.targets import Kind, kind_of
from mnv2c.workload_json import from_json, to_json
from mnv2c.workloads import FAMILIES, Workload

MEASURED = "measured"
STATIC_COST = "static cost"
STATIC_HERTZ = 1e9
"""Cycles of ``STATIC_COST`` are kept as seconds at this clock."""
SUFFIX = ".jsonl"
_LOCK = ".lock"
_TEXTS = ("machine", "kind", "date", "tvm")


@dataclass(frozen=True)
class Origin:
    """What makes times comparable: where they come from, for which numbers of ``threads``, under which TVM."""

    processor: str
    machine: str
    kind: str
    tvm: str
    threads: tuple[int, ...] = (1,)

    def __str__(self) -> str:
        threads = f"threads {','.join(map(str, self.threads))}" if self.threads else "failed"
        return f"{self.processor} ({self.machine}); {self.kind}; {threads}; apache-tvm {self.tvm}"


@dataclass(frozen=True)
class Record:
    """One trial.

    ``seconds`` by number of threads, each the mean of its fastest runs; empty where the trial failed. ``processor`` is
    LLVM's name of the one measured on (``znver5``), or of the core modelled (``cortex-a72``); ``machine`` is for
    people: ``AMD EPYC``, or the model's name; ``kind`` is ``MEASURED`` or ``STATIC_COST``; ``date`` is ``2026-11-24``.
    """

    workload: Workload
    schedule: Schedule
    seconds: Mapping[int, float]
    processor: str
    machine: str
    kind: str
    date: str
    tvm: str

    @property
    def failed(self) -> bool:
        return not self.seconds

    @property
    def objective(self) -> float:
        """The mean over the numbers of threads, in seconds: what a search makes small; infinity where it failed."""
        return sum(self.seconds.values()) / len(self.seconds) if self.seconds else math.inf

    @property
    def origin(self) -> Origin:
        return Origin(self.processor, self.machine, self.kind, self.tvm, tuple(self.seconds))

    @property
    def line(self) -> str:
        """As its file has it, without the end of the line: six digits of a time, so that few are the same."""
        family, workload = _named(to_json(self.workload))
        value: dict[str, Any] = {
            family: workload,
            "schedule": _changed(self.schedule),
            "seconds": {str(threads): float(f"{self.seconds[threads]:.6g}") for threads in sorted(self.seconds)},
            "machine": self.machine,
            "kind": self.kind,
            "date": self.date,
            "tvm": self.tvm,
        }
        if self.kind == MEASURED:
            del value["kind"]
        return json.dumps(value, separators=(",", ":"))

    @staticmethod
    def parse(line: str, processor: str, kind: Kind) -> Record:
        """For a kind of device. ValueError, OverflowError or RecursionError for what ``line`` does not write."""
        return _parse(line, processor, kind)


@dataclass(frozen=True)
class Loaded:
    """What was read, a complaint for each thing that could not be, and those lines as they are."""

    records: tuple[Record, ...] = ()
    complaints: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


class Database:
    """The records under one directory, which need not exist yet. ``isa`` is an ``InstructionSet.mcpu``: x86-64-v4."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def instruction_sets(self) -> list[str]:
        """Those that have records."""
        try:
            return sorted({path.parent.name for path in self.directory.glob(f"*/*{SUFFIX}")})
        except OSError as error:
            raise RecordError(f"{self.directory}: cannot be read: {error.strerror}") from error

    def load(self, isa: str) -> Loaded:
        """All records of an instruction set; a line that another version wrote, or a torn one, becomes a complaint."""
        files = [_read(path) for path in self._files(isa)]
        return Loaded(
            tuple(record for file in files for record in file.records),
            tuple(complaint for file in files for complaint in file.complaints),
            tuple(line for file in files for line in file.unread),
        )

    def append(self, isa: str, records: Sequence[Record]) -> None:
        """Adds records, all on the disk when it returns. RecordError where that fails."""
        path = self.directory / isa
        try:
            path.mkdir(parents=True, exist_ok=True)
            with self._locked():
                for processor in dict.fromkeys(record.processor for record in records):
                    path = self._file(isa, processor)
                    _append(path, _text(record.line for record in records if record.processor == processor))
        except OSError as error:
            raise RecordError(f"{path}: the records cannot be written: {error.strerror}") from error

    def keep(self, isa: str, choose: Callable[[Sequence[Record]], Sequence[Record]]) -> int:
        """Drops the records of ``isa`` that ``choose`` does not return, and says how many. What cannot be read stays.

        No other process adds any meanwhile. RecordError where a file cannot be written: then all are as they were.
        """
        if not self._files(isa):
            return 0
        path = self.directory
        try:
            with self._locked(), contextlib.ExitStack() as opened:
                before = {path: _read(path) for path in self._files(isa)}
                records = [record for loaded in before.values() for record in loaded.records]
                kept = choose(records)
                partials = {path: opened.enter_context(beside(path)) for path in before}
                for path, partial in partials.items():
                    lines = (record.line for record in kept if record.processor == path.stem)
                    partial.write_text(_text([*before[path].unread, *lines]), encoding="utf-8")
                for path, partial in partials.items():
                    partial.replace(path)
        except OSError as error:
            raise RecordError(f"{path}: cannot be written: {error.strerror}") from error
        return len(records) - len(kept)

    def _files(self, isa: str) -> list[Path]:
        try:
            return sorted((self.directory / isa).glob(f"*{SUFFIX}"))
        except OSError as error:
            raise RecordError(f"{self.directory / isa}: cannot be read: {error.strerror}") from error

    def _file(self, isa: str, processor: str) -> Path:
        if not re.fullmatch(r"\w[\w.+-]*", processor):
            raise RecordError(f"{processor!r} is no name of a processor: letters, digits, and + - . _ alone")
        return self.directory / isa / f"{processor}{SUFFIX}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; whoever held the lock and died has let go of it."""
        with (self.directory / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def in_unit(seconds: float, kind: str) -> tuple[float, str]:
    """A time for people, with its unit: what a model estimates are cycles of no particular clock."""
    return (seconds * 1e6, "us") if kind == MEASURED else (seconds * STATIC_HERTZ / 1e3, "kcycles")


def by_workload(records: Iterable[Record]) -> dict[Workload, list[Record]]:
    """The records of each."""
    found: dict[Workload, list[Record]] = {}
    for record in records:
        found.setdefault(record.workload, []).append(record)
    return found


def _read(path: Path) -> Loaded:
    """One file; the end of a write that was cut off is no line."""
    try:
        *lines, rest = read_ordinary(path).split(b"\n")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    records: list[Record] = []
    complaints: list[str] = []
    unread: list[str] = []
    for number, raw in enumerate(lines, 1):
        line = raw.decode("utf-8", errors="replace")
        try:
            records.append(Record.parse(line, path.stem, kind_of(path.parent.name)))
        except (ValueError, OverflowError, RecursionError) as error:
            unread.append(line)
            reason = " ".join(str(error).split())[:80]
            complaints.append(f"{path}:{number}: not a record this version reads ({reason})")
    if rest:
        complaints.append(f"{path}:{len(lines) + 1}: the last line is cut short; dropped")
    return Loaded(tuple(records), tuple(complaints), tuple(unread))


def _parse(line: str, processor: str, kind: Kind) -> Record:
    """ValueError for anything that ``Record.line`` does not write."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    value = {"kind": MEASURED} | value
    family = next((name for name in value if name in FAMILIES), None)
    if family is None:
        raise ValueError(f"no family of kernels among {', '.join(value)}")
    unknown = value.keys() - {family, "schedule", "seconds", *_TEXTS}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)}")
    workload = from_json({**_object(value, family), "family": family})
    texts = {name: _string(value, name) for name in _TEXTS}
    if texts["kind"] not in (MEASURED, STATIC_COST):
        raise ValueError(f"kind: {texts['kind']!r:.40} is neither {MEASURED} nor {STATIC_COST}")
    schedule = parse_schedule(kind, workload, _object(value, "schedule"))
    return Record(workload, schedule, _seconds(_object(value, "seconds")), processor, **texts)


def parse_schedule(device_kind: Kind, workload: Workload, values: Mapping[str, Any]) -> Schedule:
    """A schedule of the workload's family with these fields, by name. ValueError where some are missing, unknown, or of
    another type.

    Whether it is one that the workload's space has is not said.
    """
    kind = device(device_kind).schedule_class(workload)
    known = {field.name: field for field in fields(kind)}
    unknown = values.keys() - known.keys()
    if unknown:
        raise ValueError(f"schedule: unknown field {min(unknown)}")
    missing = [name for name, field in known.items() if name not in values and field.default is MISSING]
    if missing:
        raise ValueError(f"schedule: no field {missing[0]}")
    for name, item in values.items():
        if type(item).__name__ != known[name].type:
            raise ValueError(f"schedule: {name}: {item!r:.40} is no {known[name].type}")
    return kind(**values)


_LEAST, _MOST = 1e-9, 1e6  # seconds that one run of a kernel may take


def _seconds(values: Mapping[str, Any]) -> dict[int, float]:
    for threads, seconds in values.items():
        if not re.fullmatch(r"[1-9][0-9]{0,5}", threads):
            raise ValueError(f"seconds: {threads!r:.40} is no number of threads")
        if type(seconds) not in (int, float) or not _LEAST <= seconds <= _MOST:
            raise ValueError(f"seconds: {seconds!r:.40} is no time")
    return dict(sorted((int(threads), float(seconds)) for threads, seconds in values.items()))


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    item = value.get(name)
    if not isinstance(item, dict):
        raise ValueError(f"no field {name}" if item is None else f"{name}: {item!r:.40} is no JSON object")
    return item


def _string(value: Mapping[str, Any], name: str) -> str:
    item = value.get(name)
    if not isinstance(item, str):
        raise ValueError(f"no field {name}" if item is None else f"{name}: {item!r:.40} is no text")
    return item


def _named(workload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return workload.pop("family"), workload


def _changed(schedule: Schedule) -> dict[str, Any]:
    """Its fields that are not at their defaults."""
    values = {field.name: (getattr(schedule, field.name), field.default) for field in fields(schedule)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _text(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _append(path: Path, text: str) -> None:
    """``text`` at the end, on the disk; what a writer that died left of a line is cut off first."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if size and file.read() != b"\n":
            file.seek(0)
            size = file.read().rfind(b"\n") + 1
            file.truncate(size)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
