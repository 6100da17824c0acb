"""Compiles candidates, guarded: what crashes the compiler or never ends costs one trial.

What comes in: scheduled PrimFuncs of one workload for one instruction set, or what makes them. What goes out:
``Compiled``: one object with all that compiled, and why the others did not. The work is done in a fork of this process.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvm import tirx

from mnv2c.forked import CrashError, in_fork
from mnv2c.kernels import device
from mnv2c.kernels.abi import KernelCode, Launch, Schedule
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload

_SECONDS = 60  # for a batch, and for each of its candidates where that is not enough: one takes 0.05 to 2 s


@dataclass(frozen=True)
class Compiled:
    """``object`` is empty where nothing compiled. ``kernels`` and ``failures`` are by the candidates' numbers."""

    object: bytes
    kernels: Mapping[int, KernelCode]
    failures: Mapping[int, str]


def compile_candidates(
    workload: Workload, schedules: Sequence[Schedule], target: Target, isa: InstructionSet
) -> Compiled:
    """The workload under each of ``schedules``."""
    return compile_functions(
        [functools.partial(device(isa.kind).scheduled, workload, one) for one in schedules], target, isa
    )


def compile_functions(
    functions: Sequence[Callable[[], tirx.PrimFunc]], target: Target, isa: InstructionSet
) -> Compiled:
    """All of ``functions`` in one go; where that fails, one by one, to find out which."""
    return _compile_some(dict(enumerate(functions)), target, isa)


def _compile_some(
    functions: Mapping[int, Callable[[], tirx.PrimFunc]], target: Target, isa: InstructionSet
) -> Compiled:
    try:
        return _unpack(in_fork(lambda: _compile(functions, target, isa), seconds=_SECONDS))
    except CrashError as error:
        reason = str(error)
    if len(functions) == 1:
        return Compiled(b"", {}, dict.fromkeys(functions, reason))
    failures: dict[int, str] = {}
    for number, function in functions.items():
        failures |= _compile_some({number: function}, target, isa).failures
    good = {number: function for number, function in functions.items() if number not in failures}
    if not good or len(good) == len(functions):
        return Compiled(b"", {}, failures or dict.fromkeys(functions, reason))
    rest = _compile_some(good, target, isa)
    return Compiled(rest.object, rest.kernels, {**failures, **rest.failures})


def _compile(functions: Mapping[int, Callable[[], tirx.PrimFunc]], target: Target, isa: InstructionSet) -> bytes:
    """What ``_unpack`` reads: a line of JSON, and the object. A function that TVM cannot make or lower is a failure."""
    kernels, lowered, failures = device(isa.kind), {}, {}
    for number, function in functions.items():
        symbol = f"candidate{number}"
        try:
            lowered[symbol] = kernels.lower(function(), symbol, target)
        except Exception as error:  # TVM raises many kinds
            failures[number] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    numbers = [number for number in functions if number not in failures]
    object_, codes = kernels.build(lowered, target, isa) if lowered else (b"", ())
    found = [(number, asdict(code)) for number, code in zip(numbers, codes, strict=True)]
    return json.dumps([found, list(failures.items())]).encode() + b"\n" + object_


def _unpack(content: bytes) -> Compiled:
    head, _, object_ = content.partition(b"\n")
    found, failures = json.loads(head)
    return Compiled(object_, {number: _code(**fields) for number, fields in found}, dict(failures))


def _code(launch: dict[str, Any] | None, **fields: Any) -> KernelCode:
    if launch is None:
        return KernelCode(**fields)
    grid, block, operands = (tuple(launch[name]) for name in ("grid", "block", "operands"))
    return KernelCode(**fields, launch=Launch(grid, block, operands))
