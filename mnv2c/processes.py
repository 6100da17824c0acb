"""Starts other programs, and forks, so that none outlives the command that started it, whatever ends that.

What comes in: a command, or a function for a fork. What goes out: a process that the kernel kills with us, in a session
of its own, which ``end`` kills whole: ^C and SIGTERM are ours to pass on. Meanwhile neither reaches Python's hooks
around a fork, which would print a traceback and go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

Process: TypeAlias = subprocess.Popen[bytes]
Finished: TypeAlias = subprocess.CompletedProcess[str]
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a command to end."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None).prctl  # looked up here: nothing between fork and exec may need a lock


def start(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.PIPE,
    stderr: int | IO[Any] = subprocess.PIPE,
    keeps_files: bool = False,
) -> Process:
    """``command``, started; its pipes are bytes without a buffer. OSError where it cannot be.

    It has none of our files but, with ``keeps_files``, those that are inheritable.
    """
    parent = os.getpid()
    with _held() as mask:
        return subprocess.Popen(
            command,
            bufsize=0,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            close_fds=not keeps_files,
            start_new_session=True,
            preexec_fn=lambda: _follow(parent, mask),
        )


def run(
    command: Sequence[str],
    *,
    feed: bytes | IO[Any] = b"",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float | None = None,
    keeps_files: bool = False,
) -> Finished:
    """``command`` with ``feed`` on its stdin, to its end.

    OSError where it cannot be started; subprocess.TimeoutExpired where it takes longer than ``seconds``.
    """
    stdin = subprocess.PIPE if isinstance(feed, bytes) else feed
    process = start(command, cwd=cwd, env=env, stdin=stdin, keeps_files=keeps_files)
    with _ended_at_last(process):
        return _finish(process, feed if isinstance(feed, bytes) else None, seconds)


def run_side_by_side(commands: Sequence[Sequence[str]], *, cwd: Path, env: Mapping[str, str]) -> list[Finished]:
    """All of ``commands`` at once, to their ends. OSError where one cannot be started."""
    with contextlib.ExitStack() as opened:
        started = [opened.enter_context(_ended_at_last(start(command, cwd=cwd, env=env))) for command in commands]
        return [_finish(process) for process in started]


def _finish(process: Process, feed: bytes | None = None, seconds: float | None = None) -> Finished:
    """All that it writes, as UTF-8."""
    stdout, stderr = (text.decode(errors="replace") for text in process.communicate(feed, seconds))
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextmanager
def _ended_at_last(process: Process) -> Iterator[Process]:
    with process:
        try:
            yield process
        finally:
            end(process)


def end(process: Process) -> int:
    """Kills what ``start`` has started, and what that has started; its status."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def fork(child: Callable[[], None]) -> int:
    """The number of a fork of this process that runs ``child``, which must not return. OSError where there is none."""
    parent = os.getpid()
    with _held() as mask:
        number = os.fork()
        if number == 0:
            try:
                for ending in ENDING:  # of ^C decides who waits for it
                    signal.signal(ending, signal.SIG_IGN if ending == signal.SIGINT else signal.SIG_DFL)
                _follow(parent, mask)
                child()
            finally:
                os._exit(1)
        return number


def _follow(parent: int, mask: set[signal.Signals]) -> None:
    """In a child: it dies with the thread that started it, and has the signals back."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was too late
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _held() -> Iterator[set[signal.Signals]]:
    """Those signals wait until it is left; the mask from before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield mask  # type: ignore[misc]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
