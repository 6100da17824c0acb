"""Loads a library of candidates and times them: a process of its own, since a candidate may crash or never return.

What comes in, on stdin: a line of JSON, ``Request``. What goes out, on stdout: a line before each candidate's first
run (its number), and one with the nanoseconds of every run of all of them. It needs no package at all: it starts in a
blink.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from typing import Any

_LINE = 64


class _Measured(ctypes.Structure):
    """As in measure.c."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("tasks", ctypes.c_int32),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("input_bytes", ctypes.c_size_t),
        ("elsewhere", ctypes.c_void_p),
        ("elsewhere_bytes", ctypes.c_size_t),
    )


class _Memory:
    """Pages of its own, full of small numbers, aligned to cache lines; kept until the process ends."""

    def __init__(self) -> None:
        self._pages: list[mmap.mmap] = []

    def take(self, size: int) -> int:
        pages = mmap.mmap(-1, size + _LINE)
        pages.write(b"\x00\x00\x00\x3e" * (size // 4))  # 0.125 as float32
        self._pages.append(pages)
        return ctypes.addressof(ctypes.c_char.from_buffer(pages))


def main() -> None:
    """One request a line, until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        library = ctypes.CDLL(request["library"])
        library.mnv2c_measure.restype = ctypes.c_uint64
        memory = _Memory()
        operands = {name: memory.take(size) for name, size in request["operands"].items()}
        elsewhere = memory.take(request["elsewhere"])
        jobs = []
        for number, candidate in enumerate(request["candidates"]):
            job = _job(library, candidate, operands, request, elsewhere, memory.take(candidate["scratch_bytes"]))
            _say(number)
            library.mnv2c_measure(ctypes.byref(job))
            jobs.append(job)
        runs = [[library.mnv2c_measure(ctypes.byref(job)) for job in jobs] for _ in range(request["rounds"])]
        _say([list(times) for times in zip(*runs, strict=True)])


def _job(
    library: Any,
    candidate: dict[str, Any],
    operands: dict[str, int],
    request: dict[str, Any],
    elsewhere: int,
    scratch: int,
) -> _Measured:
    kernel = ctypes.cast(library[candidate["symbol"]], ctypes.c_void_p).value
    return _Measured(
        kernel=kernel,
        tasks=candidate["tasks"],
        input=operands["input"],
        output=operands["output"],
        scratch=scratch,
        weight=operands.get("weight"),
        bias=operands.get("bias"),
        residual=operands.get("residual"),
        input_bytes=request["operands"]["input"],
        elsewhere=elsewhere,
        elsewhere_bytes=request["elsewhere"],
    )


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
