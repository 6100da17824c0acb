"""Which blocks run in bands of rows, so that what is between their layers never exists whole (paper, section 5.1).

What comes in: a graph after all passes, what the user asked for, and the size of a cache. What goes out: a ``Block``
for each of them; and what that makes of kernel calls, and of the steps of the memory plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mnv2c.backends.calls import KernelCall
from mnv2c.codegen.memory import Step
from mnv2c.ir.graph import Conv, Convolution, Depthwise, Expand, Graph, Op, Project
from mnv2c.passes.rewrite import has_one_reader
from mnv2c.targets import Bands
from mnv2c.workloads import NO_BORDER, Pointwise, Stem, Workload
from mnv2c.workloads import Depthwise as DepthwiseWorkload


@dataclass(frozen=True)
class Block:
    """``layers`` that run one after the other for each band of ``rows`` rows of the depthwise convolution's output.

    They are the expansion or the stem, where there is one that the depthwise convolution alone reads, the depthwise
    convolution, and the projection.
    """

    layers: tuple[str, ...]
    rows: int


def blocks_in_bands(graph: Graph, bands: Bands, l2_bytes: int) -> tuple[Block, ...]:
    """None where ``bands`` is ``off``; with ``auto`` those that gain by it, by single rows.

    A number of rows is for every block; where it does not divide a map's height, the largest smaller one that does.
    """
    if bands == "off":
        return ()
    found = []
    for number, op in enumerate(graph.ops):
        ops = _block(graph, number) if isinstance(op, Depthwise) else ()
        if ops and (bands != "auto" or _gains(graph, ops, l2_bytes)):
            rows = 1 if bands == "auto" else _divisor(op.type.shape[1], bands)
            found.append(Block(tuple(each.name for each in ops), rows))
    return tuple(found)


def _block(graph: Graph, number: int) -> tuple[Op, ...]:
    """The ops that can run in bands with the depthwise convolution of a number; none where nothing can."""
    depthwise, behind = graph.ops[number], graph.ops[number + 1]
    is_project = isinstance(behind, Project) and behind.inputs[0] == depthwise.name and not behind.border
    if not is_project or not has_one_reader(graph, depthwise.name):
        return ()
    before = graph.ops[number - 1]
    is_expansion = isinstance(before, Expand | Conv) and depthwise.inputs == (before.name,)
    return (before, depthwise, behind) if is_expansion and has_one_reader(graph, before.name) else (depthwise, behind)


def _gains(graph: Graph, ops: Sequence[Op], l2_bytes: int) -> bool:
    """Whether a map between ``ops`` is larger than the L2, and writing and reading all of them moves more bytes than
    reading the weights again for every row."""
    inner = [op.type.nbytes for op in ops[:-1]]
    weights = sum(graph.constants[op.weight].nbytes for op in ops if isinstance(op, Convolution))
    batch, rows, _, _ = ops[-1].type.shape
    return max(inner) > l2_bytes and 2 * sum(inner) > batch * rows * weights


def _divisor(height: int, most: int) -> int:
    return next(rows for rows in range(min(most, height), 0, -1) if height % rows == 0)


def calls_in_bands(calls: Sequence[KernelCall], blocks: Sequence[Block]) -> tuple[KernelCall, ...]:
    """``calls`` in their order, those of ``blocks`` with the workload that is done band by band."""
    block_of = {layer: block for block in blocks for layer in block.layers}
    return tuple(
        replace(call, workload=_in_bands(call, block_of[call.layer])) if call.layer in block_of else call
        for call in calls
    )


def _in_bands(call: KernelCall, block: Block) -> Workload:
    """An expansion row by row, without the zeros around it; the depthwise convolution of it from a ring of rows."""
    workload = call.workload
    assert isinstance(workload, Stem | Pointwise | DepthwiseWorkload)
    if isinstance(workload, DepthwiseWorkload) and call.layer != block.layers[0]:
        return replace(workload, band=block.rows, rows=(block.rows - 1) * workload.stride + 3, ring=True)
    if isinstance(workload, DepthwiseWorkload) or call.layer == block.layers[-1]:
        return replace(workload, band=block.rows)
    return replace(workload, band=1, border=NO_BORDER)


def steps_in_bands(steps: Mapping[str, Step], blocks: Sequence[Block]) -> list[Step]:
    """``steps`` by layer, in their order, each block's as one: the edges between its layers are nobody's."""
    found = dict(steps)
    for block in blocks:
        inner, last = [found.pop(layer) for layer in block.layers[:-1]], found[block.layers[-1]]
        between = {edge for step in inner for edge in step.writes}
        reads = tuple(edge for step in (*inner, last) for edge in step.reads if edge not in between)
        found[block.layers[-1]] = Step(reads, last.writes)
    return list(found.values())
