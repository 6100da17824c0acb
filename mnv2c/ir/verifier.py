"""Checks the invariants of the IR: the frontend and every pass must leave a graph that keeps them all.

What comes in: a ``Graph``. What goes out: nothing, or one ``GraphError`` with every violation. Shapes are inferred here
from inputs, weights, stride and padding alone, independently of how the frontend came by them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from mnv2c.errors import GraphError
from mnv2c.ir.graph import (
    Add,
    BatchNorm,
    Convolution,
    Dense,
    Depthwise,
    GlobalAvgPool,
    Graph,
    Input,
    MaxPool,
    Op,
    Pad,
    Padding,
    Project,
)

Shape = tuple[int, ...]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


MOST_ELEMENTS = 2**31 - 1
"""In one tensor: kernels count elements in 32 bits."""


def verify(graph: Graph) -> None:
    """Returns where every invariant holds; else raises ``GraphError`` with a line for each that does not."""
    violations = [*_check_order(graph), *_check_outputs(graph), *_check_uses(graph), *_check_constants(graph)]
    for op in graph.ops:
        violations += [f"{op.name}: {message}" for message in (*_check_attributes(op), *_check_type(op, graph))]
    if violations:
        raise GraphError("\n".join(f"{graph.name}: {violation}" for violation in violations))


def constant_names(op: Op) -> tuple[str, ...]:
    """The names of the constants that ``op`` reads, in the order in which it is printed: the weight, then the bias."""
    match op:
        case Convolution(weight=weight, bias=bias) | Dense(weight=weight, bias=bias):
            return (weight,) if bias is None else (weight, bias)
        case BatchNorm():
            return (op.gamma, op.beta, op.mean, op.var)
    return ()


def _check_order(graph: Graph) -> Iterator[str]:
    """The Input first and only there, names unique, edges defined before use."""
    if not graph.ops:
        yield "no ops"
        return
    if not isinstance(graph.ops[0], Input):
        yield f"the first op, {graph.ops[0].name}, is no Input"
    defined: set[str] = set()
    for op in graph.ops:
        for edge in op.inputs:
            if edge not in defined:
                yield f"{op.name}: reads {edge} before it is defined"
        if op.name in defined:
            yield f"{op.name}: defined twice"
        if isinstance(op, Input) and defined:
            yield f"{op.name}: a second Input"
        defined.add(op.name)


def _check_outputs(graph: Graph) -> Iterator[str]:
    """At least one; names that C can take and that no edge has; edges that some op makes, each once, without border."""
    ops = {op.name: op for op in graph.ops}
    if not graph.outputs:
        yield "no outputs"
    for name, edge in graph.outputs.items():
        op = ops.get(edge)
        if not _IDENTIFIER.fullmatch(name):
            yield f"output {name!r}: not a C identifier"
        if name in ops:
            yield f"output {name}: an edge has that name"
        if op is None:
            yield f"output {name}: no op makes {edge}"
        if isinstance(op, Input):
            yield f"output {name}: {edge} is the input"
        if isinstance(op, Convolution) and op.border:
            yield f"output {name}: {edge} has a border, which its caller does not want"
    for edge, count in Counter(graph.outputs.values()).items():
        if count > 1:
            yield f"{edge}: {count} outputs are this edge"


def _check_uses(graph: Graph) -> Iterator[str]:
    """No op that nobody reads and that is no output; each constant read by exactly one op."""
    used = {edge for op in graph.ops for edge in op.inputs} | set(graph.outputs.values())
    for op in graph.ops:
        if op.name not in used:
            yield f"{op.name}: nobody reads it"
    uses = Counter(name for op in graph.ops for name in constant_names(op))
    for name in graph.constants:
        if name not in uses:
            yield f"constant {name}: nobody reads it"
    for name, count in uses.items():
        if count > 1:
            yield f"constant {name}: read {count} times"


def _check_constants(graph: Graph) -> Iterator[str]:
    """Constants there, float32."""
    for op in graph.ops:
        for name in constant_names(op):
            if name not in graph.constants:
                yield f"{op.name}: constant {name} is not there"
    for name, value in graph.constants.items():
        if value.dtype != np.float32:
            yield f"constant {name}: {value.dtype}, not float32"


def _check_attributes(op: Op) -> Iterator[str]:
    """The number of inputs, and attributes in range."""
    most = 2 if isinstance(op, Convolution) and not isinstance(op, Depthwise) else 1
    counts = {Input: (0,), Add: (2,)}.get(type(op), range(1, most + 1))
    if len(op.inputs) not in counts:
        yield f"{len(op.inputs)} inputs, not {' or '.join(map(str, counts))}"
    if isinstance(op, Project) and op.activation is not None:
        yield "a Project has no activation"
    if isinstance(op, Convolution | MaxPool):
        if op.stride < 1:
            yield f"stride {op.stride}"
        yield from _check_sides("padding", op.padding)
    if isinstance(op, MaxPool) and not max(op.padding.sides) < op.kernel:
        yield f"a window of {op.kernel} with padding {','.join(map(str, op.padding.sides))}"
    if isinstance(op, Convolution) and len(op.inputs) > 1 and op.border:
        yield "a border around a map with a shortcut"
    if isinstance(op, Convolution | Pad):
        yield from _check_sides("border", op.border)
    if isinstance(op, BatchNorm) and not op.epsilon > 0:
        yield f"epsilon {op.epsilon}"
    if isinstance(op, Input) and not len(op.mean) == len(op.scale) == op.type.shape[-1]:
        yield f"{len(op.mean)} means and {len(op.scale)} scales for {op.type.shape[-1]} channels"
    if any(extent < 1 for extent in op.type.shape):
        yield f"shape {op.type.shape} is empty"
    if op.type.elements > MOST_ELEMENTS:
        size = f"{op.type.elements} elements, more than {MOST_ELEMENTS}"
        yield f"shape {op.type.shape} has {size}: lower batch or resolution"


def _check_sides(name: str, zeros: Padding) -> Iterator[str]:
    if min(zeros.sides) < 0:
        yield f"negative {name} {','.join(map(str, zeros.sides))}"


def _check_type(op: Op, graph: Graph) -> Iterator[str]:
    """The type that inputs and constants give is the type that the op carries. What is not there is noted elsewhere."""
    types = {other.name: other.type for other in graph.ops}
    inputs = [types[edge] for edge in op.inputs if edge in types]
    shapes = {name: graph.constants[name].shape for name in constant_names(op) if name in graph.constants}
    if isinstance(op, Input) or len(inputs) != len(op.inputs) or len(shapes) != len(constant_names(op)) or not inputs:
        return
    if any(type_.dtype != op.type.dtype for type_ in inputs):
        yield f"{op.type.dtype} from {', '.join(type_.dtype for type_ in inputs)}"
    x = inputs[0].shape
    match op:
        case Convolution():
            yield from _check_convolution(op, x, shapes)
            if len(inputs) == 2 and inputs[1] != op.type:
                yield f"residual {op.inputs[1]} is {inputs[1].shape}, the output {op.type.shape}"
        case Dense():
            yield from _expect("weight", shapes[op.weight], (op.type.shape[-1], x[-1]))
            if op.bias is not None:
                yield from _expect("bias", shapes[op.bias], op.type.shape[-1:])
            yield from _expect("output", op.type.shape, (*x[:-1], op.type.shape[-1]))
        case Pad() if len(x) != 4:
            yield f"pads {x}, which has no height and width"
        case Pad():
            yield from _expect("output", op.type.shape, op.border.around(x))
        case MaxPool():
            yield from _check_max_pool(op, x)
        case GlobalAvgPool():
            yield from _expect("output", op.type.shape, (x[0], x[-1]))
        case BatchNorm():
            yield from (error for name in shapes for error in _expect(name, shapes[name], x[-1:]))
            yield from _expect("output", op.type.shape, x)
        case _:
            yield from (error for type_ in inputs for error in _expect("output", op.type.shape, type_.shape))


def _check_convolution(op: Convolution, x: Shape, shapes: dict[str, Shape]) -> Iterator[str]:
    """``out = (in + before + after - kernel) // stride + 1`` along both sides."""
    weight = shapes[op.weight]
    if len(x) != 4 or len(weight) != 4 or op.stride < 1:
        yield f"convolves {x} with {weight}, stride {op.stride}"
        return
    out_channels, kernel = weight[0], weight[2:]
    if isinstance(op, Depthwise):
        yield from _expect(op.weight, weight, (x[3], 1, 3, 3))
    else:
        yield from _expect(op.weight, weight, (out_channels, x[3], *kernel))
    if op.bias is not None:
        yield from _expect(op.bias, shapes[op.bias], (out_channels,))
    height, width = _extents(op, x, kernel)
    yield from _expect("output", op.type.shape, op.border.around((x[0], height, width, out_channels)))


def _check_max_pool(op: MaxPool, x: Shape) -> Iterator[str]:
    if len(x) != 4 or op.stride < 1:
        yield f"windows of {x}, stride {op.stride}"
        return
    yield from _expect("output", op.type.shape, (x[0], *_extents(op, x, (op.kernel, op.kernel)), x[3]))


def _extents(op: Convolution | MaxPool, x: Shape, kernel: Shape) -> Shape:
    """How many windows there are from the top down, and from left to right."""
    _, rows, columns, _ = op.padding.around(x)
    return (rows - kernel[0]) // op.stride + 1, (columns - kernel[1]) // op.stride + 1


def _expect(name: str, shape: Shape, wanted: Shape) -> Iterator[str]:
    if shape != wanted:
        yield f"{name} is {shape}, not {wanted}"
