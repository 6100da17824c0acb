"""Scheduled PrimFuncs to an object file of kernels with the C signature of ``kernels.abi``.

In: PrimFuncs whose parameters are the operands in the order of the signature, and whose top level has one nest of
loops annotated ``TASK``, each directly inside the one before. Out: one ELF object; no undefined TVM symbol, no global
state, no allocation.

TVM's own pipeline (``tvm.s_tir.pipeline``) ends in packed functions that check types, launch TVM's threads and allocate
workspaces through its runtime. This one keeps its order of passes and replaces that end: operands come from a table of
pointers, the nest of tasks runs from ``begin`` to ``end``, and a buffer too large for the stack lies in the caller's
``scratch``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import codegen_build
from tvm_ffi import structural_map, structural_walk

from mnv2c.kernels.cpu.object_file import object_file
from mnv2c.targets import InstructionSet, Target

Part = TypeVar("Part")

TASK = "mnv2c.task"
RAGGED = "mnv2c.ragged"  # such a TASK loop's last turn may be cut short; it gets code of its own
PREFETCH = "mnv2c.prefetch"  # such a loop prefetches the weights that lie so many elements after those it reads
TURNS = "mnv2c.turns"  # the loop around it over which those prefetches are spread
TAIL = "pragma_loop_partition_hint"  # LoopPartition splits off the last, shorter iteration of such a loop
STACK_BYTES = 4096
PANEL = 16  # columns of a weight panel: one cache line of fp32, a whole number of vectors on every CPU


def _insert_prefetches(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
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


def _peel_ragged_tasks(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
    """The last turns of RAGGED loops apart, inside the nest of tasks, so that others need not ask where the edge is::

        for t in range(n): for u in range(m): f(t, u)  ->  for t in range(n): for u in range(m):
                                                               if t < n - 1: f(t, u) else: f(n - 1, u)

    LoopPartition would make two loops of one, which could not be bounded by ``begin`` and ``end`` any more.
    """

    def peel(statement: tirx.Stmt) -> tirx.Stmt:
        nest, inner = _nest(statement)
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


def _narrow_vectors(func: tirx.PrimFunc, _module: tvm.IRModule, _context: object) -> tirx.PrimFunc:
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


_PASSES = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    tirx.transform.prim_func_pass(_insert_prefetches, opt_level=0, name="mnv2c.InsertPrefetches"),
    tirx.transform.prim_func_pass(_peel_ragged_tasks, opt_level=0, name="mnv2c.PeelRaggedTasks"),
    tirx.transform.ConvertSSA(),
    tirx.transform.StmtSimplify(),
    s_tir.transform.LoopPartition(),
    tirx.transform.prim_func_pass(_narrow_vectors, opt_level=0, name="mnv2c.NarrowVectors"),
    tirx.transform.VectorizeLoop(),
    tirx.transform.StorageRewrite(),
    tirx.transform.UnrollLoop(),
    s_tir.transform.RenormalizeSplitPattern(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    s_tir.transform.RewriteUnsafeSelect(),
)


@dataclass(frozen=True)
class LoweredKernel:
    """A C function in TIR, how many tasks it has, and how many bytes of scratch it needs."""

    func: tirx.PrimFunc
    tasks: int
    scratch_bytes: int


def lower(func: tirx.PrimFunc, symbol: str, *, pointer_bits: int) -> LoweredKernel:
    """``func``, scheduled, as the C function ``symbol`` for a machine whose pointers have so many bits."""
    module = tvm.ir.transform.Sequential(_PASSES)(tvm.IRModule({"main": func}))
    main = module["main"]
    scratch, begin, end = tirx.Var("scratch", _pointer("uint8")), tirx.Var("begin", "int32"), tirx.Var("end", "int32")
    body, tasks = _bound_tasks(main.body, begin, end)
    body, scratch_bytes = _move_to_scratch(body, scratch)
    table, operands = _read_operands(main.params, pointer_bits)
    body = tirx.SeqStmt([*operands, body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    kernel = tirx.PrimFunc([table, scratch, begin, end], body, tvm.ir.PrimType("int32"))
    kernel = kernel.with_attr("global_symbol", symbol).with_attr("tirx.noalias", True)
    return LoweredKernel(kernel, tasks, scratch_bytes)


def _pointer(dtype: str) -> tvm.ir.PointerType:
    return tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global")


def _read_operands(params: Sequence[tirx.Var], pointer_bits: int) -> tuple[tirx.Var, list[tirx.Stmt]]:
    """The table of pointers, and what reads one for each parameter: as an integer, TIR has no pointers to pointers."""
    word = f"uint{pointer_bits}"
    table = tirx.Var("operands", _pointer(word))
    words = tirx.decl_buffer((len(params),), word, "operand_table", data=table)
    statements: list[tirx.Stmt] = [tirx.DeclBuffer(words, data=table)]
    for index, param in enumerate(params):
        pointer = tirx.Var(f"{param.name}_pointer", _pointer(str(param.dtype)))
        address = tirx.Cast("uint64", tirx.BufferLoad(words, [index]))
        statements.append(tirx.Bind(pointer, tirx.reinterpret(pointer.ty, address)))
        statements.append(tirx.DeclBuffer(param, data=pointer))
    return table, statements


def _bound_tasks(body: tirx.Stmt, begin: tirx.Var, end: tirx.Var) -> tuple[tirx.Stmt, int]:
    """The nest of tasks from ``begin`` to ``end``, and how many tasks there are; what stands beside it runs with the
    first task."""
    tasks: list[int] = []
    statements = []
    for statement in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        nest, inner = _nest(statement)
        if nest:
            tasks.append(math.prod(int(loop.extent) for loop in nest))
            statements.append(_bounded(nest, inner, begin, end))
        elif isinstance(statement, tirx.DeclBuffer | tirx.AllocBuffer):
            statements.append(statement)
        else:
            statements.append(tirx.IfThenElse(begin == 0, statement, None))
    if len(tasks) != 1:
        raise AssertionError(f"a kernel has one nest of tasks at its top, this one has {len(tasks)}")
    return tirx.SeqStmt(statements), tasks[0]


def _nest(statement: tirx.Stmt) -> tuple[list[tirx.For], tirx.Stmt]:
    """The TASK loops, from the outside in, and what the innermost does."""
    loops = []
    while isinstance(statement, tirx.For) and TASK in statement.annotations:
        loops.append(statement)
        statement = statement.body
    return loops, statement


def _bounded(nest: Sequence[tirx.For], inner: tirx.Stmt, begin: tirx.Expr, end: tirx.Expr) -> tirx.Stmt:
    """Those turns of the nest whose numbers, counted by the innermost loop, are in ``[begin, end)``."""
    loop, *rest = nest
    if not rest:
        return tirx.For(loop.loop_var, begin, end - begin, loop.kind, inner)
    turns = math.prod(int(deeper.extent) for deeper in rest)
    first, last = tirx.truncdiv(begin, turns), tirx.truncdiv(end + (turns - 1), turns)
    low, high = tirx.Var("low", "int32"), tirx.Var("high", "int32")
    start = loop.loop_var * turns
    body = tirx.SeqStmt(
        [
            tirx.Bind(low, tirx.max(begin - start, tirx.const(0, "int32"))),
            tirx.Bind(high, tirx.min(end - start, tirx.const(turns, "int32"))),
            _bounded(rest, inner, low, high),
        ]
    )
    return tirx.For(loop.loop_var, first, last - first, loop.kind, body)


def _move_to_scratch(body: tirx.Stmt, scratch: tirx.Var) -> tuple[tirx.Stmt, int]:
    """The one allocation beyond STACK_BYTES becomes a view of the caller's scratch."""
    sizes: list[int] = []

    def place(allocation: tirx.AllocBuffer) -> tirx.Stmt:
        buffer = allocation.buffer
        size = int(buffer.shape[0]) * tvm.DataType(buffer.dtype).itemsize
        if size <= STACK_BYTES:
            return allocation
        sizes.append(size)
        return tirx.DeclBuffer(buffer, data=scratch)

    body = structural_map(body, (tirx.AllocBuffer, place))
    if len(sizes) > 1:
        raise AssertionError(f"a kernel has at most one buffer in scratch, this one has {len(sizes)}")
    return body, sum(sizes)


def build_object(kernels: Mapping[str, LoweredKernel], target: Target, isa: InstructionSet) -> bytes:
    """The ELF object with all ``kernels``, by symbol, for ``isa``."""
    llvm = tvm_target(target, isa)
    functions = {symbol: kernel.func.with_attr("target", llvm) for symbol, kernel in kernels.items()}
    return object_file(codegen_build(tirx.transform.LowerIntrin()(tvm.IRModule(functions)), llvm))


def tvm_target(target: Target, isa: InstructionSet, *, model: str = "") -> tvm.target.Target:
    """TVM's name for one CPU of one of our targets; ``model`` says more of the machine, for people."""
    fields: dict[str, object] = {"kind": "llvm", "mtriple": target.triple, "mcpu": isa.mcpu}
    if model:
        fields["model"] = model
    if isa.attributes:
        fields["mattr"] = list(isa.attributes)
    if target.float_abi:
        fields["mfloat-abi"] = target.float_abi
    return tvm.target.Target(fields)


def llvm_version() -> int:
    """The major version of the LLVM inside TVM."""
    return int(tvm.target.codegen.llvm_version_major())
