"""Cycles of single kernels on a core that is not here: links them into one program and counts what it runs.

What comes in: compiled kernels for one CPU of a target. What goes out: estimated cycles by symbol.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mnv2c.cost.blocks import count_blocks
from mnv2c.cost.cycles import function_costs
from mnv2c.errors import ToolError
from mnv2c.targets import InstructionSet, Target
from mnv2c.toolchain import find_qemu, find_toolchain, link_program

_OPERAND_BYTES = 64 * 1024 * 1024  # more than any tensor of any of our networks

_PROGRAM = """\
#include <stdint.h>
static char memory[6][{bytes}];
{declarations}
int main(void)
{{
{calls}
    return 0;
}}
"""


def kernel_cycles(
    object_file: bytes, tasks: Mapping[str, int], target: Target, isa: InstructionSet, *, share: float = 1.0
) -> dict[str, float]:
    """Estimated cycles of one run of all tasks of each kernel on the core that ``isa`` is scheduled for, by symbol.

    ``tasks`` says how many each has of the kernels in ``object_file``. With a ``share`` below 1 only as many of the
    tasks run, the last, and stand for all: they are alike.
    """
    arguments = "void *, void *, void *, void *, void *, void *, int32_t, int32_t"
    declarations = [f"int32_t {symbol}({arguments});" for symbol in tasks]
    operands = ", ".join(f"memory[{index}]" for index in range(6))
    runs = {symbol: max(math.ceil(count * share), 1) for symbol, count in tasks.items()}
    calls = [
        f"    if ({symbol}({operands}, {count - runs[symbol]}, {count})) return 1;" for symbol, count in tasks.items()
    ]
    source = _PROGRAM.format(bytes=_OPERAND_BYTES, declarations="\n".join(declarations), calls="\n".join(calls))
    try:
        with tempfile.TemporaryDirectory(prefix="mnv2c-") as name:
            directory = Path(name)
            (directory / "kernels.o").write_bytes(object_file)
            (directory / "main.c").write_text(source, encoding="utf-8")
            toolchain = find_toolchain(target)
            link_program(toolchain, directory, ["main.c", "kernels.o"], output="kernels", static=True)
            blocks = count_blocks(find_qemu(target.architecture, plugins=True), [str(directory / "kernels")])
            costs = function_costs(directory / "kernels", blocks, set(tasks), isa.mcpu, target.triple)
    except OSError as error:
        raise ToolError(f"cannot link kernels in {tempfile.gettempdir()}: {error.strerror}") from error
    return {symbol: costs[symbol].cycles * count / runs[symbol] for symbol, count in tasks.items()}
