"""The Relax backend: the graph in Relax ops (``emit``), and those in kernel calls (``partition``)."""

from __future__ import annotations

from mnv2c.backends.calls import KernelCall
from mnv2c.ir.graph import Graph

FILE = "relax.py"


def kernel_calls(graph: Graph) -> tuple[KernelCall, ...]:
    """The calls that compute ``graph``, which has been through ``passes``. GraphError for what no kernel computes."""
    from mnv2c.backends.relax.emit import emit
    from mnv2c.backends.relax.partition import partition

    edges = tuple(op.name for op in graph.ops[1:])
    return partition(emit(graph, returned=edges), image=graph.input.name, constants=tuple(graph.constants), edges=edges)


def text(graph: Graph) -> str:
    """The module as TVMScript, which a TVM user reads; GraphError where an op is left that the passes fold."""
    from mnv2c.backends.relax.emit import emit

    return str(emit(graph).script())
