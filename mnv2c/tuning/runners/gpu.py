"""Times candidates on a GPU, here or on another machine over ssh, in a process that may die: ``gpu_timing.c``.

What comes in: a cubin of candidates and their list. What goes out: their times, by the GPU's own clock. A machine with
the GPU needs its driver alone.
"""

from __future__ import annotations

import importlib.metadata
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tvm.ir.utils import derived_object

from mnv2c import processes
from mnv2c.cost.gpu import MULTIPROCESSORS
from mnv2c.deploy.ssh import Host, run_there
from mnv2c.errors import TargetError, ToolError
from mnv2c.precision import Precision
from mnv2c.scratch import Scratch
from mnv2c.targets import InstructionSet, Target
from mnv2c.toolchain import find_toolchain, link_program
from mnv2c.tuning.gpu_timing import LIST
from mnv2c.tuning.records import MEASURED, Origin
from mnv2c.tuning.runners import ROUNDS, BatchRunner, Conditions, Died, Timing, time_survivors

_SECONDS = 60  # for a batch; a candidate that takes longer hangs
_SHOWN = 300  # characters of what it says on stderr
_PROGRAM = "gpu_timing"
_TOO_LONG = 124  # as ``timeout`` has it


@dataclass(frozen=True)
class Gpu:
    """``capability`` is the number in ``sm_90``; ``hertz`` the highest clock; ``driver`` is
    cuDriverGetVersion's."""

    capability: int
    multiprocessors: int
    hertz: float
    driver: int
    name: str

    @property
    def processor(self) -> str:
        """For records: ``nvidia-h100-80gb-hbm3``."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@derived_object
class GpuRunner(BatchRunner):
    """Of those instruction sets of ``target`` that the GPU has, times for the best one: ``conditions.isa``.

    The GPU is that of ``host``, or this machine's; ``precision`` is that of the kernels to come.
    """

    def __init__(
        self, target: Target, precision: Precision = "fp32", *, host: Host | None = None, rounds: int = ROUNDS
    ) -> None:
        super().__init__()
        self._rounds, self._host = rounds, host
        self._scratch = Scratch()
        self._directory = self._scratch.path
        self._compile(target)
        gpu = self._describe()
        isa = _best(target, gpu)
        tvm = importlib.metadata.version("apache-tvm")
        self.conditions = Conditions(
            target,
            isa,
            Origin(gpu.processor, f"{gpu.name}, driver {gpu.driver}", MEASURED, tvm, (1,)),
            macs_per_second=MULTIPROCESSORS[isa.mcpu].multiply_adds(precision) * gpu.multiprocessors * gpu.hertz,
            drifts=True,
        )

    def time(self, library: Path, indices: Sequence[int]) -> list[Timing]:
        return time_survivors(indices, lambda remaining: self._ask(library, remaining))

    def close(self) -> None:
        self._scratch.close()

    def _compile(self, target: Target) -> None:
        source = (resources.files("mnv2c.tuning") / f"{_PROGRAM}.c").read_text(encoding="utf-8")
        try:
            (self._directory / f"{_PROGRAM}.c").write_text(source, encoding="utf-8")
        except OSError as error:
            raise ToolError(f"cannot write {self._directory}: {error.strerror}") from error
        inputs = [f"{_PROGRAM}.c", "-ldl"]
        link_program(find_toolchain(target), self._directory, inputs, output=_PROGRAM, static=False)

    def _describe(self) -> Gpu:
        done = self._run([])
        if done.returncode != 0:
            raise TargetError(f"no GPU to time kernels on: {_reason(done)}")
        number = r"([1-9]\d{0,8})"
        pattern = f"^{number} {number} {number} {number} (.+)$"
        told = re.search(pattern, done.stdout, re.MULTILINE | re.ASCII)  # a shell may say more
        if told is None:
            raise TargetError(f"no GPU to time kernels on: it says {done.stdout.strip()[:80]!r} of itself")
        capability, multiprocessors, kilohertz, driver = map(int, told.groups()[:4])
        return Gpu(capability, multiprocessors, kilohertz * 1e3, driver, told[5])

    def _ask(self, library: Path, indices: Sequence[int]) -> list[list[list[int]]] | Died:
        """Asks for some of the library's candidates, by their numbers."""
        operands, *kernels = library.with_suffix(LIST).read_text(encoding="ascii").splitlines()
        wanted = self._directory / f"wanted{LIST}"
        wanted.write_text("\n".join([operands, *(kernels[index] for index in indices), ""]), encoding="ascii")
        done = self._run([library, wanted], str(self._rounds))
        if done.returncode == _TOO_LONG:
            return Died(_running(indices, done.stdout), f"still running after {_SECONDS} s")
        if done.returncode != 0:
            return Died(_running(indices, done.stdout), _reason(done))
        lines = re.findall(r"^times((?: [1-9]\d{0,14})+)$", done.stdout, re.MULTILINE | re.ASCII)
        times = [[int(time) for time in line.split()] for line in lines]
        if [len(line) for line in times] != [self._rounds] * len(indices):
            raise ToolError(
                f"{_PROGRAM} printed something else than {self._rounds} times for each of {len(indices)} kernels"
            )
        return [[line] for line in times]

    def _run(self, files: Sequence[Path], *arguments: str) -> processes.Finished:
        """The program on ``files`` and ``arguments``; status ``_TOO_LONG`` where it does not end in time."""
        program = self._directory / _PROGRAM
        if self._host is not None:
            command = [f"./{_PROGRAM}", *(path.name for path in files), *arguments]
            return run_there(self._host, [program, *files], command, seconds=_SECONDS)
        told = [str(program), *map(str, files), *arguments]
        try:
            return processes.run(told, seconds=_SECONDS)
        except subprocess.TimeoutExpired as error:
            return subprocess.CompletedProcess(told, _TOO_LONG, (error.stdout or b"").decode(), "")


def _best(target: Target, gpu: Gpu) -> InstructionSet:
    """As the library chooses when a context is created; PTX is left to the driver, and never tuned."""
    for isa in target.instruction_sets:
        number = int(isa.mcpu.rpartition("_")[2])
        if isa.mcpu in MULTIPROCESSORS and number // 10 == gpu.capability // 10 and number <= gpu.capability:
            return isa
    raise TargetError(f"target {target.name}: no code for {gpu.name}, whose compute capability is {gpu.capability}")


def _running(indices: Sequence[int], printed: str) -> int:
    """The candidate whose number was printed last."""
    numbers = [int(line) for line in re.findall(r"^\d{1,6}$", printed, re.MULTILINE | re.ASCII)]
    return indices[min(numbers[-1] if numbers else 0, len(indices) - 1)]


def _reason(done: processes.Finished) -> str:
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name})"
    return " ".join(done.stderr.split())[:_SHOWN] or f"status {done.returncode}"
