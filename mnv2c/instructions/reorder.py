"""The order of a block's instructions, and their registers, for a core that executes in order.

What comes in: AArch64 instructions, with as many registers as they like. What goes out: the same ones in another order
and with registers of the processor's, or None where those do not suffice.

A list scheduler: of the instructions whose operands are there, or will be first, one issues after the other, by the
model of the core. What loads does so as early as there are registers for it, in the order in which it is needed; all
else in the order that it came in. A register of which the block knows both the first write and the last read is taken
for the value alone, so that values that had one register by turns need not wait for each other.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mnv2c.instructions.a64 import REGISTER, decode
from mnv2c.instructions.inorder import Issue, Pipeline, Step
from mnv2c.instructions.operations import Operation

_WAITING = {"load": 2, "insert": 2, "other": 12}  # how many of those that are ready are looked at
_IN_A_ROW = re.compile(r"\{[^}]*,")  # registers that must have consecutive numbers
_RANKS = {"vector load": 0, "load": 1, "store": 1, "vector store": 1, "integer": 1, "insert": 3}
_FEW = 2  # general registers: what has come in one is taken out of it at once
_MEMORY = re.compile(r"\[(?P<base>[^,\]]+)(?:, #(?P<offset>-?\w+))?\]")


@dataclass(eq=False)
class _Value:
    """What is in a register from one write to the last read before the next. ``is_bound`` where it must be in
    ``register``: it was there before the block, or is read behind it. ``left`` counts its accesses to come."""

    register: str
    number: int
    is_bound: bool
    left: int = 0
    place: str = ""


@dataclass(eq=False)
class _Node:
    """An instruction. ``operands`` are the values of the registers in its text, in order; ``before`` how many must come
    first, ``after`` those that must come later; ``needed`` the position of the first that waits for it."""

    text: str
    position: int
    step: Step
    operands: list[_Value]
    accesses: list[_Value]
    writes: list[_Value]
    before: int = 0
    after: list[_Node] = field(default_factory=list)
    needed: int = 0
    is_done: bool = False

    def __post_init__(self) -> None:
        self.kind = self.step.operation.kind
        self.is_load = self.kind in ("load", "vector load")
        self.group = "load" if self.is_load else "insert" if self.kind == "insert" else "other"
        self.rank = _RANKS.get(self.kind, 2)


def reordered(
    instructions: Sequence[str],
    live_out: Collection[str],
    registers: Collection[str],
    pipeline: Pipeline,
) -> list[str] | None:
    """``registers`` may be written."""
    nodes, live_in = _graph(instructions, live_out, pipeline)
    return _Scheduler(nodes, live_in, live_out, registers, pipeline).run()


def _graph(instructions: Sequence[str], live_out: Collection[str], pipeline: Pipeline) -> tuple[list[_Node], set[str]]:
    """The instructions, each with what must come before it; and the registers that are read before they are written."""
    nodes, live_in = _nodes(instructions, live_out, pipeline)
    edges: set[tuple[int, int]] = set()
    for accesses in _accesses(nodes).values():
        edges |= set(_in_order(accesses))
    edges |= set(_in_memory(nodes))
    for first, second in edges:
        nodes[first].after.append(nodes[second])
        nodes[second].before += 1
    for node in reversed(nodes):
        node.needed = node.position
        if node.is_load or node.kind in ("integer", "insert", "move"):
            node.needed = min((later.needed for later in node.after), default=node.position)
    return nodes, live_in


def _nodes(instructions: Sequence[str], live_out: Collection[str], pipeline: Pipeline) -> tuple[list[_Node], set[str]]:
    current: dict[str, _Value] = {}
    nodes, live_in, number = [], set(), 0
    in_a_row: set[_Value] = set()
    for position, text in enumerate(instructions):
        operation = decode(text)
        tied = {*operation.accumulates, *operation.pointers, *operation.keeps} & {
            *operation.writes,
            *operation.pointers,
        }
        read = (*operation.reads, *operation.accumulates, *operation.pointers)
        for register in read:
            if register not in current:
                current[register] = _Value(register, number := number + 1, is_bound=True)
                live_in.add(register)
        before = dict(current)
        for register in operation.writes:
            if register not in tied:
                current[register] = _Value(register, number := number + 1, is_bound=register in ("flags", "sp"))
        names = [_name(match[0]) for match in REGISTER.finditer(text) if not match[0].endswith(("zr", "sp"))]
        written = sum(register.startswith(("x", "v")) for register in operation.writes)
        operands = [(current if n < written else before)[name] for n, name in enumerate(names)]
        writes = [current[register] for register in operation.writes]
        accesses = list(dict.fromkeys((*(before[register] for register in read), *writes)))
        for value in accesses:
            value.left += 1
        if _IN_A_ROW.search(text):
            in_a_row |= set(accesses)
        renamed = _renamed(operation, before, current, tied)
        step = Step(renamed, pipeline.parts_of(renamed), pipeline.cycles(renamed))
        nodes.append(_Node(text, position, step, operands, accesses, writes))
    for value in {*(current[register] for register in live_out if register in current), *in_a_row}:
        value.is_bound = True
    return nodes, live_in


def _name(register: str) -> str:
    return ("x" if register[0] in "xw" else "v") + register[1:]


def _renamed(
    operation: Operation, before: dict[str, _Value], current: dict[str, _Value], tied: Collection[str]
) -> Operation:
    """By values in place of registers."""

    def names(registers: Iterable[str], values: dict[str, _Value]) -> tuple[str, ...]:
        return tuple(f"{values[register].number}" for register in registers)

    return Operation(
        operation.kind,
        operation.bits,
        writes=names(operation.writes, current),
        reads=names(operation.reads, before),
        accumulates=names(operation.accumulates, before),
        pointers=names(operation.pointers, before),
    )


def _accesses(nodes: Sequence[_Node]) -> dict[str, list[tuple[int, bool]]]:
    """By what is accessed, the positions in order, and whether it is written there: values, and the registers that
    values are bound to."""
    found: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for node in nodes:
        operation = node.step.operation
        written = {*operation.writes, *operation.pointers}
        for value in node.accesses:
            key = value.register if value.is_bound else f"{value.number}"
            found[key].append((node.position, f"{value.number}" in written))
    return found


def _in_order(accesses: Sequence[tuple[int, bool]]) -> Iterator[tuple[int, int]]:
    """A write comes after all before it, a read after the write before it."""
    written, read = -1, list[int]()
    for position, writes in accesses:
        if writes:
            yield from ((earlier, position) for earlier in (*read, written) if 0 <= earlier != position)
            written, read = position, []
        else:
            if 0 <= written != position:
                yield written, position
            read.append(position)


def _in_memory(nodes: Sequence[_Node]) -> Iterator[tuple[int, int]]:
    """What a store may write is read or written before it or after it, as it was."""
    places = [(node, place) for node in nodes if (place := _place(node)) is not None]
    for n, (node, place) in enumerate(places):
        for earlier, other in places[:n]:
            if (place.is_stored or other.is_stored) and not place.is_beside(other):
                yield earlier.position, node.position


@dataclass(frozen=True)
class _Place:
    """In memory: ``size`` bytes at ``offset`` from the value numbered ``base``, None where that is not known."""

    is_stored: bool
    base: int | None
    offset: int
    size: int

    def is_beside(self, other: _Place) -> bool:
        """Whether they have surely nothing in common."""
        if self.base is None or self.base != other.base:
            return False
        return self.offset + self.size <= other.offset or other.offset + other.size <= self.offset


def _place(node: _Node) -> _Place | None:
    operation = node.step.operation
    if operation.kind not in ("load", "vector load", "store", "vector store") or node.text.startswith("prf"):
        return None
    is_stored = operation.kind in ("store", "vector store")
    match = _MEMORY.search(node.text)
    if match is None or operation.pointers:
        return _Place(is_stored, None, 0, 0)
    base = next((value.number for value in node.accesses if value.register == match["base"] and value.left), None)
    size = 2 * 8 if operation.kind in ("load", "store") else operation.bits // 8
    return _Place(is_stored, base, int(match["offset"] or "0", 0), size)


class _Scheduler:
    """Where the list scheduler stands: what is ready, and which registers nothing is in."""

    def __init__(
        self,
        nodes: list[_Node],
        live_in: Collection[str],
        live_out: Collection[str],
        registers: Collection[str],
        pipeline: Pipeline,
    ) -> None:
        self._issue = Issue(pipeline)
        self._kept = {value.register for node in nodes for value in node.writes if value.is_bound} | set(live_out)
        taken = self._kept | set(live_in)
        self._registers = set(registers)
        self._free = {
            kind: sorted((r for r in registers if r[0] == kind and r not in taken), key=_number) for kind in "xv"
        }
        self._ready: dict[str, list[_Node]] = {group: [] for group in _WAITING}
        for node in nodes:
            if not node.before:
                self._ready[node.group].append(node)
        for ready in self._ready.values():
            ready.sort(key=_order)
        self._usable = sum(register[0] == "v" for register in self._registers - self._kept)
        self._taken = self._pressure(nodes)
        self._sums = sum(node.kind == "integer" and self._is_new(node) for node in nodes)
        self._waiting = sorted(nodes, key=lambda node: node.needed, reverse=True)

    def run(self) -> list[str] | None:
        found = []
        while self._waiting:
            chosen = min(self._candidates(), key=self._priority, default=None)
            if chosen is None:
                return None
            found.append(self._issue_one(chosen))
        return found

    @property
    def _next(self) -> int:
        """The position of the first instruction that has not issued, or waits for one."""
        return self._waiting[-1].needed

    def _candidates(self) -> Iterator[_Node]:
        """The loads that are needed first, and the first of the others, where there are registers for them."""
        for group, count in _WAITING.items():
            for node in self._ready[group][:count]:
                if self._has_registers(node):
                    yield node

    def _priority(self, node: _Node) -> tuple[int, int, int, int]:
        rank = 0 if node.kind == "insert" and len(self._free["x"]) < _FEW else node.rank
        return self._issue.start(node.step), rank, node.needed, node.position

    def _pressure(self, nodes: Sequence[_Node]) -> list[int]:
        """How many vector registers hold something, at each instruction, where each value comes only when it is needed
        first."""
        first, last = dict[_Value, int](), dict[_Value, _Node]()
        for node in nodes:
            for value in node.accesses:
                is_new = value in node.writes and not value.is_bound
                if value.register[0] == "v" and (is_new or self._is_freed(value) or value in last):
                    first.setdefault(value, node.needed if is_new else 0)
                    last[value] = max(last.get(value, node), node, key=lambda node: node.needed)
        taken = [0] * len(nodes)
        for value, position in first.items():
            is_replaced = any(not other.is_bound for other in last[value].writes if other is not value)
            for n in range(position, last[value].needed + (not is_replaced)):
                taken[n] += 1
        return taken

    def _has_registers(self, node: _Node) -> bool:
        """Whether there are registers for what it writes, and for all that is needed before it, so that this can
        always issue; the last general register is for what is needed next, where there are sums to come."""
        wanted = [value.register[0] for value in node.writes if not value.is_bound and not value.place]
        if not wanted:
            return True
        ending = [value.register[0] for value in node.accesses if value.left == 1 and self._is_freed(value)]
        is_ahead = node.needed > self._next
        for kind in set(wanted):
            left = len(self._free[kind]) + ending.count(kind) - wanted.count(kind)
            if left < (is_ahead and kind == "x" and self._sums > 0):
                return False
            if kind == "v" and is_ahead:
                return max(self._taken[self._next : node.needed]) + wanted.count(kind) <= self._usable
        return True

    def _is_new(self, node: _Node) -> bool:
        """Whether it writes what needs a register."""
        return any(not value.is_bound for value in node.writes)

    def _is_freed(self, value: _Value) -> bool:
        """Whether its register can be another value's after its last access."""
        return bool(value.place) or (value.is_bound and value.register in self._registers - self._kept)

    def _issue_one(self, node: _Node) -> str:
        self._issue.run([node.step])
        for value in node.accesses:
            value.left -= 1
            if not value.left and value not in node.writes and self._is_freed(value):
                self._release(value)
        for value in node.writes:
            if not value.is_bound and not value.place:
                kind = value.register[0]
                value.place = self._free[kind].pop(0)
                for n in range(self._next, node.needed if kind == "v" else 0):
                    self._taken[n] += 1
        text = _with(node.text, [value.place or value.register for value in node.operands])
        for value in node.writes:
            if not value.left and not value.is_bound:
                self._release(value)
        self._ready[node.group].remove(node)
        node.is_done = True
        self._sums -= node.kind == "integer" and self._is_new(node)
        while self._waiting and self._waiting[-1].is_done:
            self._waiting.pop()
        for later in node.after:
            later.before -= 1
            if not later.before:
                bisect.insort(self._ready[later.group], later, key=_order)
        return text

    def _release(self, value: _Value) -> None:
        free = self._free[value.register[0]]
        free.append(value.place or value.register)


def _order(node: _Node) -> tuple[int, int]:
    return node.needed, node.position


def _number(register: str) -> int:
    return int(register[1:])


def _with(text: str, registers: Sequence[str]) -> str:
    """``text`` with ``registers`` in place of its own, in order."""
    found = iter(registers)

    def register(match: re.Match[str]) -> str:
        if match[0].endswith(("zr", "sp")):
            return match[0]
        return match[0][0] + next(found)[1:]

    return REGISTER.sub(register, text)
