"""Counts how often each block of instructions runs: a program for another machine, in QEMU.

What comes in: an executable and what to feed it. What goes out: ``Block`` values. Every failure is a ToolError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mnv2c.cost.emulate import emulate


@dataclass(frozen=True)
class Block:
    """``instructions`` in a row from ``address`` on, run ``count`` times. Two blocks may overlap."""

    address: int
    instructions: int
    count: int


def count_blocks(qemu: str, command: Sequence[str], *, feed: bytes = b"") -> list[Block]:
    """Runs ``command`` under ``qemu`` with ``feed`` on its stdin, to the end."""
    total: Counter[tuple[int, int]] = Counter()  # QEMU may translate a block twice: its counts are added
    for line in emulate(qemu, command, "count_blocks", feed=feed).splitlines():
        address, instructions, count = line.split()
        total[int(address, 16), int(instructions)] += int(count)
    return [Block(address, instructions, count) for (address, instructions), count in sorted(total.items())]
