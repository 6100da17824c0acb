"""Times candidates on this machine, in a process that may die.

What comes in: schedules of a workload. What goes out: trials. Candidates of a batch take turns, round after round, so
that what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mnv2c.deploy.native import cpu_name
from mnv2c.errors import TargetError
from mnv2c.kernels.abi import Schedule
from mnv2c.measure.peak import PeakMeter
from mnv2c.targets import X86, InstructionSet, Target, instruction_sets_here
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.processor import processor_name
from mnv2c.tuning.records import MEASURED, Origin
from mnv2c.tuning.runners import ROUNDS, Trial, fastest
from mnv2c.tuning.timing import MeasureLinker
from mnv2c.workloads import Workload

_SECONDS = 20  # without a word; a candidate that takes longer hangs
_PEAKS = 5  # measurements of the machine's peak


class LocalRunner:
    """Keeps a worker process and a directory."""

    def __init__(self, target: Target, isa: InstructionSet, *, rounds: int = ROUNDS) -> None:
        _check_runs_here(target, isa)
        self.target, self.isa, self._rounds = target, isa, rounds
        self.origin = Origin(processor_name(), cpu_name(), MEASURED, importlib.metadata.version("apache-tvm"))
        self.drifts = True
        meter = PeakMeter(target.zig_triple, isa, threads=1)
        self.macs_per_second = max(meter.measure() for _ in range(_PEAKS)) / 2 * 1e9
        self._linker = MeasureLinker(target, isa)
        self._worker: _Worker | None = None

    def run(self, workload: Workload, schedules: Sequence[Schedule]) -> list[Trial]:
        compiled = compile_candidates(workload, schedules, self.target, self.isa)
        trials = {schedule: Trial(schedule, failure=failure) for schedule, failure in compiled.failures.items()}
        remaining = dict(enumerate(compiled.candidates))
        library = self._linker.link(workload, compiled) if remaining else Path()
        while remaining:
            answer = self._time(library, list(remaining))
            if isinstance(answer, _Died):
                dead = remaining.pop(answer.index).schedule
                trials[dead] = Trial(dead, failure=answer.reason)
                continue
            for candidate, runs in zip(remaining.values(), answer, strict=True):
                trials[candidate.schedule] = Trial(candidate.schedule, fastest(runs))
            break
        return [trials[schedule] for schedule in schedules]

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._linker.close()

    def _time(self, library: Path, candidates: list[int]) -> list[list[int]] | _Died:
        if self._worker is None:
            self._worker = _Worker()
        answer = self._worker.ask(library, candidates, self._rounds)
        if isinstance(answer, _Died):
            self._worker.close()
            self._worker = None
        return answer


class _Died:
    """The worker is gone: during which candidate, and how."""

    def __init__(self, index: int, reason: str) -> None:
        self.index, self.reason = index, reason


class _Worker:
    """``mnv2c.tuning.worker`` as a process."""

    def __init__(self) -> None:
        script = str(resources.files("mnv2c.tuning") / "worker.py")
        command = (sys.executable, "-I", "-S", script)
        self._process = subprocess.Popen(
            command,
            bufsize=0,  # select must see every line
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ask(self, library: Path, candidates: list[int], rounds: int) -> list[list[int]] | _Died:
        assert self._process.stdin is not None
        request = {"library": str(library), "candidates": candidates, "rounds": rounds}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        current = candidates[0]
        while True:
            line = self._line()
            if line is None:
                return _Died(current, f"still running after {_SECONDS} s")
            if not line:
                status = self._process.wait()
                name = signal.Signals(-status).name if status < 0 else f"status {status}"
                return _Died(current, f"crashed ({name})")
            value = json.loads(line)
            if isinstance(value, list):
                return value
            current = value

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _line(self) -> bytes | None:
        """The next line, empty where the worker has died, None where it says nothing in time."""
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], _SECONDS)
        return output.readline() if ready else None


def _check_runs_here(target: Target, isa: InstructionSet) -> None:
    """TargetError where this machine cannot time the candidates."""
    here = instruction_sets_here()
    if target.architecture != X86.architecture or not here:
        raise TargetError(
            f"target {target.name}: kernels for {target.architecture} cannot be timed on this machine "
            f"({platform.machine()}): `--measure static` estimates them, `--rpc` times them on boards"
        )
    if isa not in here:
        raise TargetError(
            f"target {target.name}: this processor lacks the instruction set {isa.name}; it has {here[0].name}"
        )
