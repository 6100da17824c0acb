"""Cycles of single kernels on a core that is not here: links them into one program and counts what it runs.

What comes in: compiled kernels of one workload for one instruction set. What goes out: estimated cycles by symbol.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mnv2c import runtime
from mnv2c.cost.blocks import count_blocks
from mnv2c.cost.cycles import function_costs
from mnv2c.errors import ToolError
from mnv2c.kernels.abi import HEADER, KernelCode
from mnv2c.targets import InstructionSet, Target
from mnv2c.toolchain import find_qemu, find_toolchain, link_program

_PROGRAM = """\
#include <stddef.h>
#include "{header}"
{memory}
static void *operands[] = {{{operands}}};
{declarations}
int main(void)
{{
{calls}
    return 0;
}}
"""


def kernel_cycles(
    object_file: bytes,
    kernels: Sequence[KernelCode],
    operand_bytes: Sequence[int],
    target: Target,
    isa: InstructionSet,
    *,
    share: float = 1.0,
) -> dict[str, float]:
    """Estimated cycles of one run of all tasks of each kernel on the core that ``isa`` is scheduled for, by symbol.

    ``object_file`` holds ``kernels``, which take operands of ``operand_bytes``. With a ``share`` below 1 only as many
    of the tasks run, the last, and stand for all: they are alike. ToolError where the program cannot be made or run.
    """
    runs = {kernel.symbol: max(math.ceil(kernel.tasks * share), 1) for kernel in kernels}
    source = _source(kernels, operand_bytes, runs)
    try:
        with tempfile.TemporaryDirectory(prefix="mnv2c-") as name:
            directory = Path(name)
            (directory / "kernels.o").write_bytes(object_file)
            (directory / HEADER).write_text(runtime.source(HEADER), encoding="utf-8")
            (directory / "main.c").write_text(source, encoding="utf-8")
            toolchain = find_toolchain(target)
            link_program(toolchain, directory, ["main.c", "kernels.o"], output="kernels", static=True)
            blocks = count_blocks(find_qemu(target.architecture, plugins=True), [str(directory / "kernels")])
            costs = function_costs(directory / "kernels", blocks, set(runs), isa.mcpu, target.triple)
    except OSError as error:
        raise ToolError(f"cannot link kernels in {tempfile.gettempdir()}: {error.strerror}") from error
    return {k.symbol: costs[k.symbol].cycles * k.tasks / runs[k.symbol] for k in kernels}


def _source(kernels: Sequence[KernelCode], operand_bytes: Sequence[int], runs: dict[str, int]) -> str:
    """A program that runs each kernel once, on operands and scratch of zeros."""
    sizes = [*operand_bytes, max(kernel.scratch_bytes for kernel in kernels)]
    memory = [f"static _Alignas(64) char memory{i}[{max(size, 1)}];" for i, size in enumerate(sizes)]
    calls = [
        f"    if ({k.symbol}(operands, memory{len(operand_bytes)}, {k.tasks - runs[k.symbol]}, {k.tasks})) return 1;"
        for k in kernels
    ]
    return _PROGRAM.format(
        header=HEADER,
        memory="\n".join(memory),
        operands=", ".join(f"memory{i}" for i in range(len(operand_bytes))),
        declarations="\n".join(f"mnv2c_kernel {kernel.symbol};" for kernel in kernels),
        calls="\n".join(calls),
    )
