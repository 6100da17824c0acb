"""The Program from the graph and its legalised Relax module: schedules and compiles kernels, packs weights, lists
calls.

What comes in: the graph after ``passes``, the module of ``backends.relax.legalize``, a target. What goes out: a
Program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm import relax

from mnv2c.backends.relax.emit import variable
from mnv2c.backends.relax.legalize import Legalized
from mnv2c.codegen.memory import plan_memory
from mnv2c.codegen.program import ALIGNMENT, Call, CompiledKernel, KernelObject, Operand, Program
from mnv2c.ir.graph import Array, Convolution, Dense, Depthwise, Graph, Op, Padding, TensorType
from mnv2c.kernels import Stem, WeightedWorkload, Workload, scheduled
from mnv2c.kernels.cpu.lower import build_object, lower
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.lookup import Choose

GRAIN_MACS = 200_000  # multiply-adds that are worth waking a thread for: a few microseconds


@dataclass(frozen=True)
class _KernelCall:
    """One ``call_tir``: the op of the graph that it computes and its workload."""

    op: Op
    workload: Workload


def compile_program(
    graph: Graph,
    legalized: Legalized,
    target: Target,
    identifier: str,
    *,
    choose: Choose,
    report: Callable[[str], None],
) -> Program:
    """``identifier`` prefixes every symbol; ``choose`` finds the schedules; ``report`` hears a line per CPU."""
    calls = _kernel_calls(graph, legalized)
    (output,) = graph.outputs.values()
    stem = _reads_bytes(graph, calls[0].workload)
    workloads = list(dict.fromkeys([*(call.workload for call in calls), *([stem] if stem else [])]))
    packer = _Packer()
    arena = plan_memory(graph)
    program_calls = [_call(graph, call, packer, arena.offsets) for call in calls]
    if stem:
        program_calls[0] = replace(program_calls[0], kernel_uint8=stem.name)
    sets = []
    for isa in target.instruction_sets:
        report(f"compile {len(workloads)} kernels for {isa.mcpu}")
        sets.append(_compile_kernels(workloads, target, isa, identifier, choose))
    return Program(
        name=graph.name,
        identifier=identifier,
        target=target,
        input=graph.input.type,
        output=graph.op(output).type,
        kernels=tuple(workload.name for workload in workloads),
        kernel_objects=tuple(sets),
        calls=tuple(program_calls),
        arena_bytes=arena.arena_bytes,
        weights=packer.blob(),
    )


def layer_workloads(graph: Graph, legalized: Legalized) -> list[tuple[str, Workload]]:
    """Every layer's name and workload; the stem a second time, last, as it reads raw bytes."""
    calls = _kernel_calls(graph, legalized)
    layers = [(call.op.name, call.workload) for call in calls]
    stem = _reads_bytes(graph, calls[0].workload)
    return [*layers, (f"{calls[0].op.name} (bytes)", stem)] if stem else layers


def _kernel_calls(graph: Graph, legalized: Legalized) -> list[_KernelCall]:
    """The calls of ``main`` in order; their variables are named after the ops of the graph."""
    ops = {variable(op.name): op for op in graph.ops}
    (block,) = legalized.module["main"].body.blocks
    calls = [binding for binding in block.bindings if isinstance(binding.value, relax.Call)]
    return [_KernelCall(ops[call.var.name], legalized.workloads[call.value.args[0].name_hint]) for call in calls]


def _reads_bytes(graph: Graph, workload: Workload) -> Stem | None:
    """The stem that reads the image as raw bytes and normalises it."""
    if not isinstance(workload, Stem):
        return None
    return replace(workload, mean=graph.input.mean, scale=graph.input.scale)


class _Packer:
    """The weights of the library: each constant in the layout of the kernel that reads it, aligned."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, value: Array) -> Operand:
        content = value.astype("<f4").tobytes()
        content += b"\0" * (-len(content) % ALIGNMENT)
        operand = Operand("weights", self._size)
        self._parts.append(content)
        self._size += len(content)
        return operand

    def blob(self) -> bytes:
        return b"".join(self._parts)


def _call(graph: Graph, call: _KernelCall, packer: _Packer, offsets: Mapping[str, int]) -> Call:
    op, workload = call.op, call.workload
    weight = bias = None
    if isinstance(op, Convolution | Dense) and isinstance(workload, WeightedWorkload):
        assert op.bias is not None, "emit refuses a convolution without a bias"
        weight = packer.add(workload.pack(graph.constants[op.weight]))
        bias = packer.add(graph.constants[op.bias])
    edges = [Operand("input") if edge == graph.input.name else Operand("arena", offsets[edge]) for edge in op.inputs]
    border = op.border if isinstance(op, Convolution) else Padding()
    return Call(
        layer=op.name,
        comment=_comment(graph, op),
        kernel=workload.name,
        input=edges[0],
        output=Operand("output") if op.name in graph.outputs.values() else Operand("arena", offsets[op.name]),
        type=_without_border(op.type, border),
        weight=weight,
        bias=bias,
        residual=edges[1] if len(edges) > 1 else None,
        border=border,
        macs=workload.macs,
    )


def _without_border(type_: TensorType, border: Padding) -> TensorType:
    if len(type_.shape) != 4:
        return type_
    batch, height, width, channels = type_.shape
    inner = (batch, height - border.top - border.bottom, width - border.left - border.right, channels)
    return replace(type_, shape=inner)


def _comment(graph: Graph, op: Op) -> str:
    """What the layer does, in one line for the reader of the C driver."""
    border = op.border if isinstance(op, Convolution) else Padding()
    shapes = f"{_extents(graph.op(op.inputs[0]).type)} -> {_extents(_without_border(op.type, border))}"
    what = type(op).__name__.lower()
    if isinstance(op, Convolution):
        kernel = "x".join(str(extent) for extent in graph.constants[op.weight].shape[2:])
        what = f"{kernel} {'depthwise ' if isinstance(op, Depthwise) else ''}convolution"
        what += f", stride {op.stride}" if op.stride > 1 else ""
    parts = [f"{what}, {shapes}"]
    if isinstance(op, Convolution) and op.activation:
        parts.append("ReLU6")
    if len(op.inputs) > 1:
        parts.append(f"plus {op.inputs[1]}")
    return ", ".join(parts)


def _extents(type_: TensorType) -> str:
    return "x".join(str(extent) for extent in type_.shape[1:])


def _compile_kernels(
    workloads: Sequence[Workload], target: Target, isa: InstructionSet, identifier: str, choose: Choose
) -> KernelObject:
    lowered, compiled = {}, []
    for workload in workloads:
        symbol = f"{identifier}_{isa.name}_{workload.name}"
        choice = choose(workload, isa)
        kernel = lower(scheduled(workload, choice.schedule), symbol)
        lowered[symbol] = kernel
        compiled.append(
            CompiledKernel(
                name=workload.name,
                symbol=symbol,
                tasks=kernel.tasks,
                grain=max(1, -(-GRAIN_MACS * kernel.tasks // max(workload.macs, GRAIN_MACS))),
                scratch_bytes=kernel.scratch_bytes,
                origin=choice.origin,
                schedule=str(choice.schedule),
            )
        )
    return KernelObject(isa=isa, object=build_object(lowered, target, isa), kernels=tuple(compiled))
