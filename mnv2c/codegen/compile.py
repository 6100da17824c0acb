"""The Program from kernel calls: schedules and compiles kernels, plans memory, packs weights, lists the calls.

What comes in: the calls of a backend, and the graph they came from for what the calls only name: its input, its outputs
and its constants. What goes out: a Program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from mnv2c.backends.calls import KernelCall
from mnv2c.codegen.bands import Block, calls_in_bands, steps_in_bands
from mnv2c.codegen.memory import Step, plan_memory
from mnv2c.codegen.program import ALIGNMENT, Call, Chain, CompiledKernel, KernelObject, Operand, Program
from mnv2c.errors import TargetError
from mnv2c.ir.graph import Array, Graph, Input, Padding
from mnv2c.kernels import device
from mnv2c.kernels.abi import Choose, Device, grain
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Depthwise, Pad, Stem, Workload


def compile_program(
    calls: Sequence[KernelCall],
    graph: Graph,
    target: Target,
    identifier: str,
    *,
    blocks: Sequence[Block] = (),
    choose: Choose,
    report: Callable[[str], None],
) -> Program:
    """``identifier`` prefixes every symbol; ``blocks`` run in bands; ``choose`` finds the schedules; ``report`` is told
    a line per instruction set."""
    kernels = device(target.kind)
    compiled = calls_in_bands(calls, blocks)
    workloads = distinct_workloads(compiled, graph.input)
    numbers = {edge: number for number, edge in enumerate(graph.outputs.values())}
    steps = steps_in_bands({call.layer: Step.of_call(call) for call in calls}, blocks)
    plan = plan_memory(steps, {graph.input.name, *numbers})
    if plan.arena_bytes >= 1 << (target.pointer_bits - 1):
        raise TargetError(
            f"{graph.name}: its activations take {plan.arena_bytes / 1e9:.1f} GB, more than a program for "
            f"{target.architecture} can have; lower batch or resolution"
        )
    places = {graph.input.name: Operand("input")} | {edge: Operand("output", n) for edge, n in numbers.items()}
    places |= {edge: Operand("arena", offset) for edge, offset in plan.offsets.items()}
    places |= {layer: Operand("scratch") for block in blocks for layer in block.layers[:-1]}
    packer = _Packer(kernels, graph.constants)
    pairs = zip(calls, compiled, strict=True)
    made = {call.layer: _call(call, in_bands, graph.input, places, packer) for call, in_bands in pairs}

    def compile_for(isa: InstructionSet) -> KernelObject:
        report(f"compile {len(workloads)} kernels for {isa.mcpu}")
        return _compile_kernels(workloads, target, isa, identifier, choose)

    if kernels.workers == 1:
        objects = [compile_for(isa) for isa in target.instruction_sets]
    else:
        with ThreadPoolExecutor(kernels.workers) as threads:
            objects = list(threads.map(compile_for, target.instruction_sets))
    return Program(
        name=graph.name,
        identifier=identifier,
        target=target,
        input=graph.input.type,
        outputs={name: graph.op(edge).type for name, edge in graph.outputs.items()},
        kernels=tuple(workload.name for workload in workloads),
        kernel_objects=tuple(objects),
        calls=tuple(_with_chains(made, {call.layer: call.workload for call in calls}, blocks)),
        arena_bytes=plan.arena_bytes,
        weights=packer.blob(),
    )


def distinct_workloads(calls: Sequence[KernelCall], image: Input) -> tuple[Workload, ...]:
    """What is to be compiled: each workload of the calls once; those that read the image also from raw bytes."""
    found = [call.workload for call in calls]
    return tuple(dict.fromkeys([*found, *(of_bytes for call in calls if (of_bytes := reads_bytes(call, image)))]))


def reads_bytes(call: KernelCall, image: Input) -> Workload | None:
    """The workload of a call that reads the image, as it reads raw bytes and normalises them; else None."""
    if image.name not in call.inputs or not isinstance(call.workload, Stem):
        return None
    return replace(call.workload, image="uint8", mean=image.mean, scale=image.scale)


class _Packer:
    """The weights of the library: each constant as the kernels of the device read it, aligned."""

    def __init__(self, kernels: Device, constants: Mapping[str, Array]) -> None:
        self._kernels, self._constants = kernels, constants
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, call: KernelCall) -> tuple[list[Operand], int]:
        """The operands of the call's constants, and their bytes."""
        packed = self._kernels.pack(call.workload, [self._constants[name] for name in call.constants])
        operands = [self._append(np.ascontiguousarray(value, value.dtype.newbyteorder("<"))) for value in packed]
        return operands, sum(value.nbytes for value in packed)

    def _append(self, value: Array) -> Operand:
        content = value.tobytes()
        content += b"\0" * (-len(content) % ALIGNMENT)
        operand = Operand("weights", self._size)
        self._parts.append(content)
        self._size += len(content)
        return operand

    def blob(self) -> bytes:
        return b"".join(self._parts)


def _with_chains(
    made: Mapping[str, Call], workloads: Mapping[str, Workload], blocks: Sequence[Block]
) -> Iterator[Call | Chain]:
    """The calls by layer, in order, those of each block as one."""
    last = {block.layers[-1]: block for block in blocks}
    inner = {layer for block in blocks for layer in block.layers[:-1]}
    for layer, call in made.items():
        if layer in last:
            yield _chain(last[layer], made, workloads)
        elif layer not in inner:
            yield call


def _chain(block: Block, made: Mapping[str, Call], workloads: Mapping[str, Workload]) -> Chain:
    whole = [workloads[layer] for layer in block.layers]
    depthwise = whole[-2]
    assert isinstance(depthwise, Depthwise)
    bands = depthwise.batch * depthwise.height // block.rows
    return Chain(tuple(made[layer] for layer in block.layers), block.rows, depthwise.stride, grain(whole, bands))


def _call(call: KernelCall, compiled: KernelCall, image: Input, places: Mapping[str, Operand], packer: _Packer) -> Call:
    """``call``, with the kernel of the same one as it is ``compiled``: in bands it may be another."""
    workload, of_bytes = call.workload, reads_bytes(compiled, image)
    inputs, outputs = ([places[edge] for edge in edges] for edges in (call.inputs, call.outputs))
    (type_,), border = workload.outputs, getattr(workload, "border", Padding())
    if isinstance(workload, Pad):
        border = Padding()  # its zeros are what it computes: observers see them
    constants, constant_bytes = packer.add(call)
    plus = "".join(f", plus {edge}" for edge in call.inputs[1:])
    return Call(
        layer=call.layer,
        comment=workload.description + plus,
        kernel=compiled.workload.name,
        operands=(*inputs, *constants, *outputs),
        type=replace(type_, shape=border.inside(type_.shape) if border else type_.shape),
        border=border,
        kernel_uint8=of_bytes.name if of_bytes else None,
        macs=workload.macs,
        moved_bytes=constant_bytes + sum(one.nbytes for one in (*workload.inputs, *workload.outputs)),
    )


def _compile_kernels(
    workloads: Sequence[Workload], target: Target, isa: InstructionSet, identifier: str, choose: Choose
) -> KernelObject:
    choices = [choose(workload, isa) for workload in workloads]
    symbols = [device(target.kind).symbol(identifier, isa, workload) for workload in workloads]
    kernels = list(zip(symbols, workloads, (choice.schedule for choice in choices), strict=True))
    code, compiled = device(target.kind).compile(kernels, target, isa)
    return KernelObject(
        isa=isa,
        object=code,
        kernels=tuple(
            CompiledKernel(
                name=workload.name,
                symbol=kernel.symbol,
                tasks=kernel.tasks,
                grain=grain([workload], kernel.tasks),
                scratch_bytes=kernel.scratch_bytes,
                origin=choice.origin,
                schedule=str(choice.schedule),
                launch=kernel.launch,
            )
            for workload, choice, kernel in zip(workloads, choices, compiled, strict=True)
        ),
    )
