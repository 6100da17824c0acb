"""The static memory plan: where in the arena each edge of the graph lies.

What comes in: a graph after ``passes``, whose ops run in order. What goes out: a byte offset for every edge but the
input and the outputs, which are the caller's memory. Two edges overlap only where their lives do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mnv2c.codegen.program import ALIGNMENT
from mnv2c.ir.graph import Graph


@dataclass(frozen=True)
class MemoryPlan:
    """``offsets`` in bytes by edge; ``arena_bytes`` is the arena's size."""

    offsets: Mapping[str, int]
    arena_bytes: int


@dataclass(frozen=True)
class _Life:
    """An edge is written by op number ``first`` and read for the last time by op number ``last``."""

    edge: str
    nbytes: int
    first: int
    last: int

    def meets(self, other: _Life) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(graph: Graph) -> MemoryPlan:
    """The longest lives first (the shortcuts), the largest of equals, each at the lowest offset free all its life.

    Reaches ``least_arena_bytes`` on every shipped spec; by size alone it does not.
    """
    placed: list[tuple[int, _Life]] = []
    for life in sorted(_lives(graph), key=lambda life: (life.first - life.last, -life.nbytes, life.first)):
        offset = 0
        for taken, other in sorted(placed, key=lambda place: place[0]):
            if life.meets(other) and taken < offset + life.nbytes:
                offset = max(offset, taken + other.nbytes)
        placed.append((offset, life))
    end = max((offset + life.nbytes for offset, life in placed), default=0)
    return MemoryPlan({life.edge: offset for offset, life in placed}, end)


def least_arena_bytes(graph: Graph) -> int:
    """What no plan can do without: the largest sum of edges alive at the same time."""
    lives = _lives(graph)
    return max(sum(life.nbytes for life in lives if life.first <= now <= life.last) for now in range(len(graph.ops)))


def _lives(graph: Graph) -> list[_Life]:
    numbers = {op.name: number for number, op in enumerate(graph.ops)}
    lives = []
    for op in graph.ops[1:]:
        if op.name not in graph.outputs.values():
            last = max(numbers[user.name] for user in graph.users(op.name))
            lives.append(_Life(op.name, -(-op.type.nbytes // ALIGNMENT) * ALIGNMENT, numbers[op.name], last))
    return lives
