"""A program, disassembled by LLVM, and what of it ran: runs of instructions, each so many times.

What comes in: an executable or an object file, and blocks of it that were counted. What goes out: ``Code`` and
``Run`` values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mnv2c.cost.blocks import Block
from mnv2c.cost.llvm import find_tool, run_tool

_SYMBOL = re.compile(r"^([0-9a-f]+) <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_COMMENT = re.compile(r"\s*(//|<|@).*")
_CONDITION = "eq|ne|hs|cs|lo|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le"
_BRANCH = re.compile(rf"(b(\.?({_CONDITION}))?|[ct]bn?z)\s.*0x([0-9a-f]+)$")
_TARGET = re.compile(rf"^((b|bl|blx)(\.?({_CONDITION}))?|[ct]bn?z|adrp?)(\.[wn])?\s")


@dataclass(frozen=True)
class Code:
    """Each instruction's text by address; each function's first address by name; ``loops`` are the addresses of their
    first instruction and of the branch that goes back to it."""

    instructions: dict[int, str]
    functions: dict[str, int]
    loops: frozenset[tuple[int, int]]

    @cached_property
    def loop_ends(self) -> frozenset[int]:
        """Of all loops."""
        return frozenset(end for _, end in self.loops)

    @cached_property
    def addresses(self) -> list[int]:
        """Of all instructions, in order: in Thumb some are two bytes long, some four."""
        return sorted(self.instructions)

    @cached_property
    def positions(self) -> dict[int, int]:
        """Of the addresses, in their order."""
        return {address: position for position, address in enumerate(self.addresses)}

    def function_at(self) -> dict[int, str]:
        """The function of every instruction."""
        starts = {address: name for name, address in self.functions.items()}
        found, current = {}, ""
        for address in self.addresses:
            current = starts.get(address, current)
            found[address] = current
        return found

    def addresses_of(self, block: Block) -> list[int]:
        """Of the block's instructions."""
        first = self.positions[block.address]
        return self.addresses[first : first + block.instructions]


@dataclass(frozen=True)
class Run:
    """Instructions of one function in a row, run ``count`` times from the first to the last."""

    function: str
    instructions: tuple[str, ...]
    count: int


def disassemble(binary: Path) -> Code:
    """The functions of an executable or an object file, with LLVM's objdump."""
    command = (find_tool("llvm-objdump"), "--disassemble", "--section=.text", "--no-show-raw-insn", str(binary))
    instructions: dict[int, str] = {}
    functions: dict[str, int] = {}
    loops = set()
    for line in run_tool(command).splitlines():
        if symbol := _SYMBOL.match(line):
            functions[symbol[2]] = int(symbol[1], 16)
        elif instruction := _INSTRUCTION.match(line):
            address, text = int(instruction[1], 16), " ".join(_COMMENT.sub("", instruction[2]).split())
            instructions[address] = _for_assembler(text or instruction[2])
            if (branch := _BRANCH.match(text)) and (first := int(branch[4], 16)) <= address:
                loops.add((first, address))
    return Code(instructions, functions, frozenset(loops))


def runs(code: Code, blocks: Iterable[Block], functions: Collection[str]) -> list[Run]:
    """What ran of ``functions``.

    QEMU ends a block at the end of a page too, and begins one wherever something jumps to: so instructions that follow
    one another and ran as often belong together, however QEMU cut them. Only after a branch that goes back a loop ends,
    and another may begin that ran as often.
    """
    function_at = code.function_at()
    executed: Counter[int] = Counter()
    for block in blocks:
        if function_at.get(block.address) in functions:
            for address in code.addresses_of(block):
                executed[address] += block.count
    together: list[list[int]] = []
    for address in sorted(executed):
        if together and _follows(code, executed, function_at, together[-1][-1], address):
            together[-1].append(address)
        else:
            together.append([address])
    return [_run(code, function_at, executed, addresses) for addresses in together]


def _follows(code: Code, executed: Counter[int], function_at: dict[int, str], before: int, address: int) -> bool:
    return (
        code.positions[address] == code.positions[before] + 1
        and executed[address] == executed[before]
        and function_at[address] == function_at[before]
        and before not in code.loop_ends
    )


def _run(code: Code, function_at: dict[int, str], executed: Counter[int], addresses: Sequence[int]) -> Run:
    first = addresses[0]
    return Run(function_at[first], tuple(code.instructions[address] for address in addresses), executed[first])


def _for_assembler(text: str) -> str:
    """A branch's target becomes a number that llvm-mca reads."""
    return re.sub(r"0x[0-9a-f]+$", "#0", text) if _TARGET.match(text) else text
