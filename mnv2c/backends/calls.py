"""Kernel calls: what a backend makes of a graph, and all that compiling it takes. No TVM.

A backend is a function ``Graph -> tuple[KernelCall, ...]``. The calls come in an order that writes each edge before it
is read; every op of the graph but the input is in exactly one of them. What no kernel computes is a GraphError with
the layer's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from mnv2c.workloads import Workload


@dataclass(frozen=True)
class KernelCall:
    """``layer`` is the name of the op in the graph; ``inputs`` and ``outputs`` are edges, ``constants`` names of the
    graph's constants, each in the order and of the type that the workload says."""

    layer: str
    workload: Workload
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
