"""The Relay backend: the graph in Relay ops, and those in kernel calls, in an environment that has Relay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mnv2c.backends.calls import KernelCall
from mnv2c.backends.relay.environment import ask
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Graph
from mnv2c.ir.graph_json import to_json
from mnv2c.workload_json import from_json

FILE = "relay.txt"


def kernel_calls(graph: Graph) -> tuple[KernelCall, ...]:
    """The calls that compute ``graph``, which has been through ``passes``. GraphError for what no kernel computes,
    ToolError where Relay's environment is missing or does not work."""
    (calls,) = kernel_calls_of([graph])
    return calls


def kernel_calls_of(graphs: Sequence[Graph]) -> list[tuple[KernelCall, ...]]:
    """The same of several, in one go."""
    return [tuple(map(_call, answer)) for answer in _asked("calls", graphs)]


def text(graph: Graph) -> str:
    """The module in Relay's text format, as ``tvm.relay.parse`` reads it; errors as ``kernel_calls``."""
    (written,) = _asked("text", [graph])
    return str(written)


def _asked(want: str, graphs: Sequence[Graph]) -> list[Any]:
    answers = ask(want, [to_json(graph) for graph in graphs])
    for answer in answers:
        if "error" in answer:
            raise GraphError(answer["error"])
    return [answer[want] for answer in answers]


def _call(value: dict[str, Any]) -> KernelCall:
    inputs, constants, outputs = (tuple(value[name]) for name in ("inputs", "constants", "outputs"))
    return KernelCall(value["layer"], from_json(value["workload"]), inputs, constants, outputs)
