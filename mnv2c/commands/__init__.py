"""The commands, one per file: each has ``command(options) -> exit status``. What they share stands here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mnv2c.errors import Mnv2cError


class UsageError(Mnv2cError):
    """A mistake in the arguments: exit status 2."""


class OutputError(Mnv2cError):
    """A file that cannot be written."""


_interrupts: list[int] = []


def on_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """^C raises, as ever, and is remembered: TVM and destructors swallow exceptions that are raised while they run."""
    _interrupts.append(number)
    raise KeyboardInterrupt


def stop_if_interrupted() -> None:
    """Raises a ^C that was swallowed."""
    if _interrupts:
        _interrupts.clear()
        raise KeyboardInterrupt


def progress() -> Callable[[str], None]:
    """Prints what is being done on stderr, a line each, with the seconds since the start; a place to stop after ^C."""
    begin = time.monotonic()

    def report(line: str) -> None:
        stop_if_interrupted()
        print(f"[{time.monotonic() - begin:5.1f} s] {line}", file=sys.stderr, flush=True)

    return report


def say(text: str) -> None:
    """A part of the result, on stdout."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise OutputError(f"the result cannot be written to stdout: {error.strerror}") from error


def discard_stdout() -> None:
    """What is still buffered goes nowhere; Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.exists() and not path.is_file():  # a device, a pipe
            path.write_bytes(content)
            return
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def megabytes(count: int) -> str:
    """``13.9 MB``."""
    return f"{count / 1e6:.1f} MB"
