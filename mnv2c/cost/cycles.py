"""Cycles that a core needs for straight-line code, by LLVM's model of it (llvm-mca).

What comes in: an executable, blocks of it, a core. What goes out: cycles per run of each block. Every block is taken as
the body of a loop, as inner loops are; caches, branch prediction and what lies before a block are not modelled.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv2c.cost.blocks import Block
from mnv2c.errors import ToolError

_ITERATIONS = 50
_NEWEST, _OLDEST = 30, 15  # versions of LLVM in Debian's program names
MODELLED_AS = {"cortex-a76": "neoverse-n1"}
"""LLVM 19 schedules for the A76 as for the A57; the Neoverse N1 is the same core with a model of its own."""

_SYMBOL = re.compile(r"^([0-9a-f]+) <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_COMMENT = re.compile(r"\s*(//|<|@).*")
_BRANCH = re.compile(r"^(b(\.\w+)?|bl|cbn?z|tbn?z|adrp?)\s")


@dataclass(frozen=True)
class Code:
    """A program, disassembled: each instruction's text by address, each function's first address by name."""

    instructions: dict[int, str]
    functions: dict[str, int]

    def function_at(self) -> dict[int, str]:
        """The function of every instruction."""
        starts = {address: name for name, address in self.functions.items()}
        found, current = {}, ""
        for address in sorted(self.instructions):
            current = starts.get(address, current)
            found[address] = current
        return found

    def text(self, block: Block) -> list[str]:
        """The block's instructions; all of an AArch64 program's are four bytes long."""
        return [self.instructions[block.address + 4 * index] for index in range(block.instructions)]


def disassemble(executable: Path) -> Code:
    """All of it, with LLVM's objdump."""
    command = (_find("llvm-objdump"), "--disassemble", "--no-show-raw-insn", str(executable))
    instructions: dict[int, str] = {}
    functions: dict[str, int] = {}
    for line in _run(command).splitlines():
        if symbol := _SYMBOL.match(line):
            functions[symbol[2]] = int(symbol[1], 16)
        elif instruction := _INSTRUCTION.match(line):
            instructions[int(instruction[1], 16)] = _for_mca(instruction[2])
    return Code(instructions, functions)


def cycles(blocks: Sequence[list[str]], core: str, triple: str) -> list[float]:
    """Cycles for one run of each block of instructions on ``core``."""
    distinct = list(dict.fromkeys("\n".join(block) for block in blocks))
    regions = [f"# LLVM-MCA-BEGIN\n{text}\n# LLVM-MCA-END" for text in distinct]
    command = (
        _find("llvm-mca"),
        f"-mtriple={triple}",
        f"-mcpu={MODELLED_AS.get(core, core)}",
        f"-iterations={_ITERATIONS}",
        "--all-views=0",
        "--summary-view",
        "--json",
    )
    answer = json.loads(_run(command, feed="\n".join(regions) + "\n"))
    totals = [region["SummaryView"]["TotalCycles"] / _ITERATIONS for region in answer["CodeRegions"]]
    if len(totals) != len(distinct):
        raise ToolError(f"llvm-mca answered for {len(totals)} of {len(distinct)} blocks")
    by_text = dict(zip(distinct, totals, strict=True))
    return [by_text["\n".join(block)] for block in blocks]


@dataclass(frozen=True)
class FunctionCost:
    """All runs of one function together."""

    instructions: int
    cycles: float


def function_costs(
    executable: Path, blocks: Sequence[Block], functions: Collection[str], core: str, triple: str
) -> dict[str, FunctionCost]:
    """What ``functions`` of ``executable`` cost, whose ``blocks`` were counted; those that never ran are left out."""
    code = disassemble(executable)
    function_at = code.function_at()
    counted = [block for block in blocks if function_at.get(block.address) in functions]
    costs: dict[str, FunctionCost] = {}
    for block, once in zip(counted, cycles([code.text(block) for block in counted], core, triple), strict=True):
        name = function_at[block.address]
        before = costs.get(name, FunctionCost(0, 0.0))
        instructions = before.instructions + block.count * block.instructions
        costs[name] = FunctionCost(instructions, before.cycles + block.count * once)
    return costs


def model_name(core: str) -> str:
    """Whose model of ``core`` it is, e.g. ``llvm-mca 19.1.7, cortex-a72``."""
    found = re.search(r"version (\S+)", _run((_find("llvm-mca"), "--version")))
    return f"llvm-mca {found[1] if found else '?'}, {MODELLED_AS.get(core, core)}"


def _for_mca(text: str) -> str:
    """Without comments; a branch's target becomes a number that llvm-mca reads."""
    text = " ".join(_COMMENT.sub("", text).split())
    return re.sub(r"0x[0-9a-f]+$", "#0", text) if _BRANCH.match(text) else text


def _find(tool: str) -> str:
    """The newest there is: Debian names them llvm-mca-19, distributions with one LLVM llvm-mca."""
    for name in [*(f"{tool}-{number}" for number in range(_NEWEST, _OLDEST - 1, -1)), tool]:
        if path := shutil.which(name):
            return path
    raise ToolError(f"{tool} is missing, which knows the cores: apt install llvm-19")


def _run(command: Sequence[str], *, feed: str = "") -> str:
    try:
        done = subprocess.run(command, input=feed, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("error")), f"status {done.returncode}"
        )
        raise ToolError(f"{Path(command[0]).name} failed: {reason}")
    return done.stdout
