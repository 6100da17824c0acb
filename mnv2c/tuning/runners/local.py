"""Times candidates on this machine, in a process that may die.

What comes in: schedules of a workload. What goes out: trials. Candidates of a batch take turns, round after round, so
that what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mnv2c.errors import ToolError
from mnv2c.kernels import How, Workload, computation
from mnv2c.native import cpu_name
from mnv2c.peak import PeakMeter
from mnv2c.targets import Cpu, Target
from mnv2c.toolchain import compile_c, find_toolchain, link_shared
from mnv2c.tuning.compile import Candidate, compile_candidates
from mnv2c.tuning.records import MEASURED, Origin
from mnv2c.tuning.runners import Trial

ROUNDS = 24
KEPT = 5  # of the fastest runs
_SECONDS = 20  # for a batch; a candidate that takes longer hangs
_PEAKS = 5  # measurements of the machine's peak
_CACHES = 8  # times the core's L2 that displace a kernel's weights


class LocalRunner:
    """Keeps a worker process and a directory."""

    def __init__(self, target: Target, cpu: Cpu, *, rounds: int = ROUNDS) -> None:
        self.target, self.cpu, self._rounds = target, cpu, rounds
        self.origin = Origin(cpu_name(), MEASURED, importlib.metadata.version("apache-tvm"))
        self.drifts = True
        self.macs_per_second = (
            max(PeakMeter(target.zig_triple, cpu, threads=1).measure() for _ in range(_PEAKS)) / 2 * 1e9
        )
        self._toolchain = find_toolchain(target)
        self._scratch = tempfile.TemporaryDirectory(prefix="mnv2c-")
        self._directory = Path(self._scratch.name)
        self._batches = 0
        source = (resources.files("mnv2c.tuning") / "measure.c").read_text(encoding="utf-8")
        (self._directory / "measure.c").write_text(source, encoding="utf-8")
        self._measure = compile_c(self._toolchain, self._directory, "measure.c")
        self._worker: _Worker | None = None

    def run(self, work: Workload, hows: Sequence[How]) -> list[Trial]:
        compiled = compile_candidates(work, hows, self.target, self.cpu)
        trials = {how: Trial(how, failure=failure) for how, failure in compiled.failures.items()}
        library = self._link(compiled.object) if compiled.object else None
        remaining = list(compiled.candidates)
        while library is not None and remaining:
            times = self._time(library, work, remaining)
            if isinstance(times, _Died):
                dead = remaining.pop(times.candidate)
                trials[dead.how] = Trial(dead.how, failure=times.reason)
                continue
            for candidate, runs in zip(remaining, times, strict=True):
                fastest = sorted(runs)[:KEPT]
                trials[candidate.how] = Trial(candidate.how, tuple(nanoseconds / 1e9 for nanoseconds in fastest))
            break
        return [trials[how] for how in hows]

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._scratch.cleanup()

    def _link(self, content: bytes) -> Path:
        """A name of its own for each batch: the system's loader gives the same library for the same name."""
        self._batches += 1
        name = f"batch{self._batches}"
        try:
            for old in self._directory.glob("batch*"):
                old.unlink()
            (self._directory / f"{name}.o").write_bytes(content)
        except OSError as error:
            raise ToolError(f"cannot write candidates in {tempfile.gettempdir()}: {error.strerror}") from error
        link_shared(self._toolchain, self._directory, [f"{name}.o", self._measure], output=f"{name}.so")
        return self._directory / f"{name}.so"

    def _time(self, library: Path, work: Workload, candidates: Sequence[Candidate]) -> list[list[int]] | _Died:
        request = {
            "library": str(library),
            "operands": operand_bytes(work),
            "elsewhere": _CACHES * self.cpu.l2_bytes,
            "rounds": self._rounds,
            "candidates": [
                {"symbol": one.symbol, "tasks": one.tasks, "scratch_bytes": one.scratch_bytes} for one in candidates
            ],
        }
        if self._worker is None:
            self._worker = _Worker()
        answer = self._worker.ask(request)
        if isinstance(answer, _Died):
            self._worker.close()
            self._worker = None
        return answer


def operand_bytes(work: Workload) -> dict[str, int]:
    """The size of each of the kernel's operands, by name."""
    sizes = {}
    for parameter in computation(work).params:
        extents = [int(extent) for extent in parameter.ty.shape]
        sizes[str(parameter.name)] = math.prod(extents) * (1 if "uint8" in str(parameter.ty.dtype) else 4)
    return sizes


class _Died:
    """The worker is gone: during which candidate, and how."""

    def __init__(self, candidate: int, reason: str) -> None:
        self.candidate, self.reason = candidate, reason


class _Worker:
    """``mnv2c.tuning.worker`` as a process."""

    def __init__(self) -> None:
        script = str(resources.files("mnv2c.tuning") / "worker.py")
        command = (sys.executable, "-I", "-S", script)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def ask(self, request: dict[str, Any]) -> list[list[int]] | _Died:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        current = 0
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
