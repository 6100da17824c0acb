"""The commands, one per file: each has ``command(options) -> exit status``. What they share stands here."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from mnv2c.errors import Mnv2cError
from mnv2c.processes import ENDING
from mnv2c.scratch import beside
from mnv2c.spelling import shown

Item = TypeVar("Item")


class UsageError(Mnv2cError):
    """A mistake in the arguments: exit status 2."""


class OutputError(Mnv2cError):
    """A file that cannot be written."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end. A KeyboardInterrupt itself that passes through ``exec`` makes CPython end with
    SIGINT, whatever the status is by then (``run_eval_code_obj``)."""


_CLEAR = "\r\x1b[2K"  # back to the start of the line, and erase it
_SECONDS_BETWEEN_LINES = 5.0

_ENDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}

_interrupts: list[int] = []


def end_on_signals() -> None:
    """^C, SIGTERM and a terminal that is closed raise Interrupted, so that everything is cleaned up; they are
    remembered, for TVM and destructors swallow exceptions that are raised while they run. One that whoever started us
    has us ignore (a shell for its background jobs, nohup) stays so."""

    def remember(number: int, frame: FrameType | None) -> NoReturn:
        _interrupts.append(number)
        raise Interrupted

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, remember)


def stop_if_interrupted() -> None:
    """Raises Interrupted once more where that was swallowed."""
    if _interrupts:
        raise Interrupted


def interruption() -> tuple[str, int]:
    """What has ended the command, in a word, and its status, as a shell has it. It is forgotten then."""
    number = _interrupts[0] if _interrupts else signal.SIGINT
    _interrupts.clear()
    return _ENDS[signal.Signals(number)], 128 + number


class Report:
    """Says on stderr what is being done, with the seconds since the start; each call is a place to stop after ^C."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, line: str) -> None:
        """A line that stays."""
        stop_if_interrupted()
        print(f"{_CLEAR if _rewrites() else ''}{self._at(line)}", file=sys.stderr, flush=True)

    @contextmanager
    def counting(self, what: str, items: Iterable[Item], *, total: int) -> Iterator[Iterator[Item]]:
        """``items``, with the number of the one that is asked for shown: on a terminal in one line that is written
        over and over, and cleared at the end; elsewhere in a line now and then."""
        try:
            yield self._counted(what, items, total)
        finally:
            if _rewrites():
                print(_CLEAR, end="", file=sys.stderr, flush=True)

    def _counted(self, what: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        shown = -_SECONDS_BETWEEN_LINES
        for number, item in enumerate(items, 1):
            stop_if_interrupted()
            line, now = self._at(f"{what} {number} of {total}"), time.monotonic()
            if _rewrites():
                print(f"{_CLEAR}{line}", end="", file=sys.stderr, flush=True)
            elif now - shown >= _SECONDS_BETWEEN_LINES:
                print(line, file=sys.stderr, flush=True)
                shown = now
            yield item

    def _at(self, line: str) -> str:
        return f"[{time.monotonic() - self._begin:5.1f} s] {shown(line)}"


def progress() -> Report:
    """A report that counts its seconds from now."""
    return Report()


def _rewrites() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def prepare_streams() -> None:
    """What was closed when we began goes nowhere, lest a file that is opened take its number; what a terminal cannot
    show is written as its code."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A part of the result, on stdout."""
    try:
        print(shown(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _not_written(error) from error
    flush_stdout()


def flush_stdout() -> None:
    """OutputError where it cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _not_written(error) from error


def _not_written(error: OSError) -> OutputError:
    discard_stdout()
    return OutputError(f"the result cannot be written to stdout: {error.strerror}")


def discard_stdout() -> None:
    """What is still buffered goes nowhere; Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """A line on stderr of what somebody may want to know, beside the result."""
    print(f"mnv2c: note: {shown(text)}", file=sys.stderr)


def say_json(value: Any) -> None:
    """One JSON value on stdout. Numbers that JSON lacks (NaN) become null."""
    say(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def write_file(path: Path, content: bytes) -> None:
    """All of it or nothing: written beside ``path`` first."""
    try:
        if path.exists() and not path.is_file():  # a device, a pipe
            path.write_bytes(content)
            return
        with beside(path) as partial:
            partial.write_bytes(content)
            partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def megabytes(count: int) -> str:
    """``13.9 MB``."""
    return f"{count / 1e6:.1f} MB"
