"""Scheduled PrimFuncs to an object file of kernels with the C signature of ``codegen.program``.

In: PrimFuncs whose parameters are named ``input``, ``weight``, ``bias``, ``residual`` and ``output``, and whose top
level has one loop annotated ``TASK``. Out: one ELF object; no undefined TVM symbol, no global state, no allocation.

TVM's own pipeline (``tvm.s_tir.pipeline``) ends in packed functions that check types, launch TVM's threads and allocate
workspaces through its runtime. This one keeps its order of passes and replaces that end: the task loop runs from
``begin`` to ``end``, and a buffer too large for the stack lies in the caller's ``scratch``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import codegen_build
from tvm_ffi import structural_map, structural_walk

from mnv2c.kernels.cpu.object_file import object_file
from mnv2c.targets import InstructionSet, Target

TASK = "mnv2c.task"
PREFETCH = "mnv2c.prefetch"  # such a loop prefetches the weights that lie so many elements after those it reads
TURNS = "mnv2c.turns"  # the loop around it over which those prefetches are spread
TAIL = "pragma_loop_partition_hint"  # LoopPartition splits off the last, shorter iteration of such a loop
STACK_BYTES = 4096
PANEL = 16  # columns of a weight panel: one cache line of fp32, a whole number of vectors on every CPU
OPERANDS = ("input", "weight", "bias", "residual", "output", "scratch")


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
    s_tir.transform.LoopPartition(),
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


def lower(func: tirx.PrimFunc, symbol: str) -> LoweredKernel:
    """``func``, scheduled, as the C function ``symbol``."""
    module = tvm.ir.transform.Sequential(_PASSES)(tvm.IRModule({"main": func}))
    main = module["main"]
    pointers = {name: _pointer(name) for name in OPERANDS}
    begin, end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")
    body, tasks = _bound_tasks(main.body, begin, end)
    body, scratch_bytes = _move_to_scratch(body, pointers["scratch"])
    buffers = [tirx.DeclBuffer(param, data=pointers[param.name]) for param in main.params]
    body = tirx.SeqStmt([*buffers, body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    kernel = tirx.PrimFunc([*pointers.values(), begin, end], body, tvm.ir.PrimType("int32"))
    kernel = kernel.with_attr("global_symbol", symbol).with_attr("tirx.noalias", True)
    return LoweredKernel(kernel, tasks, scratch_bytes)


def _pointer(name: str) -> tirx.Var:
    return tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType("float32"), "global"))


def _bound_tasks(body: tirx.Stmt, begin: tirx.Var, end: tirx.Var) -> tuple[tirx.Stmt, int]:
    """``for task in T: f`` becomes ``for task in [begin, end): f``; what stands beside it runs with the first task."""
    found: list[int] = []

    def bound(loop: tirx.For) -> tirx.Stmt:
        if TASK not in loop.annotations:
            return loop
        found.append(int(loop.extent))
        return tirx.For(loop.loop_var, begin, end - begin, loop.kind, loop.body)

    statements = []
    for statement in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        before = len(found)
        statement = structural_map(statement, (tirx.For, bound))
        if len(found) == before and not isinstance(statement, tirx.DeclBuffer | tirx.AllocBuffer):
            statement = tirx.IfThenElse(begin == 0, statement, None)
        statements.append(statement)
    if len(found) != 1:
        raise AssertionError(f"a kernel has one task loop at its top, this one has {len(found)}")
    return tirx.SeqStmt(statements), found[0]


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
