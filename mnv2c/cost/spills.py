"""Vectors that a compiler found no register for: loads and stores off the stack in the loops that multiply and add.

What comes in: a program or an object file, disassembled. What goes out: those instructions, by function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mnv2c.cost.code import Code
from mnv2c.cost.cycles import decode
from mnv2c.instructions.operations import Operation

_NEVER_WRITTEN = frozenset({"sp"})


def spills(code: Code, triple: str) -> dict[str, tuple[str, ...]]:
    """The loads and stores of vectors at the stack pointer, or at a register that is a number away from it, in the
    innermost of those loops that multiply and add; functions without such are left out."""
    starts, function_at = frozenset(code.functions.values()), code.function_at()
    found: dict[str, tuple[str, ...]] = {}
    for first, last in innermost(code, triple):
        body = code.addresses[code.positions[first] : code.positions[last] + 1]
        before = _before(code, first, starts)
        operations = {address: decode(code.instructions[address], triple) for address in (*before, *body)}
        at = _stack_accesses([operations[address] for address in before], [operations[address] for address in body])
        if at:
            texts = (code.instructions[body[number]] for number in at)
            found[function_at[first]] = (*found.get(function_at[first], ()), *texts)
    return found


def innermost(code: Code, triple: str) -> list[tuple[int, int]]:
    """The loops that multiply and add, but for those around others that do; by their first address and their last."""
    able = {address for address, text in code.instructions.items() if decode(text, triple).kind == "multiply-add"}
    computing = [
        (first, last)
        for first, last in sorted(code.loops)
        if able.intersection(code.addresses[code.positions[first] : code.positions[last] + 1])
    ]
    return [loop for loop in computing if not any(_is_around(loop, other) for other in computing)]


def _is_around(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    return loop != other and loop[0] <= other[0] and other[1] <= loop[1]


def _before(code: Code, first: int, starts: frozenset[int]) -> Sequence[int]:
    """What stands before a loop in its function."""
    begin = end = code.positions[first]
    while begin and code.addresses[begin] not in starts:
        begin -= 1
    return code.addresses[begin:end]


def _stack_accesses(before: Sequence[Operation], body: Sequence[Operation]) -> list[int]:
    """Their places in ``body``. A register points into the stack where what wrote it last says so, or what any
    instruction of the loop says that leaves it to the next turn."""
    pointing = _pointing(before, _NEVER_WRITTEN)
    pointing |= _pointing(body, pointing)
    found = []
    for place, operation in enumerate(body):
        if operation.kind in ("vector load", "vector store") and not pointing.isdisjoint(operation.reads):
            found.append(place)
        pointing = _pointing([operation], pointing)
    return found


def _pointing(operations: Iterable[Operation], pointing: frozenset[str]) -> frozenset[str]:
    """The registers that point into the stack behind ``operations``."""
    for operation in operations:
        moved = operation.kind == "integer" and bool(operation.reads) and pointing.issuperset(operation.reads)
        written = frozenset(operation.writes)
        pointing = pointing | written if moved else pointing - (written - _NEVER_WRITTEN)
    return pointing
