"""The database of tuning records: files in MetaSchedule's JSON format, which any number of processes may append to.

``DIR/database_workload.json`` has a line per workload, for all cores; ``DIR/CORE/database_tuning_record.json`` a line
per trial on that core. Both are what ``meta_schedule.database.JSONDatabase`` reads. A trial's target has what else is
known of it as its ``model``: the machine, how it was measured, TVM's version.

What comes in: trials to keep. What goes out: ``Record`` values; what could not be read is told in words, never
dropped in silence.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tvm.s_tir import meta_schedule as ms

from mnv2c.errors import RecordError
from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.device import SCHEDULES
from mnv2c.kernels.cpu.lower import tvm_target
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.space import module, sampled_values, traced
from mnv2c.workloads import Workload, from_json

WORKLOAD_FILE = "database_workload.json"
RECORD_FILE = "database_tuning_record.json"
FAILED = 1e10  # seconds: MetaSchedule's mark of a trial that failed
MEASURED = "measured"
_LOCK = ".lock"
_PLACES = ("ir.Span", "ir.SequentialSpan", "ir.SourceName")
_LENGTH = 8  # bytes of a module's length before it, as TVM writes strings


@dataclass(frozen=True)
class Origin:
    """Where a trial's time comes from: ``measured`` on ``machine``, or a ``static cost``; under which TVM."""

    machine: str
    kind: str
    tvm: str

    def __str__(self) -> str:
        return f"{self.machine}; {self.kind}; apache-tvm {self.tvm}"

    @staticmethod
    def parse(text: str) -> Origin:
        machine, kind, tvm = text.split("; ")
        return Origin(machine, kind, tvm.removeprefix("apache-tvm "))


@dataclass(frozen=True)
class Record:
    """One trial: ``seconds`` are its fastest runs, sorted; empty where it failed."""

    core: str
    workload: Workload
    schedule: Schedule
    seconds: tuple[float, ...]
    origin: Origin
    line: str

    @property
    def content(self) -> str:
        """Its line without the number of the workload, which is another in every database."""
        return self.line.partition(",")[2]

    @property
    def content_json(self) -> Any:
        """For ``Database.append``."""
        return json.loads(self.line)[1]

    @property
    def failed(self) -> bool:
        return not self.seconds

    @property
    def spread(self) -> float:
        """How far its slowest run is from the fastest."""
        return spread(self.seconds)

    @property
    def best(self) -> float:
        """The mean of the fastest runs, which MetaSchedule ranks by."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else FAILED


@dataclass(frozen=True)
class Loaded:
    """What was read, a complaint for each thing that could not be, and those lines of the core as they are."""

    records: tuple[Record, ...]
    complaints: tuple[str, ...]
    unread: tuple[str, ...]


class Database:
    """The records under one directory, which need not exist yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: dict[str, Workload | None] = {}

    def cores(self) -> list[str]:
        """Those that have records."""
        try:
            return sorted(path.parent.name for path in self.directory.glob(f"*/{RECORD_FILE}"))
        except OSError as error:
            raise RecordError(f"{self.directory}: cannot be read: {error.strerror}") from error

    def load(self, core: str) -> Loaded:
        """All records of ``core``; a line that another version wrote, or a torn one, becomes a complaint."""
        complaints: list[str] = []
        workloads = [
            self._read_workload(line, number, complaints) for number, line in self._lines(WORKLOAD_FILE, complaints)
        ]
        records, unread = [], []
        for number, line in self._lines(f"{core}/{RECORD_FILE}", complaints):
            try:
                records.append(_read_record(core, line, workloads))
            except (ValueError, TypeError, KeyError, IndexError) as error:
                unread.append(line)
                reason = " ".join(str(error).split())[:80]
                complaints.append(
                    f"{self.directory / core / RECORD_FILE}:{number}: not a record this version reads ({reason})"
                )
        return Loaded(tuple(records), tuple(complaints), tuple(unread))

    def append(self, core: str, lines: Sequence[tuple[Workload, Any]]) -> None:
        """Adds trials (``record_json``) of workloads, all on the disk when it returns. RecordError where that fails."""
        path = self.directory / core / RECORD_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                numbers = self._number_workloads([workload for workload, _ in lines])
                text = "".join(
                    json.dumps([numbers[workload], record], separators=(",", ":")) + "\n" for workload, record in lines
                )
                _append(path, text)
        except OSError as error:
            raise RecordError(f"{path}: the records cannot be written: {error.strerror}") from error

    def keep(self, core: str, choose: Callable[[Sequence[Record]], Sequence[Record]]) -> int:
        """Drops the records of ``core`` that ``choose`` does not return, and says how many. What cannot be read stays.

        No other process adds any meanwhile. RecordError where the file cannot be written: then it is as it was.
        """
        path = self.directory / core / RECORD_FILE
        if not path.exists():
            return 0
        try:
            with self._locked():
                loaded = self.load(core)
                kept = choose(loaded.records)
                partial = path.with_suffix(f".{os.getpid()}.partial")
                try:
                    lines = [*loaded.unread, *(record.line for record in kept)]
                    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(f"{path}: cannot be written: {error.strerror}") from error
        return len(loaded.records) - len(kept)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; whoever held the lock and died has let go of it."""
        with (self.directory / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lines(self, name: str, complaints: list[str]) -> Iterator[tuple[int, str]]:
        """The whole lines of a file, numbered from 1; the end of a write that was cut off is not one."""
        path = self.directory / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
        *lines, rest = content.split(b"\n")
        if rest:
            complaints.append(f"{path}:{len(lines) + 1}: the last line is cut short; dropped")
        for number, line in enumerate(lines, 1):
            yield number, line.decode("utf-8", errors="replace")

    def _read_workload(self, line: str, number: int, complaints: list[str]) -> Workload | None:
        """Its line is long, and read again for every batch: kept in memory."""
        if line not in self._read:
            try:
                self._read[line] = _workload_of(json.loads(line)[1])
            except (ValueError, TypeError, KeyError, IndexError, StopIteration):
                self._read[line] = None
        if self._read[line] is None:
            complaints.append(f"{self.directory / WORKLOAD_FILE}:{number}: not a workload this version reads")
        return self._read[line]

    def _number_workloads(self, workloads: Iterable[Workload]) -> dict[Workload, int]:
        """Every workload's line, counted from 0; those that have none get one."""
        ignored: list[str] = []
        known = [self._read_workload(line, number, ignored) for number, line in self._lines(WORKLOAD_FILE, ignored)]
        numbers = {workload: index for index, workload in enumerate(known) if workload is not None}
        new = [workload for workload in dict.fromkeys(workloads) if workload not in numbers]
        _append(self.directory / WORKLOAD_FILE, "".join(_workload_line(workload) + "\n" for workload in new))
        return numbers | {workload: len(known) + index for index, workload in enumerate(new)}


def by_workload(records: Iterable[Record]) -> dict[Workload, list[Record]]:
    """The records of each."""
    found: dict[Workload, list[Record]] = {}
    for record in records:
        found.setdefault(record.workload, []).append(record)
    return found


def spread(seconds: Sequence[float]) -> float:
    """How far the slowest of some sorted runs is from the fastest."""
    return seconds[-1] / seconds[0] - 1 if seconds else 0.0


def record_json(
    workload: Workload,
    schedule: Schedule,
    *,
    target: Target,
    isa: InstructionSet,
    seconds: Sequence[float],
    origin: Origin,
) -> Any:
    """MetaSchedule's TuningRecord as JSON; no ``seconds`` for a trial that failed."""
    full = tvm_target(target, isa, model=str(origin))
    arguments = ms.arg_info.ArgInfo.from_prim_func(module(workload)["main"])
    trace = traced(workload, isa, schedule).trace
    record = ms.database.TuningRecord(
        trace, ms.database.Workload(module(workload)), list(seconds) or [FAILED], full, arguments
    )
    return _plain(record.as_json())


def _read_record(core: str, line: str, workloads: Sequence[Workload | None]) -> Record:
    index, (trace, seconds, target, _) = json.loads(line)
    workload = workloads[index] if 0 <= index < len(workloads) else None
    if workload is None:
        raise ValueError(f"workload {index} cannot be read")
    values = sampled_values(trace)
    kind = SCHEDULES[workload.family]
    parameters = fields(kind)
    if len(values) != len(parameters):
        raise ValueError(f"{workload.name}: {len(values)} parameters, {len(parameters)} expected")
    schedule = kind(
        **{f.name: bool(value) if f.type == "bool" else value for f, value in zip(parameters, values, strict=True)}
    )
    good = tuple(sorted(float(second) for second in seconds if float(second) < FAILED))
    return Record(core, workload, schedule, good, Origin.parse(target["model"]), line)


def _workload_line(workload: Workload) -> str:
    """MetaSchedule's Workload as JSON, its module's JSON without spaces, and without places in our sources."""
    digest, module_text = ms.database.Workload(module(workload)).as_json()
    graph = json.loads(base64.b64decode(module_text)[_LENGTH:])
    graph["nodes"] = [{"type": "None"} if node["type"] in _PLACES else node for node in graph["nodes"]]
    text = json.dumps(graph, separators=(",", ":")).encode()
    packed = len(text).to_bytes(_LENGTH, "little") + text
    return json.dumps([str(digest), base64.b64encode(packed).decode()], separators=(",", ":"))


def _workload_of(module_text: str) -> Workload:
    raw = base64.b64decode(module_text, validate=True)
    nodes = json.loads(raw[_LENGTH:])["nodes"]
    texts = (node["data"] for node in nodes if node["type"] == "ffi.String")
    return from_json(json.loads(next(text for text in texts if text.startswith('{"family":'))))


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


def _plain(value: Any) -> Any:
    """TVM's containers and numbers as Python's."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return int(value) if float(value) == int(value) else float(value)
