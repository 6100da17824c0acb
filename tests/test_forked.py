"""What ends a fork is told in one line, and prints nothing itself."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mnv2c.forked import CrashError, in_fork


def test_what_was_computed_comes_back() -> None:
    large = os.urandom(1 << 20)  # more than a pipe holds
    assert in_fork(lambda: large) == large
    assert in_fork(lambda: b"") == b""


def _abort_like_llvm() -> bytes:
    os.write(2, b"LLVM ERROR: out of memory\n\n")
    os.abort()


def _raise() -> bytes:
    raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (_abort_like_llvm, r"^the compiler crashed \(SIGABRT: LLVM ERROR: out of memory\)$"),
        (os.abort, r"^the compiler crashed \(SIGABRT\)$"),
        (_raise, r"^the compiler crashed \(status 1: ValueError: two lines\)$"),
    ],
)
def test_a_crash_is_an_error(compute: Callable[[], bytes], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CrashError, match=message):
        in_fork(compute)
    assert capfd.readouterr() == ("", "")
