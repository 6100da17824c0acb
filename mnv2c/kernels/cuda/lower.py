"""Scheduled PrimFuncs to CUDA C, and how each kernel is launched.

What comes in: a PrimFunc whose parameters are the operands in the order of the workload. What goes out: the text of a
``__global__`` function that needs no header, its grid and block, and which operand each of its parameters is: TVM's
``SplitHostDevice`` orders them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.build import codegen_build
from tvm_ffi import structural_walk

from mnv2c.kernels.cuda.blocks import SHARED_BYTES

_AXES = "xyz"
_KERNEL = 'extern "C" __global__'


@dataclass(frozen=True)
class CudaKernel:
    """``source`` defines ``symbol``; ``operands`` are the numbers of the workload's operands, one per parameter."""

    symbol: str
    source: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    operands: tuple[int, ...]


def lower(func: tirx.PrimFunc, symbol: str) -> CudaKernel:
    """``func``, scheduled, as the kernel ``symbol``. The text is the same for every architecture."""
    names = [param.name for param in func.params]
    target = _target()
    schedule, _, finalize = default_s_tir_pipeline()
    module = tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)})
    with target:
        module = schedule(tirx.transform.BindTarget(target)(module))
        device = tirx.transform.Filter(lambda function: function.attrs["target"].kind.name == "cuda")(module)
        device = finalize()(device)
        text = codegen_build(device, target).inspect_source()
    ((_, kernel),) = device.functions.items()
    extents = _extents(kernel)
    return CudaKernel(
        symbol=symbol,
        source=_definition(text).replace(f"{symbol}_kernel", symbol),
        grid=_three(extents, "blockIdx"),
        block=_three(extents, "threadIdx"),
        operands=tuple(names.index(param.name.removesuffix("_ptr")) for param in kernel.params),
    )


def program(kernels: Sequence[CudaKernel]) -> str:
    """CUDA C of them all, with the one type that they use and CUDA does not have without headers."""
    return "\n".join(["typedef unsigned char uchar;", *(kernel.source for kernel in kernels)])


def _target() -> tvm.target.Target:
    """Any NVIDIA GPU: what TVM's passes must know of it, on a machine that has none."""
    fields = {
        "kind": "cuda",
        "arch": "sm_75",
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": SHARED_BYTES,
        "thread_warp_size": 32,
    }
    return tvm.target.Target(fields, host={"kind": "llvm"})


def _definition(text: str) -> str:
    """The function alone, without what TVM writes before it for types that our kernels do not use."""
    return text[text.rindex(_KERNEL) :]


def _extents(kernel: tirx.PrimFunc) -> dict[str, int]:
    found: dict[str, int] = {}

    def visit(statement: tirx.AttrStmt) -> None:
        if statement.attr_key == "thread_extent":
            found[str(statement.node.thread_tag)] = int(statement.value)

    structural_walk(kernel.body, [(tirx.AttrStmt, visit)])
    return found


def _three(extents: dict[str, int], kind: str) -> tuple[int, int, int]:
    x, y, z = (extents.get(f"{kind}.{axis}", 1) for axis in _AXES)
    return x, y, z
