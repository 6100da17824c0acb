"""TIR passes of our own: prefetches, the ragged ends of task loops, and vectors cut short.

What comes in: a lowered PrimFunc whose loops carry the annotations below, which the schedule templates set. What goes
out: the same computation, ready for TVM's LoopPartition and VectorizeLoop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import tvm
from tvm import tirx
from tvm_ffi import structural_map, structural_walk

Part = TypeVar("Part")

TASK = "mnv2c.task"
RAGGED = "mnv2c.ragged"  # such a TASK loop's last turn may be cut short; it gets code of its own
PREFETCH = "mnv2c.prefetch"  # such a loop prefetches the weights that lie so many elements after those it reads
TURNS = "mnv2c.turns"  # the loop around it over which those prefetches are spread
TAIL = "pragma_loop_partition_hint"  # LoopPartition splits off the last, shorter iteration of such a loop
PANEL = 16  # columns of a weight panel: one cache line of fp32, a whole number of vectors on every CPU


def insert_prefetches(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
    """Each iteration of a PREFETCH loop prefetches one of the rows of weights that it reads, so many elements ahead.

    The loop's body reads as many rows as the TURNS loop around it has turns; iteration ``p`` of that one does row
    ``p % turns``, so that ``turns`` iterations prefetch all of them, each once.
    """

    def take_turns(outer: tirx.For) -> tirx.Stmt:
        if TURNS not in outer.annotations:
            return outer
        turn = tirx.floormod(outer.loop_var, outer.annotations[TURNS])
        body = structural_map(outer.body, (tirx.For, lambda loop: _with_prefetch(loop, turn)))
        kept = {key: value for key, value in outer.annotations.items() if key != TURNS}
        return tirx.For(outer.loop_var, outer.min, outer.extent, outer.kind, body, annotations=kept)

    return func.with_body(structural_map(func.body, (tirx.For, take_turns)))


def _with_prefetch(loop: tirx.For, row: tirx.Expr) -> tirx.Stmt:
    if PREFETCH not in loop.annotations:
        return loop
    loads: list[tvm.ir.TensorLoad] = []
    inner: list[tirx.Var] = []
    structural_walk(loop.body, [(tvm.ir.TensorLoad, loads.append), (tirx.For, lambda f: inner.append(f.loop_var))])
    load = next(load for load in loads if load.source.name.startswith("weight"))
    first = structural_map(load.indices[0], (tirx.Var, lambda var: _zero_if_among(inner, var)))
    ahead = tirx.BufferLoad(load.source, [first + row * PANEL + loop.annotations[PREFETCH]])
    body = tirx.SeqStmt([tirx.Evaluate(_prefetch_into_l2(ahead)), loop.body])
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)


def _zero_if_among(variables: list[tirx.Var], var: tirx.Var) -> tirx.Expr:
    return tirx.const(0, "int32") if any(var.same_as(other) for other in variables) else var


def _prefetch_into_l2(load: tvm.ir.TensorLoad) -> tirx.Expr:
    """LLVM's ``prefetch(address, read, locality 2, data)``; past the end of the weights it does nothing."""
    read, locality, data = (tirx.const(value, "int32") for value in (0, 2, 1))
    return tirx.call_llvm_intrin("void", "llvm.prefetch.p0", tirx.address_of(load), read, locality, data)


ENOUGH_TASKS = 128
"""With so many, eight threads that each do a whole number of tasks are busy at least 94 % of the time. The loops inside
have constant bounds: with all loops as tasks one thread needed 1.01 times as long (1.0 at 96, x86-64-v4, Zen 5)."""


def task_count(extents: Sequence[int]) -> int:
    """How many tasks a nest of TASK loops makes, from the outside in: no loop is one inside ``ENOUGH_TASKS``."""
    tasks = 1
    for extent in extents:
        tasks *= extent if tasks < ENOUGH_TASKS else 1
    return tasks


def keep_enough_tasks(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
    """Only the outer loops of a nest stay TASK loops, as ``task_count`` says; the last turn of a RAGGED one among the
    others stands behind it::

        for t in range(n): f(t)  ->  for t in range(n - 1): f(t)
                                     f(n - 1)
    """

    def demote(statement: tirx.Stmt) -> tirx.Stmt:
        nest, inner = nest_of_tasks(statement)
        for depth, loop in reversed(list(enumerate(nest))):
            if task_count([int(outer.extent) for outer in nest[:depth]]) < ENOUGH_TASKS:
                inner = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, inner, annotations=loop.annotations)
            else:
                inner = _plain_loop(loop, inner)
        return inner

    return func.with_body(_at_the_top(func.body, demote))


def _plain_loop(loop: tirx.For, body: tirx.Stmt) -> tirx.Stmt:
    last = tirx.IntImm("int32", int(loop.extent) - 1)
    if RAGGED not in loop.annotations or int(last) == 0 or not _asks_about(body, loop.loop_var):
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)
    whole = tirx.For(loop.loop_var, loop.min, last, loop.kind, body)
    return tirx.SeqStmt([whole, _with(body, loop.loop_var, last)])


def peel_ragged_tasks(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
    """The last turns of RAGGED loops apart, inside the nest of tasks, so that others need not ask where the edge is::

        for t in range(n): for u in range(m): f(t, u)  ->  for t in range(n): for u in range(m):
                                                               if t < n - 1: f(t, u) else: f(n - 1, u)

    LoopPartition would make two loops of one, which could not be bounded by ``begin`` and ``end`` any more.
    """

    def peel(statement: tirx.Stmt) -> tirx.Stmt:
        nest, inner = nest_of_tasks(statement)
        for loop in nest:
            last = tirx.IntImm("int32", int(loop.extent) - 1)
            if RAGGED in loop.annotations and int(last) > 0 and _asks_about(inner, loop.loop_var):
                cut = _with(inner, loop.loop_var, last)
                inner = tirx.IfThenElse(loop.loop_var < last, inner, cut)
        for loop in reversed(nest):
            inner = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, inner, annotations=loop.annotations)
        return inner

    return func.with_body(_at_the_top(func.body, peel))


def _at_the_top(body: tirx.Stmt, change: Callable[[tirx.Stmt], tirx.Stmt]) -> tirx.Stmt:
    """``body`` with each of its statements changed."""
    return tirx.SeqStmt([change(one) for one in body.seq]) if isinstance(body, tirx.SeqStmt) else change(body)


def _with(part: Part, var: tirx.Var, value: tirx.Expr) -> Part:
    """``part`` where ``var`` is ``value``."""
    replaced: Part = structural_map(part, (tirx.Var, lambda other: value if other.same_as(var) else other))
    return replaced


def _reads(expression: tirx.Expr, var: tirx.Var) -> bool:
    found: list[bool] = []
    structural_walk(expression, [(tirx.Var, lambda other: found.append(bool(other.same_as(var))))])
    return any(found)


def _asks_about(body: tirx.Stmt, var: tirx.Var) -> bool:
    """Whether a condition in ``body`` depends on ``var``."""
    found: list[bool] = []
    structural_walk(body, [(tirx.IfThenElse, lambda branch: found.append(_reads(branch.condition, var)))])
    return any(found)


def narrow_vectors(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
    """A vector of which only the first lanes exist becomes shorter ones, each a power of two long::

        for lane in vectorized(16): if lane < 13: f(lane)  ->  vectorized(8): f, vectorized(4): f, vectorized(1): f

    VectorizeLoop would make a loop over single lanes of it. Unrolled loops around such a vector are written out first,
    for what exists of the vector is another thing in each turn.
    """

    def write_out(loop: tirx.For) -> tirx.Stmt:
        if loop.kind != tirx.ForKind.UNROLLED or not _has_partial_vector(loop.body, loop.loop_var):
            return loop
        turns = [_with(loop.body, loop.loop_var, tirx.IntImm("int32", turn)) for turn in range(int(loop.extent))]
        return tirx.SeqStmt(turns) if len(turns) > 1 else turns[0]

    body = structural_map(func.body, (tirx.For, write_out))
    return func.with_body(structural_map(body, (tirx.For, _narrow_vector)))


def _has_partial_vector(body: tirx.Stmt, var: tirx.Var) -> bool:
    """Whether it depends on ``var`` which lanes of a vector in ``body`` exist."""
    found: list[bool] = []

    def look(loop: tirx.For) -> None:
        if loop.kind == tirx.ForKind.VECTORIZED and isinstance(loop.body, tirx.IfThenElse):
            asked = _split_condition(loop.body.condition, loop.loop_var)[1]
            found.append(asked is not None and _reads(asked, var))

    structural_walk(body, [(tirx.For, look)])
    return any(found)


def _narrow_vector(loop: tirx.For) -> tirx.Stmt:
    branch = loop.body
    if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(branch, tirx.IfThenElse) or branch.else_case is not None:
        return loop
    always, asked = _split_condition(branch.condition, loop.loop_var)
    if asked is None:
        return loop
    analyzer = tvm.sym.Analyzer()
    lanes = [analyzer.simplify(_with(asked, loop.loop_var, tirx.IntImm("int32", i))) for i in range(int(loop.extent))]
    if not all(isinstance(lane, tirx.IntImm) for lane in lanes):
        return loop
    begin, count, pieces = 0, sum(bool(int(lane)) for lane in lanes), []
    while count:
        width = 1 << (count.bit_length() - 1)
        pieces.append(_vector(branch.then_case, loop, begin, width))
        begin, count = begin + width, count - width
    narrowed = (
        tirx.SeqStmt(pieces) if len(pieces) > 1 else pieces[0] if pieces else tirx.Evaluate(tirx.const(0, "int32"))
    )
    return narrowed if always is None else tirx.IfThenElse(always, narrowed, None)


def _vector(body: tirx.Stmt, loop: tirx.For, begin: int, width: int) -> tirx.Stmt:
    """The ``width`` turns of ``loop`` from ``begin`` on as a vector; one turn alone is none."""
    if width == 1:
        return _with(body, loop.loop_var, tirx.IntImm("int32", begin))
    lane = tirx.Var("lane", "int32")
    zero, extent = tirx.IntImm("int32", 0), tirx.IntImm("int32", width)
    return tirx.For(lane, zero, extent, loop.kind, _with(body, loop.loop_var, lane + begin))


def _split_condition(condition: tirx.Expr, lane: tirx.Var) -> tuple[tirx.Expr | None, tirx.Expr | None]:
    """A conjunction as the part without ``lane`` and the part with it; None for a part that is empty."""
    if isinstance(condition, tirx.And):
        parts = [_split_condition(part, lane) for part in (condition.a, condition.b)]
        return _both(parts[0][0], parts[1][0]), _both(parts[0][1], parts[1][1])
    return (None, condition) if _reads(condition, lane) else (condition, None)


def _both(one: tirx.Expr | None, other: tirx.Expr | None) -> tirx.Expr | None:
    return other if one is None else one if other is None else tirx.And(one, other)


def nest_of_tasks(statement: tirx.Stmt) -> tuple[list[tirx.For], tirx.Stmt]:
    """The TASK loops, from the outside in, and what the innermost does."""
    loops = []
    while isinstance(statement, tirx.For) and TASK in statement.annotations:
        loops.append(statement)
        statement = statement.body
    return loops, statement
