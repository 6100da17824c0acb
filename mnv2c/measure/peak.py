"""Measures how many fp32 operations a second the machine can do at most, in one instruction set: ``bench --layers``.

What comes in: a target and its CPU. What goes out: GFLOP/s of independent multiply-adds (``measure/peak.c``), which zig
compiles when asked. Without FMA (v2) it is a multiplication and an addition, on units that x86-64-v2 machines have.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from threading import Barrier
from typing import Any

from mnv2c.errors import ToolError
from mnv2c.scratch import Scratch
from mnv2c.targets import InstructionSet
from mnv2c.toolchain import compile_c, find_zig, link_shared

_CHAINS = 12  # as in peak.c
_STEPS = 500_000  # as long as a large layer takes: shorter than that, a layer would find faster moments than we do
_BURSTS = 4


class PeakMeter:
    """Call ``measure`` as often as wanted; other programs disturb the machine, so the best is what counts.

    ToolError where zig is missing, or the function cannot be compiled and loaded.
    """

    def __init__(self, zig_triple: str, isa: InstructionSet, *, threads: int) -> None:
        self._operations = 2 * _CHAINS * isa.lanes * _STEPS
        self._function = _compile(zig_triple, isa)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._start = Barrier(threads)

    def measure(self) -> float:
        """GFLOP/s of all threads together, each in the fastest of a few bursts."""
        jobs = [self._pool.submit(self._rate) for _ in range(self._threads)]
        return sum(job.result() for job in jobs)

    def _rate(self) -> float:
        """Of this thread, once all are awake: to wake one takes up to a tenth of what it measures."""
        self._start.wait()
        return max(self._burst() for _ in range(_BURSTS))

    def _burst(self) -> float:
        begin = time.perf_counter_ns()
        self._function(_STEPS, 0.5, 0.25)
        return self._operations / (time.perf_counter_ns() - begin)


def _compile(zig_triple: str, isa: InstructionSet) -> Any:
    """``mnv2c_peak`` as a function; its file is gone once it is loaded."""
    toolchain = find_zig(zig_triple)
    text = (resources.files("mnv2c.measure") / "peak.c").read_text(encoding="utf-8")
    flags = (f"-mcpu={isa.mcpu.replace('-', '_')}", f"-DLANES={isa.lanes}", "-ffp-contract=fast")
    try:
        with Scratch() as directory:
            (directory / "peak.c").write_text(text, encoding="utf-8")
            objects = compile_c(toolchain, directory, "peak.c", flags=flags)
            link_shared(toolchain, directory, objects, output="peak.so")
            function = ctypes.CDLL(str(directory / "peak.so")).mnv2c_peak
    except OSError as error:
        raise ToolError(f"cannot measure the machine's peak in {tempfile.gettempdir()}: {error}") from error
    function.argtypes = (ctypes.c_long, ctypes.c_float, ctypes.c_float)
    function.restype = ctypes.c_float
    return function
