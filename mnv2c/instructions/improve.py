"""Kernels for a core that executes in order: every block of the finished assembly in a better order.

What comes in: AArch64 assembly as LLVM writes it, without debug information. What goes out: assembly that computes the
same, bit for bit.

LLVM orders for such cores too, but reads 128 bits at once and every value of the input alone, and gives out registers
such that one load waits for the last use of another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from mnv2c.instructions.a64 import decode
from mnv2c.instructions.assembly import REGISTERS, Block, rewritten
from mnv2c.instructions.inorder import Pipeline, cycles
from mnv2c.instructions.loads import in_halves
from mnv2c.instructions.reorder import reordered

_LANES = (4, 2, 1)


def improved(text: str, pipeline: Pipeline) -> str:
    """``text`` with the blocks that the core is slower with than with others that compute the same, replaced."""
    return rewritten(text, lambda block: _improved(block, pipeline))


def _improved(block: Block, pipeline: Pipeline) -> Sequence[str]:
    """The first of what the block can be that is faster than the block."""
    before = _cycles(block.instructions, block, pipeline)
    faster = (body for body in _choices(block, pipeline) if _cycles(body, block, pipeline) < before)
    return next(faster, block.instructions)


def _choices(block: Block, pipeline: Pipeline) -> Iterator[Sequence[str]]:
    halved = (in_halves(block.instructions, block.live_out, lanes=lanes) for lanes in _LANES)
    tried: list[Sequence[str]] = []
    for body in itertools.chain(halved, [block.instructions]):
        if body in tried:
            continue
        tried.append(body)
        found = reordered(body, block.live_out - block.spare, REGISTERS, pipeline)
        if found is not None:
            yield found


def _cycles(body: Sequence[str], block: Block, pipeline: Pipeline) -> float:
    operations = [decode(text) for text in (*body, *([block.end] if block.end else []))]
    return cycles(operations, pipeline, settling=1, turns=2)
