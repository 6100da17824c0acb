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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import codegen_build
from tvm_ffi import structural_map

from mnv2c.instructions.inorder import PIPELINES
from mnv2c.kernels.cpu.object_file import object_file
from mnv2c.kernels.cpu.tir_passes import (
    insert_prefetches,
    keep_enough_tasks,
    narrow_vectors,
    nest_of_tasks,
    peel_ragged_tasks,
)
from mnv2c.targets import InstructionSet, Target

STACK_BYTES = 4096
_ROLLED = "-unroll-threshold-aggressive:uint=0"
"""Keeps LLVM from writing out loops. Its options of a greatest number of turns count on a command line alone."""

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
    tirx.transform.prim_func_pass(insert_prefetches, opt_level=0, name="mnv2c.InsertPrefetches"),
    tirx.transform.prim_func_pass(keep_enough_tasks, opt_level=0, name="mnv2c.KeepEnoughTasks"),
    tirx.transform.prim_func_pass(peel_ragged_tasks, opt_level=0, name="mnv2c.PeelRaggedTasks"),
    tirx.transform.ConvertSSA(),
    tirx.transform.StmtSimplify(),
    s_tir.transform.LoopPartition(),
    tirx.transform.prim_func_pass(narrow_vectors, opt_level=0, name="mnv2c.NarrowVectors"),
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
        nest, inner = nest_of_tasks(statement)
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
    if target.architecture.startswith("armv7"):
        functions = {symbol: _with_vmin(function) for symbol, function in functions.items()}
    pipeline = PIPELINES.get(isa.mcpu) if target.architecture == "aarch64" else None
    return object_file(codegen_build(tirx.transform.LowerIntrin()(tvm.IRModule(functions)), llvm), pipeline)


def _with_vmin(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Minima and maxima as NEON has them before ARMv8, NaN where one of two values is: of those that TIR means, which
    are a number then, LLVM makes a comparison and a selection each."""

    def of_neon(one: tirx.Min | tirx.Max) -> tirx.Expr:
        if "float" not in str(one.ty.dtype):
            return one
        name = "llvm.minimum" if isinstance(one, tirx.Min) else "llvm.maximum"
        return tirx.call_llvm_pure_intrin(one.ty.dtype, name, one.a, one.b)

    return function.with_body(structural_map(function.body, ((tirx.Min, tirx.Max), of_neon)))


def tvm_target(target: Target, isa: InstructionSet, *, model: str = "") -> tvm.target.Target:
    """TVM's name for one CPU of one of our targets; ``model`` says more of the machine, for people."""
    fields: dict[str, object] = {"kind": "llvm", "mtriple": target.triple, "mcpu": isa.mcpu}
    if model:
        fields["model"] = model
    if isa.attributes:
        fields["mattr"] = list(isa.attributes)
    if not isa.unrolls:
        fields["cl-opt"] = [_ROLLED]
    if target.float_abi:
        fields["mfloat-abi"] = target.float_abi
    return tvm.target.Target(fields)


def llvm_version() -> int:
    """The major version of the LLVM inside TVM."""
    return int(tvm.target.codegen.llvm_version_major())
