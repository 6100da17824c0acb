"""Prints a graph as text: the golden format, and what ``mnv2c show --emit ir`` shows.

What comes in: a ``Graph``. What goes out: one op a line, with its constants by name and shape, its attributes and its
type, under the YAML row that it came from (``#1`` is the second block of the row); last, each output with its edge::

    # mnv2_1.0.yaml:18 {t: 6, c: 24, n: 2, s: 2} #1
    block2.dw = Depthwise(block2.expand.relu6, block2.dw.weight[144x1x3x3]) padding=1,1,1,1 : float32[1x56x56x144]
    return logits=fc
"""

from __future__ import annotations

from itertools import groupby
from pathlib import PurePath

from mnv2c.ir.graph import BatchNorm, Convolution, Dense, Graph, Input, MaxPool, Op, Pad, Padding, TensorType
from mnv2c.ir.verifier import constant_names


def format_graph(graph: Graph) -> str:
    """The text of ``graph``, ending in a newline. Depends on nothing but the graph; no values of constants in it."""
    lines: list[str] = []
    for source, ops in groupby(graph.ops, key=_source):
        lines += [f"  # {source}"] if source else []
        lines += [f"  {_operation(op, graph)}" for op in ops]
    outputs = ", ".join(f"{name}={edge}" for name, edge in graph.outputs.items())
    return "\n".join([f"graph {graph.name} {{", *lines, f"  return {outputs}", "}", ""])


def _operation(op: Op, graph: Graph) -> str:
    constants = [f"{name}[{_extents(graph.constants[name].shape)}]" for name in constant_names(op)]
    operands = ", ".join([*op.inputs, *constants])
    attributes = "".join(f" {attribute}" for attribute in _attributes(op))
    return f"{op.name} = {type(op).__name__}({operands}){attributes} : {_type(op.type)}"


def _attributes(op: Op) -> list[str]:
    """``name=value`` for what is not the default; padding and border are top, left, bottom, right."""
    match op:
        case Input():
            return [f"mean={_numbers(op.mean)}", f"scale={_numbers(op.scale)}"]
        case BatchNorm():
            return [f"epsilon={op.epsilon:g}"]
        case Convolution():
            stride = [f"stride={op.stride}"] if op.stride != 1 else []
            activation = [f"activation={op.activation}"] if op.activation else []
            return stride + _sides("padding", op.padding) + activation + _sides("border", op.border)
        case Pad():
            return _sides("border", op.border)
        case MaxPool():
            return [f"kernel={op.kernel}", f"stride={op.stride}", *_sides("padding", op.padding)]
        case Dense():
            return [f"activation={op.activation}"] if op.activation else []
    return []


def _sides(name: str, zeros: Padding) -> list[str]:
    return [f"{name}={_numbers(zeros.sides)}"] if zeros else []


def _type(type_: TensorType) -> str:
    return f"{type_.dtype}[{_extents(type_.shape)}]"


def _extents(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _source(op: Op) -> str:
    source = op.source
    if not source.row:
        return ""
    return f"{PurePath(source.file).name}:{source.line} {source.row}" + (f" #{source.repeat}" if source.repeat else "")
