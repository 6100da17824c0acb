"""Runs what may end the whole process, such as LLVM, in a fork of it: everything imported is there at once.

What comes in: a function that computes bytes, and how long it may take. What goes out: those bytes, or a CrashError.
Nothing that the fork prints reaches the terminal.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import time
from collections.abc import Callable
from typing import BinaryIO, NoReturn

from mnv2c import processes
from mnv2c.errors import ToolError

_LONGEST_REASON = 200  # characters of what it printed last


class CrashError(ToolError):
    """The fork raised or died; ``str`` says how, in one line."""


def in_fork(compute: Callable[[], bytes], *, seconds: float | None = None, what: str = "the compiler") -> bytes:
    """What ``compute`` returns. CrashError where it raises, its process dies, or it takes longer than ``seconds``;
    ToolError where no process can be started. ``what`` is who does it, for messages."""
    reader, writer = os.pipe()
    try:
        printed = os.memfd_create("stderr")
        child = processes.fork(lambda: _report(compute, writer, printed))
    except OSError as error:
        raise ToolError(f"cannot start a process: {error.strerror}") from error
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe, os.fdopen(printed, "rb") as lines:
        try:
            content = _read(pipe, seconds, what)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(child, 0)
        if status == 0:
            return content
        lines.seek(0)
        raise CrashError(_reason(os.waitstatus_to_exitcode(status), lines.read().decode(errors="replace"), what))


def _read(pipe: BinaryIO, seconds: float | None, what: str) -> bytes:
    """All that is written until the other end closes. CrashError where that takes longer than ``seconds``."""
    deadline = None if seconds is None else time.monotonic() + seconds
    content = bytearray()
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([pipe], [], [], left)
        if not ready:
            raise CrashError(f"{what} is still running after {seconds:g} s")
        part = os.read(pipe.fileno(), 1 << 20)
        if not part:
            return bytes(content)
        content += part


def _report(compute: Callable[[], bytes], writer: int, printed: int) -> NoReturn:
    """In the fork: sends the bytes, and ends without a word on the terminal."""
    status = 1
    try:
        faulthandler.disable()
        os.dup2(printed, 2)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(compute())
        status = 0
    except Exception as error:
        os.write(2, f"\n{type(error).__name__}: {' '.join(str(error).split())}".encode(errors="replace"))
    finally:
        os._exit(status)


def _reason(code: int, printed: str, what: str) -> str:
    """``the compiler crashed (SIGABRT: LLVM ERROR: out of memory)``."""
    if code == -signal.SIGXCPU:
        return f"{what} does not come to an end"
    how = signal.Signals(-code).name if code < 0 else f"status {code}"
    last = next((line.strip() for line in reversed(printed.splitlines()) if line.strip()), "")
    return f"{what} crashed ({how}{': ' if last else ''}{last[:_LONGEST_REASON]})"
