"""The Relay backend: the graph in Relay ops, and those in kernel calls, in an environment that has Relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mnv2c.backends.calls import KernelCall
from mnv2c.backends.relay.environment import ask, damaged
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Graph
from mnv2c.ir.graph_json import to_json
from mnv2c.workload_json import from_json

FILE = "relay.txt"
Answer = TypeVar("Answer")


def kernel_calls(graph: Graph) -> tuple[KernelCall, ...]:
    """The calls that compute ``graph``, which has been through ``passes``. GraphError for what no kernel computes,
    ToolError where Relay's environment is missing or does not work."""
    (calls,) = kernel_calls_of([graph])
    return calls


def kernel_calls_of(graphs: Sequence[Graph]) -> list[tuple[KernelCall, ...]]:
    """The same of several, in one go."""
    calls = _asked("calls", graphs, lambda answer: tuple(map(_call, answer)))
    for graph, found in zip(graphs, calls, strict=True):
        _check_names(graph, found)
    return calls


def text(graph: Graph) -> str:
    """The module in Relay's text format, as ``tvm.relay.parse`` reads it; errors as ``kernel_calls``."""
    (written,) = _asked("text", [graph], str)
    return written


def _asked(want: str, graphs: Sequence[Graph], read: Callable[[Any], Answer]) -> list[Answer]:
    answers = ask(want, [to_json(graph) for graph in graphs])
    try:
        for answer in answers:
            if "error" in answer:
                raise GraphError(str(answer["error"]))
        return [read(answer[want]) for answer in answers]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged("its answer is not what our program says") from error


def _call(value: dict[str, Any]) -> KernelCall:
    inputs, constants, outputs = (tuple(value[name]) for name in ("inputs", "constants", "outputs"))
    return KernelCall(value["layer"], from_json(value["workload"]), inputs, constants, outputs)


def _check_names(graph: Graph, calls: Sequence[KernelCall]) -> None:
    edges = [op.name for op in graph.ops]
    named = [name for call in calls for name in (call.layer, *call.inputs, *call.outputs)]
    constants = [name for call in calls for name in call.constants]
    if not all(name in edges for name in named) or not all(name in list(graph.constants) for name in constants):
        raise damaged("its answer names what the network has not")
