"""Times candidates on this machine, in a process that may die.

What comes in: a library of candidates. What goes out: their times for each number of threads. Candidates of a batch
take turns, round after round, so that what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tvm.ir.utils import derived_object

from mnv2c import processes
from mnv2c.deploy.native import cpu_name
from mnv2c.errors import TargetError
from mnv2c.measure.peak import PeakMeter
from mnv2c.targets import InstructionSet, Target, instruction_sets_here
from mnv2c.tuning.processor import processor_name
from mnv2c.tuning.records import MEASURED, Origin
from mnv2c.tuning.runners import ROUNDS, BatchRunner, Conditions, Died, Timing, time_survivors

_SECONDS = 20  # without a word; a candidate that takes longer hangs
_PEAKS = 5  # measurements of the machine's peak


@derived_object
class LocalRunner(BatchRunner):
    """Keeps a worker process. ``threads`` are the numbers of threads to time each candidate for."""

    def __init__(
        self, target: Target, isa: InstructionSet, *, threads: Sequence[int] = (1,), rounds: int = ROUNDS
    ) -> None:
        super().__init__()
        _check_runs_here(target, isa)
        self._rounds = rounds
        meter = PeakMeter(target.zig_triple, isa, threads=1)
        tvm = importlib.metadata.version("apache-tvm")
        self.conditions = Conditions(
            target,
            isa,
            Origin(processor_name(), cpu_name(), MEASURED, tvm, tuple(threads)),
            macs_per_second=max(meter.measure() for _ in range(_PEAKS)) / 2 * 1e9,
            drifts=True,
        )
        self._worker: _Worker | None = None

    def time(self, library: Path, indices: Sequence[int]) -> list[Timing]:
        return time_survivors(indices, lambda remaining: self._ask(library, remaining))

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _ask(self, library: Path, indices: Sequence[int]) -> list[list[list[int]]] | Died:
        if self._worker is None:
            self._worker = _Worker()
        request = {"candidates": list(indices), "threads": self.conditions.origin.threads, "rounds": self._rounds}
        answer = self._worker.ask({"library": str(library), **request})
        if isinstance(answer, Died):
            self._worker.close()
            self._worker = None
        return answer


class _Worker:
    """``mnv2c.tuning.worker`` as a process."""

    def __init__(self) -> None:
        script = str(resources.files("mnv2c.tuning") / "worker.py")
        command = (sys.executable, "-I", "-S", script)
        self._process = processes.start(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def ask(self, request: Mapping[str, Any]) -> list[list[list[int]]] | Died:
        """Nanoseconds by candidate and number of threads (``worker.py``)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        current = request["candidates"][0]
        while True:
            line = self._line()
            if line is None:
                return Died(current, f"still running after {_SECONDS} s")
            if not line:
                status = self._process.wait()
                name = signal.Signals(-status).name if status < 0 else f"status {status}"
                return Died(current, f"crashed ({name})")
            value = json.loads(line)
            if isinstance(value, list):
                return value
            current = value

    def close(self) -> None:
        with self._process:
            processes.end(self._process)

    def _line(self) -> bytes | None:
        """The next line, empty where the worker has died, None where it says nothing in time."""
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], _SECONDS)
        return output.readline() if ready else None


def _check_runs_here(target: Target, isa: InstructionSet) -> None:
    """TargetError where this machine cannot time the candidates."""
    here = instruction_sets_here()
    if target.architecture != platform.machine() or not here:
        raise TargetError(
            f"target {target.name}: kernels for {target.architecture} cannot be timed on this machine "
            f"({platform.machine()}): `--measure static` estimates them, `--rpc` times them on boards"
        )
    if isa not in here:
        raise TargetError(
            f"target {target.name}: this processor lacks the instruction set {isa.name}; it has {here[0].name}"
        )
