"""A model of cores that issue two instructions a cycle, in order: Cortex-A7, A53 and A55.

What comes in: instructions as operations, taken as the body of a loop. What goes out: cycles per turn of the loop, once
it has settled. Caches, branch prediction and what lies before the loop are not modelled.

Two instructions issue in a cycle where neither waits for the other and they need no part of the core both. An
instruction waits until what it reads is there; a multiply-add needs what it adds to only after its product, so that a
chain of them runs at ``accumulate`` cycles each. The parts and what they are from:

- A53: Arm publishes no guide. ncnn's note ``arm-a53-a55-dual-issue.md`` (measured: a vector load of 128 bits stands
  alone for two cycles, one of 64 bits for one, beside an insert at most; loads of integers and the arithmetic of
  pointers pair with FMLA); latencies as in the schedule of XNNPACK's ``f32-gemm/6x8-aarch64-neonfma-cortex-a53`` and
  LLVM's ``AArch64SchedA53.td``. Its stores of vectors take the same port. Not modelled: ncnn's rule that no vector load
  issues in the fourth cycle of a multiply-add.
- A55: Arm's Cortex-A55 Software Optimization Guide (latencies; 64 bits are read a cycle, 128 written) and ncnn's note:
  64-bit vector loads and inserts pair with FMLA, 128-bit loads do not.
- A7: its NEON unit computes 32 bits a cycle (wlog.flatlib.jp, VFP Benchmark, 14 February 2014: 2 flops a cycle in
  ``vfma.f32`` of any width); it pairs integer instructions and branches alone (Arm's description of it as partly dual
  issue). Its latencies are rough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from mnv2c.instructions.operations import Kind, Operation

VERSION = 1
"""Of the model: part of its name, by which estimates are told apart. Another number wherever its answers change."""

_SETTLING, _TURNS = 4, 8
_UNKNOWN = 10
_COMPUTES: tuple[Kind, ...] = ("multiply-add", "arithmetic", "move", "insert")


@dataclass(frozen=True)
class Pipeline:
    """One core.

    ``parts`` are those that a kind of instruction holds, of which there is one each; kinds without any wait for none.
    Vectors are computed ``compute_bits`` a cycle, memory is read ``load_bits`` and written ``store_bits``: what is
    wider holds its parts for longer, and loads hold ``wide_load`` besides. ``latencies`` are in cycles, to the first
    use, 1 where there is none. Of two instructions that issue together one at least is of a kind in ``pairs``.
    """

    parts: Mapping[Kind, tuple[str, ...]]
    latencies: Mapping[Kind, int]
    accumulate: int
    compute_bits: int = 128
    load_bits: int = 64
    store_bits: int = 128
    wide_load: tuple[str, ...] = ()
    pairs: tuple[Kind, ...] = get_args(Kind)

    def cycles(self, operation: Operation) -> int:
        """For which it holds its parts."""
        if operation.kind == "divide":
            return self.latencies["divide"]
        if operation.kind in ("load", "vector load"):
            return -(-operation.bits // self.load_bits)
        if operation.kind in ("store", "vector store"):
            return -(-operation.bits // self.store_bits)
        return -(-operation.bits // self.compute_bits) if operation.kind in _COMPUTES else 1

    def parts_of(self, operation: Operation) -> tuple[str, ...]:
        """Those that it holds."""
        is_wide = operation.kind == "vector load" and operation.bits > self.load_bits
        return (*self.parts.get(operation.kind, ()), *(self.wide_load if is_wide else ()))


_IN_MEMORY: dict[Kind, tuple[str, ...]] = {
    "load": ("memory",),
    "store": ("memory",),
    "multiply": ("multiplier",),
    "divide": ("divider",),
    "branch": ("branch",),
}
_A53 = Pipeline(
    parts={
        **_IN_MEMORY,
        "multiply-add": ("vector", "port"),
        "arithmetic": ("vector", "port"),
        "move": ("vector", "port"),
        "insert": ("vector",),
        "vector load": ("memory", "port"),
        "vector store": ("memory", "port"),
    },
    latencies={
        "multiply-add": 8,
        "arithmetic": 4,
        "move": 3,
        "insert": 3,
        "vector load": 4,
        "load": 3,
        "multiply": 3,
        "divide": 18,
    },
    accumulate=4,
)
_A55 = Pipeline(
    parts={
        **_IN_MEMORY,
        "multiply-add": ("vector",),
        "arithmetic": ("vector",),
        "move": ("vector",),
        "insert": ("insert",),
        "vector load": ("memory",),
        "vector store": ("memory",),
    },
    latencies={
        "multiply-add": 4,
        "arithmetic": 4,
        "move": 2,
        "insert": 2,
        "vector load": 4,
        "load": 3,
        "multiply": 3,
        "divide": 13,
    },
    accumulate=4,
    wide_load=("vector",),
)
_A7 = Pipeline(
    parts={
        **_IN_MEMORY,
        "multiply-add": ("vector",),
        "arithmetic": ("vector",),
        "move": ("vector",),
        "insert": ("vector",),
        "vector load": ("memory",),
        "vector store": ("memory",),
    },
    latencies={
        "multiply-add": 8,
        "arithmetic": 4,
        "move": 4,
        "insert": 4,
        "vector load": 4,
        "load": 3,
        "multiply": 3,
        "divide": 18,
    },
    accumulate=8,
    compute_bits=32,
    store_bits=64,
    pairs=("integer", "branch", "nop"),
)
PIPELINES = {"cortex-a7": _A7, "cortex-a53": _A53, "cortex-a55": _A55}
"""By LLVM's name of the core."""


def cycles(body: Sequence[Operation], pipeline: Pipeline, *, settling: int = _SETTLING, turns: int = _TURNS) -> float:
    """Cycles for one turn of the loop ``body``: the mean of ``turns``, after those of ``settling``."""
    steps = [Step(operation, pipeline.parts_of(operation), pipeline.cycles(operation)) for operation in body]
    issue = Issue(pipeline)
    for _ in range(settling):
        issue.run(steps)
    settled = issue.position
    for _ in range(turns):
        issue.run(steps)
    return (issue.position - settled) / turns


@dataclass(frozen=True)
class Step:
    """An instruction on one core: it holds ``parts`` for ``held`` cycles."""

    operation: Operation
    parts: tuple[str, ...]
    held: int


class Issue:
    """Where the core stands: ``_ready`` is when each register can be read, ``_late`` when a multiply-add can add to it,
    ``_free`` when each part is no longer held; ``_issued`` is what this cycle has issued."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._cycle = 0
        self._issued: list[Kind] = []
        self._ready: dict[str, int] = {}
        self._late: dict[str, int] = {}
        self._free: dict[str, int] = {}

    @property
    def position(self) -> float:
        """In cycles: one whose second place is free counts half."""
        return self._cycle + len(self._issued) / 2

    def run(self, steps: Sequence[Step]) -> None:
        """One instruction after the other."""
        for step in steps:
            if (start := self.start(step)) > self._cycle:
                self._cycle, self._issued = start, []
            self._finish(step)

    def start(self, step: Step) -> int:
        """The cycle in which it would issue, next."""
        operation = step.operation
        start = self._cycle if self._fits_beside(operation.kind) else self._cycle + 1
        for times, names in (
            (self._ready, operation.reads),
            (self._late, operation.accumulates),
            (self._free, step.parts),
        ):
            for name in names:
                if (time := times.get(name, 0)) > start:  # max takes longer, and this is where a build spends its time
                    start = time
        return start

    def _fits_beside(self, kind: Kind) -> bool:
        if not self._issued:
            return True
        if len(self._issued) == 2 or "unknown" in (kind, self._issued[0]):
            return False
        return kind in self._pipeline.pairs or self._issued[0] in self._pipeline.pairs

    def _finish(self, step: Step) -> None:
        """Holds its parts, and says when what it writes is there."""
        now, operation, kind = self._cycle, step.operation, step.operation.kind
        self._issued.append(kind)
        for part in step.parts:
            self._free[part] = now + step.held
        latency = _UNKNOWN if kind == "unknown" else self._pipeline.latencies.get(kind, 1)
        beats = (
            step.held - 1 if kind in ("load", "vector load") else 0
        )  # lanes are computed on as they come, not loaded
        for register in operation.writes:
            self._ready[register] = self._late[register] = now + latency + beats
        for register in operation.accumulates:
            self._late[register] = now + max(self._pipeline.accumulate, step.held)
        for register in operation.pointers:
            self._ready[register] = now + 1
