"""Compiles candidates, guarded: what crashes the compiler costs one trial.

What comes in: schedules of one workload for one CPU. What goes out: ``Compiled``: one object with all that compiled,
and why the others did not. The work is done in a fork of this process, so that TVM is there at once, and one crash is
not ours.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from mnv2c.errors import ToolError
from mnv2c.kernels import How, Workload, scheduled
from mnv2c.kernels.lower import LoweredKernel, build_object, lower
from mnv2c.targets import Cpu, Target


@dataclass(frozen=True)
class Candidate:
    """A kernel in the object: its symbol, and what ``LoweredKernel`` says of it."""

    how: How
    symbol: str
    tasks: int
    scratch_bytes: int


@dataclass(frozen=True)
class Compiled:
    """``object`` is empty where nothing compiled; ``failures`` say why, by schedule."""

    object: bytes
    candidates: tuple[Candidate, ...]
    failures: dict[How, str]


def compile_candidates(work: Workload, hows: Sequence[How], target: Target, cpu: Cpu) -> Compiled:
    """All of ``hows`` in one go; where that fails, one by one, to find out which."""
    result = _in_fork(lambda: _compile(work, hows, target, cpu))
    if isinstance(result, bytes):
        return _unpack(result, hows)
    if len(hows) == 1:
        return Compiled(b"", (), {hows[0]: result})
    failures: dict[How, str] = {}
    for how in hows:
        failures |= compile_candidates(work, [how], target, cpu).failures
    good = [how for how in hows if how not in failures]
    if not good or len(good) == len(hows):
        return Compiled(b"", (), failures or dict.fromkeys(hows, result))
    rest = compile_candidates(work, good, target, cpu)
    return Compiled(rest.object, rest.candidates, failures | rest.failures)


def _lower(
    work: Workload, hows: Sequence[How]
) -> tuple[dict[str, LoweredKernel], tuple[Candidate, ...], dict[How, str]]:
    """The candidates by symbol, and why the others have none: a template that TVM cannot follow is a failure."""
    lowered, candidates, failures = {}, [], {}
    for number, how in enumerate(hows):
        symbol = f"candidate{number}"
        try:
            lowered[symbol] = lower(scheduled(work, how), symbol)
        except Exception as error:  # TVM raises whatever it likes
            failures[how] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            candidates.append(Candidate(how, symbol, lowered[symbol].tasks, lowered[symbol].scratch_bytes))
    return lowered, tuple(candidates), failures


def _compile(work: Workload, hows: Sequence[How], target: Target, cpu: Cpu) -> bytes:
    """What ``_unpack`` reads: a line of JSON, and the object."""
    lowered, candidates, failures = _lower(work, hows)
    found = [(hows.index(one.how), one.symbol, one.tasks, one.scratch_bytes) for one in candidates]
    head = json.dumps([found, [(hows.index(how), why) for how, why in failures.items()]])
    return head.encode() + b"\n" + (build_object(lowered, target, cpu) if lowered else b"")


def _unpack(content: bytes, hows: Sequence[How]) -> Compiled:
    head, _, object_ = content.partition(b"\n")
    found, failures = json.loads(head)
    candidates = tuple(Candidate(hows[index], symbol, tasks, scratch) for index, symbol, tasks, scratch in found)
    return Compiled(object_, candidates, {hows[index]: why for index, why in failures})


def _in_fork(compute: Callable[[], bytes]) -> bytes | str:
    """What ``compute`` returns in a fork of this process, or how that ended."""
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        raise ToolError(f"cannot start a process to compile in: {error.strerror}") from error
    if child == 0:
        os.close(reader)  # or it would wait for itself to read, were we killed
        _report(compute, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        try:
            content = pipe.read()
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(child, 0)
    if status == 0 and content:
        return content
    code = os.waitstatus_to_exitcode(status)
    return f"the compiler crashed ({signal.Signals(-code).name if code < 0 else f'status {code}'})"


def _report(compute: Callable[[], bytes], writer: int) -> NoReturn:
    """In the fork: sends the bytes, and ends without a word."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(compute())
        status = 0
    finally:
        os._exit(status)
