"""Scheduled PrimFuncs to CUDA C, and how each kernel is launched.

What comes in: a PrimFunc whose parameters are the operands in the order of the workload. What goes out: the text of a
``__global__`` function that needs no header, its grid and block, and which operand each of its parameters is: TVM's
``SplitHostDevice`` orders them by name.

From compute capability 9.0 on a kernel may begin while the one before it still runs (programmatic dependent launch, in
NVIDIA's CUDA C++ programming guide). So each first allows the next one to begin, fetches its constants into the L2, and
waits before the first statement that names another operand: then all kernels before it have ended, since they waited
too. Operands that another kernel has written are no ``__restrict__`` pointers: what is read through such ones may come
from a cache that does not see what was written meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import tvm
from tvm import tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.build import codegen_build
from tvm_ffi import structural_walk

from mnv2c.ir.graph import TensorType
from mnv2c.kernels.cuda.blocks import SHARED_BYTES
from mnv2c.kernels.families import workload_of

_AXES = "xyz"
_KERNEL = 'extern "C" __global__'
_PRELUDE = "".join(
    resources.files("mnv2c.kernels.cuda").joinpath(name).read_text(encoding="utf-8")
    for name in ("prelude.h", "products.h")
)


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
    inputs = len(workload_of(func).inputs)
    constants = {f"{param.name}_ptr": _bytes(param) for param in func.params[inputs:-1]}
    target = tvm_target("sm_75", host=True)
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
        source=_dependent(_definition(text).replace(f"{symbol}_kernel", symbol), constants),
        grid=_three(extents, "blockIdx"),
        block=_three(extents, "threadIdx"),
        operands=tuple(names.index(param.name.removesuffix("_ptr")) for param in kernel.params),
    )


def program(kernels: Sequence[CudaKernel]) -> str:
    """CUDA C of them all."""
    return "\n".join([_PRELUDE, *(kernel.source for kernel in kernels)])


def tvm_target(architecture: str, *, model: str = "", host: bool = False) -> tvm.target.Target:
    """TVM's name for an NVIDIA GPU, with what TVM's passes must know of it on a machine that has none; ``model`` says
    more of it, for people."""
    fields: dict[str, object] = {
        "kind": "cuda",
        "arch": architecture,
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": SHARED_BYTES,
        "thread_warp_size": 32,
    }
    if model:
        fields["model"] = model
    return tvm.target.Target(fields, host={"kind": "llvm"} if host else None)


def _definition(text: str) -> str:
    """The function alone, without what TVM writes before it for types that our kernels do not use."""
    return text[text.rindex(_KERNEL) :]


def _bytes(parameter: tirx.Var) -> int:
    return TensorType(tuple(map(int, parameter.ty.shape)), str(parameter.ty.dtype)).nbytes


def _dependent(definition: str, constants: Mapping[str, int]) -> str:
    """The function as one that may begin early: see the module."""
    head, *body = definition.rstrip().splitlines()
    written = [pointer for pointer in re.findall(r"__restrict__ (\w+)", head) if pointer not in constants]
    named = re.compile(rf"\b({'|'.join(written)})\b")
    head = re.sub(rf"__restrict__ {named.pattern}", r"\1", head)
    first = next(number for number, line in enumerate(body) if named.search(line))
    while not re.match(r"  [^ }]", body[first]):  # back to where the statement begins that no other surrounds
        first -= 1
    fetches = [f"  FETCH({pointer}, {count});" for pointer, count in constants.items()]
    return "\n".join([head, "  ALLOW_NEXT();", *fetches, *body[:first], "  WAIT();", *body[first:], ""])


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
