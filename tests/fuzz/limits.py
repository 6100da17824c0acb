"""Feeds cases to mnv2c in forks, each case held to limits, so that a crash is a verdict like any other.

What comes in: a ``Case``, and the seeds of those to try. What goes out: a ``Verdict`` for each. What counts is the
processor time and the memory that a case takes of its own: no verdict depends on how busy the machine is.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO, NoReturn, TextIO, TypeAlias

from mnv2c.cli import main
from mnv2c.errors import Mnv2cError, SpecError
from mnv2c.spec.yaml_reader import MOST_ERRORS

Case: TypeAlias = Callable[[Random, Path], Callable[[], object]]
"""Draws an input, writes what is a file of it into an empty folder, and returns what feeds it to mnv2c."""

Fuzz: TypeAlias = Callable[[Case], None]
"""The fixture of ``conftest``."""

REFUSED = object()
"""What feeding a case returns where that ended in an error that was told as it should."""

SECONDS = 2.0
BYTES = 1 << 30
_LONGEST_LINE = 2000
_BATCH = 50  # cases in one fork
_KILLED = 3  # seconds beyond the limit: for what no longer returns to Python
_STUCK = 100  # seconds of the clock without a word: that waits for something that never comes


@dataclass(frozen=True)
class Verdict:
    """``fault`` says what was wrong, empty where nothing was; ``refused`` whether it ended in an error."""

    seed: int
    fault: str
    refused: bool = False
    seconds: float = 0.0
    bytes: int = 0


def judge(case: Case, seeds: Sequence[int], folder: Path) -> Iterator[Verdict]:
    """In the order of ``seeds``; ``folder`` is scratch."""
    while seeds:
        found = _batch(case, seeds[:_BATCH], folder)
        yield from found
        seeds = seeds[len(found) :]


def command(*arguments: str | Path) -> object:
    """The command line, in this process; AssertionError where it ends otherwise than the manual says."""
    os.environ["MNV2C_DEBUG"] = "1"  # a bug shows its traceback
    with os.fdopen(os.memfd_create("out"), "w+") as output, os.fdopen(os.memfd_create("errors"), "w+") as errors:
        with redirect_stdout(output), redirect_stderr(errors):
            status = main([str(argument) for argument in arguments])
        said, told = _text(output), _text(errors)
    assert "Traceback" not in told, told
    assert status in (0, 1, 2), f"status {status}"
    assert all(char.isprintable() or char == "\n" for char in said + told), repr(said + told)
    assert told.count("mnv2c: error: ") == (status == 2 or (status == 1 and not said)), f"status {status}\n{said}{told}"
    assert max(map(len, told.split("\n"))) <= _LONGEST_LINE, told[:_LONGEST_LINE]
    return REFUSED if status else None


def _text(stream: TextIO) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _batch(case: Case, seeds: Sequence[int], folder: Path) -> list[Verdict]:
    """Those of ``seeds`` up to the first that ends the fork."""
    reader, writer = os.pipe()
    errors = os.memfd_create("errors")
    child = os.fork()
    if child == 0:
        os.close(reader)
        _feed(case, seeds, folder, writer, errors)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe, os.fdopen(errors, "rb") as printed:
        found = [Verdict(**json.loads(line)) for line in _lines(pipe, child)]
        _, status = os.waitpid(child, 0)
        if len(found) < len(seeds):
            printed.seek(0)
            code = os.waitstatus_to_exitcode(status)
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            shutil.rmtree(folder / str(seeds[len(found)]), ignore_errors=True)
            text = printed.read().decode(errors="replace")[-2000:]
            found.append(Verdict(seeds[len(found)], f"the process was {how}\n{text}"))
    return found


def _lines(pipe: BinaryIO, child: int) -> Iterator[bytes]:
    """As they come; a fork that says nothing any more is killed."""
    received = b""
    while select.select([pipe], [], [], _STUCK)[0]:
        part = os.read(pipe.fileno(), 1 << 16)
        if not part:
            return
        *lines, received = (received + part).split(b"\n")
        yield from lines
    os.kill(child, signal.SIGKILL)


def _feed(case: Case, seeds: Sequence[int], folder: Path, writer: int, errors: int) -> NoReturn:
    """In the fork."""
    status = 1
    try:
        os.dup2(errors, 2)
        faulthandler.enable(2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        gc.freeze()
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            for seed in seeds:
                place = folder / str(seed)
                place.mkdir()
                pipe.write(json.dumps(asdict(_try(case, seed, place))).encode() + b"\n")
                shutil.rmtree(place, ignore_errors=True)
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(status)


def _try(case: Case, seed: int, folder: Path) -> Verdict:
    run = case(Random(seed), folder)
    memory, children = _memory("VmRSS"), _largest_child()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    begin = _processor_time()
    _limit(_memory("VmSize") + BYTES)
    try:
        fault, refused = "", run() is REFUSED
    except Mnv2cError as error:
        fault, refused = _fault_of(error), True
    except BaseException:
        fault, refused = _told_briefly(traceback.format_exc()), False
    _limit(resource.RLIM_INFINITY)
    largest = max(_memory("VmHWM"), now if (now := _largest_child()) > children else 0)
    seconds, taken = _processor_time() - begin, max(largest - memory, 0)
    if not fault and seconds > SECONDS:
        fault = f"it took {seconds:.1f} s of processor time"
    if not fault and taken > BYTES:
        fault = f"it took {taken >> 20} MiB"
    return Verdict(seed, fault, refused, seconds, taken)


def _limit(address_space: int) -> None:
    """On memory, and on time from now on; both may be raised again."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
    own = resource.getrusage(resource.RUSAGE_SELF)
    last = int(own.ru_utime + own.ru_stime + SECONDS + _KILLED)
    resource.setrlimit(resource.RLIMIT_CPU, (last, resource.RLIM_INFINITY))


def _processor_time() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _told_briefly(trace: str) -> str:
    """The last lines, not the lines of files that are not ours."""
    return trace if len(trace) < 2000 else f"...{trace[-2000:]}"


def _largest_child() -> int:
    """The most memory that a process had which we started and that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def _memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _fault_of(error: Mnv2cError) -> str:
    """What is wrong with how it is told: more than a line, or a list that does not end; empty where nothing is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"out of memory, told as: {error}"
        cause = cause.__cause__ or cause.__context__
    first, *more = str(error).split("\n")
    if not first.strip():
        return f"{type(error).__name__} without a word"
    if isinstance(error, SpecError):
        return "" if len(error.errors) <= MOST_ERRORS else f"{len(error.errors)} mistakes of a spec"
    if not all(line.startswith("    ") for line in more) or len(more) > MOST_ERRORS:
        return f"more than one line: {str(error)[:500]}"
    return ""
