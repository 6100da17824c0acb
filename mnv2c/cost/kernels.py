"""Cycles of single kernels on a core that is not here: links them into one program and counts what it runs and misses.

What comes in: compiled kernels of one workload for one instruction set. What goes out: a ``KernelCost`` by symbol.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv2c import runtime
from mnv2c.cost.blocks import count_blocks
from mnv2c.cost.caches import simulate
from mnv2c.cost.code import disassemble, runs
from mnv2c.cost.cores import LINE_BYTES, core_for
from mnv2c.cost.cycles import function_costs
from mnv2c.cost.spills import spills
from mnv2c.errors import ToolError
from mnv2c.kernels.abi import HEADER, KernelCode
from mnv2c.scratch import Scratch
from mnv2c.targets import InstructionSet, Target
from mnv2c.toolchain import find_qemu, find_toolchain, link_program

_MARKER = "mnv2c_next_part"
_PROGRAM = """\
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <stddef.h>
#include <sys/mman.h>
#include "{header}"
static volatile char other[{other}];
static void *const operands[] = {{{operands}}};
{declarations}
__attribute__((noinline)) void {marker}(void)
{{
    __asm__ volatile("");
}}

/* A part that leaves nothing of the operands in the L1; the next is the kernel's. */
static void begin(void)
{{
    {marker}();
    for (size_t i = 0; i < sizeof other; i += {line}) (void)other[i];
    {marker}();
}}

int main(void)
{{
    void *place = (void *){place};
    if (mmap(place, {size}, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != place) return 1;
{calls}
    return 0;
}}
"""
_MANY_L1S = 8
_RUNS, _TASKS = 8, 4  # of a kernel whose tasks do not all run; and tasks in each, at least, since a call costs as well
_PLACE = 0x60000000
"""The operands' address, which is free in every process: always the same, so that a kernel misses the same lines
whatever is linked with it, but for those of its constants and its stack."""


@dataclass(frozen=True)
class KernelCost:
    """One run of all tasks. ``l1_misses`` are lines; ``cycles`` are those of the core's model and what the misses add.

    ``unknown`` counts the instructions, by mnemonic, that the model does not know; ``spills`` are the loads and stores
    of vectors on the stack in its inner loops."""

    cycles: float
    l1_misses: float
    unknown: Counter[str]
    spills: tuple[str, ...]


def kernel_costs(
    object_file: bytes,
    kernels: Sequence[KernelCode],
    operand_bytes: Sequence[int],
    target: Target,
    isa: InstructionSet,
    *,
    share: float = 1.0,
) -> dict[str, KernelCost]:
    """What each kernel costs on the core that ``isa`` is scheduled for, by symbol.

    ``object_file`` holds ``kernels``, which take operands of ``operand_bytes``. With a ``share`` below 1 only as many
    of the tasks run, in a few runs from the first to the last, and stand for all. Nothing is in the L1 when a kernel
    begins. ToolError where the program cannot be made or run, TargetError where there is no model of the core.
    """
    core = core_for(isa.mcpu, target.architecture)
    ran = {kernel.symbol: _sample(kernel.tasks, share) for kernel in kernels}
    qemu = find_qemu(target.architecture, plugins=True)
    try:
        with Scratch() as scratch:
            source = _source(kernels, operand_bytes, ran, _MANY_L1S * core.l1.bytes)
            program = _link(scratch, object_file, source, target)
            code, command = disassemble(program), [str(program)]
            traffic = simulate(qemu, command, (core.l1,), marker=code.functions[_MARKER])[2::2]
            costs = function_costs(runs(code, count_blocks(qemu, command), set(ran)), isa.mcpu, target.triple)
    except OSError as error:
        raise ToolError(f"cannot link kernels in {tempfile.gettempdir()}: {error.strerror}") from error
    found, spilled = {}, spills(code, target.triple)
    for kernel, missed in zip(kernels, traffic, strict=True):
        cost, all_tasks = costs[kernel.symbol], kernel.tasks / sum(map(len, ran[kernel.symbol]))
        misses = missed.misses[0] * all_tasks
        cycles = cost.cycles * all_tasks + misses * core.l1_miss
        found[kernel.symbol] = KernelCost(cycles, misses, cost.unknown, spilled.get(kernel.symbol, ()))
    return found


def _link(directory: Path, object_file: bytes, source: str, target: Target) -> Path:
    (directory / "kernels.o").write_bytes(object_file)
    (directory / HEADER).write_text(runtime.source(HEADER), encoding="utf-8")
    (directory / "main.c").write_text(source, encoding="utf-8")
    link_program(find_toolchain(target), directory, ["main.c", "kernels.o"], output="kernels", static=True)
    return directory / "kernels"


def _sample(tasks: int, share: float) -> list[range]:
    """Runs of tasks, evenly spread: the last columns of a ragged tile may be a quarter of the tasks, and dearer or
    cheaper than the others; neighbours find each other's rows or weights in the L1."""
    count = max(math.ceil(tasks * share), 1)
    runs = min(_RUNS, max(count // _TASKS, 1))
    bounds = [number * count // runs for number in range(runs + 1)]
    left_out = [(2 * number + 1) * (tasks - count) // (2 * runs) for number in range(runs)]
    return [range(b + out, e + out) for b, e, out in zip(bounds[:-1], bounds[1:], left_out, strict=True)]


def _source(
    kernels: Sequence[KernelCode], operand_bytes: Sequence[int], ran: dict[str, list[range]], other: int
) -> str:
    """A program that runs those tasks of each kernel, on operands and scratch of zeros; before that it reads ``other``
    bytes."""
    scratch_bytes = max(kernel.scratch_bytes for kernel in kernels)
    *places, end = itertools.accumulate((_round_up(size) for size in (*operand_bytes, scratch_bytes)), initial=_PLACE)
    *operands, scratch = (f"(void *){place:#x}" for place in places)
    calls = []
    for kernel in kernels:
        calls.append("    begin();")
        for run in ran[kernel.symbol]:
            calls.append(f"    if ({kernel.symbol}(operands, {scratch}, {run.start}, {run.stop})) return 1;")
    return _PROGRAM.format(
        header=HEADER,
        operands=", ".join(operands),
        declarations="\n".join(f"mnv2c_kernel {kernel.symbol};" for kernel in kernels),
        calls="\n".join(calls),
        marker=_MARKER,
        other=other,
        line=LINE_BYTES,
        place=f"{_PLACE:#x}",
        size=end - _PLACE,
    )


def _round_up(size: int) -> int:
    return -(-max(size, 1) // LINE_BYTES) * LINE_BYTES
