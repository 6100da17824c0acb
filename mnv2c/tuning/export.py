"""Tuning records as MetaSchedule's JSON database, and back.

What comes in: records of one instruction set, or a directory with ``database_workload.json`` and
``database_tuning_record.json``, which ``meta_schedule.database.JSONDatabase`` loads. What goes out: the other. The
trace of a record begins with what was sampled, in the order of the schedule's fields; its times are those of each
number of threads; what else is known of it is the ``model`` of its target.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from tvm.s_tir import meta_schedule as ms

from mnv2c.errors import RecordError
from mnv2c.files import read_ordinary
from mnv2c.kernels import device
from mnv2c.targets import InstructionSet, Kind, Target
from mnv2c.tuning.records import Loaded, Record, parse_schedule
from mnv2c.tuning.space import module, sampled_values, traced
from mnv2c.workload_json import from_json
from mnv2c.workloads import Workload

WORKLOAD_FILE = "database_workload.json"
RECORD_FILE = "database_tuning_record.json"
FAILED = 1e10  # seconds: MetaSchedule's mark of a trial that failed
_PLACES = ("ir.Span", "ir.SequentialSpan", "ir.SourceName")
_LENGTH = 8  # bytes of a module's length before it, as TVM writes strings
_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration, OverflowError, RecursionError)


def write(directory: Path, target: Target, isa: InstructionSet, records: Iterable[Record]) -> None:
    """The two files, in place of those that were there. RecordError where that fails; their schedules are in the
    space of their workloads."""
    numbers: dict[Workload, int] = {}
    lines = []
    for record in records:
        number = numbers.setdefault(record.workload, len(numbers))
        lines.append(json.dumps([number, _record_json(record, target, isa)], separators=(",", ":")))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (
            (WORKLOAD_FILE, (_workload_line(workload, isa) for workload in numbers)),
            (RECORD_FILE, lines),
        ):
            (directory / name).write_text("".join(line + "\n" for line in text), encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{directory}: cannot be written: {error.strerror}") from error


def read(directory: Path, kind: Kind) -> Loaded:
    """What ``write`` wrote for devices of a kind, or MetaSchedule on our space; a complaint for each line that is
    neither."""
    workloads: list[Workload | None] = []
    records, complaints, unread = [], [], []
    for number, line in _lines(directory / WORKLOAD_FILE):
        try:
            workloads.append(_workload_of(json.loads(line)[1]))
        except _ERRORS:
            workloads.append(None)
            complaints.append(f"{directory / WORKLOAD_FILE}:{number}: not a workload this version reads")
    for number, line in _lines(directory / RECORD_FILE):
        try:
            records.append(_read_record(line, workloads, kind))
        except _ERRORS as error:
            unread.append(line)
            reason = " ".join(str(error).split())[:80]
            complaints.append(f"{directory / RECORD_FILE}:{number}: not a record this version reads ({reason})")
    return Loaded(tuple(records), tuple(complaints), tuple(unread))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = read_ordinary(path).decode("utf-8", errors="replace")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    return enumerate(text.splitlines(), 1)


def _record_json(record: Record, target: Target, isa: InstructionSet) -> Any:
    computation = module(record.workload, isa)
    origin = (record.processor, record.machine, record.kind, record.date, record.tvm)
    model = "; ".join([*origin, ",".join(map(str, record.seconds))])
    tuned = ms.database.TuningRecord(
        traced(record.workload, isa, record.schedule).trace,
        ms.database.Workload(computation),
        list(record.seconds.values()) or [FAILED],
        device(isa.kind).tvm_target(target, isa, model=model),
        ms.arg_info.ArgInfo.from_prim_func(computation["main"]),
    )
    return _plain(tuned.as_json())


def _read_record(line: str, workloads: list[Workload | None], kind: Kind) -> Record:
    index, (trace, seconds, target, _) = json.loads(line)
    workload = workloads[index] if 0 <= index < len(workloads) else None
    if workload is None:
        raise ValueError(f"workload {index} cannot be read")
    parameters = fields(device(kind).schedule_class(workload))
    values = [
        bool(value) if field.type == "bool" else value
        for field, value in zip(parameters, sampled_values(trace), strict=True)
    ]
    names = [field.name for field in parameters]
    schedule = parse_schedule(kind, workload, dict(zip(names, values, strict=True)))
    processor, *machine, how, date, tvm, threads = target["model"].split(
        "; "
    )  # machines are called all sorts of things
    numbers = [int(number) for number in threads.split(",")] if threads else []
    times = {} if not numbers else dict(zip(numbers, map(float, seconds), strict=True))
    record = Record(workload, schedule, times, processor, "; ".join(machine), how, date, tvm)
    return Record.parse(record.line, processor, kind)


def _workload_line(workload: Workload, isa: InstructionSet) -> str:
    """MetaSchedule's Workload as JSON, its module's JSON without spaces, and without places in our sources."""
    digest, module_text = ms.database.Workload(module(workload, isa)).as_json()
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


def _plain(value: Any) -> Any:
    """TVM's containers and numbers as Python's."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return int(value) if float(value) == int(value) else float(value)
