"""Compares every layer of a library with the reference: ``mnv2c validate --layers``.

What comes in: what the layers of a run computed, and the image of that run. What goes out: a ``LayerComparison`` per
layer, in the order in which they run, so that the first one that diverges is where a library goes wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mnv2c.deploy.network import LayerRun
from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Array
from mnv2c.measure.noise import Noise, allowed
from mnv2c.precision import Precision
from mnv2c.reference.evaluator import Reference

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class LayerComparison:
    """One layer against the edge of the reference, over all images.

    ``error`` is the largest absolute one, ``largest`` the edge's largest absolute value, ``noise`` what the
    precision leaves open there (``measure.noise``): 0 where it was not measured.
    """

    name: str
    edge: str
    error: float
    largest: float
    noise: float

    def diverges(self, tolerance: float) -> bool:
        """Errors count in units of the largest value where that is above 1; NaN diverges."""
        return not self.error <= allowed(tolerance * max(1.0, self.largest), self.noise)


class LayerComparer:
    """``compared`` has every layer of the runs that ``add`` was given.

    Where a layer is further off than ``tolerance``, the noise is measured; with None, never.
    """

    def __init__(self, model: onnx.ModelProto, precision: Precision, *, tolerance: float | None) -> None:
        self._tolerance = tolerance
        self._noise = Noise(model, precision, observe=True)
        self._reference = Reference(model, observe=True)
        self._nodes = {node.name: node for node in model.graph.node}
        self._found: dict[str, LayerComparison] = {}

    @property
    def compared(self) -> tuple[LayerComparison, ...]:
        """In the order in which the layers run."""
        return tuple(replace(layer, noise=self._noise.of(layer.edge)) for layer in self._found.values())

    def add(self, x: Array, layers: Sequence[LayerRun]) -> None:
        """``layers`` are of a run on ``x``, N x H x W x 3. LibraryError where the reference has no such layer."""
        edges = self._reference.run(x)
        for layer in layers:
            edge, wanted = self._wanted(layer.name, edges)
            fits = layer.array.size == wanted.size
            error = largest(layer.array.reshape(wanted.shape) - wanted.astype(np.float64)) if fits else np.inf
            before = self._found.setdefault(layer.name, LayerComparison(layer.name, edge, 0.0, 0.0, 0.0))
            self._found[layer.name] = replace(
                before, error=largest([before.error, error]), largest=largest([before.largest, largest(wanted)])
            )
        tolerance = self._tolerance
        if tolerance is not None and any(layer.diverges(tolerance) for layer in self._found.values()):
            self._noise.add(x, edges)

    def _wanted(self, layer: str, edges: Mapping[str, Array]) -> tuple[str, Array]:
        """The reference's edge that a layer equals, with what the passes have fused into it, and its value.

        ``block3.expand`` is ``block3.expand.relu6``; ``block3.project`` is ``block3.add`` where the block has a
        shortcut, ``block3.project.bn`` where it has none; ``block1.dw.pad`` is what ``block1.dw`` reads, in its zeros.
        """
        block, _, kind = layer.rpartition(".")
        if kind == "pad" and block in self._nodes:
            node = self._nodes[block]
            (top, left, bottom, right), edge = _attribute(node, "pads"), node.input[0]
            return edge, np.pad(edges[edge], ((0, 0), (top, bottom), (left, right), (0, 0)))
        fused = [f"{block}.add"] if kind == "project" else []
        for edge in (*fused, f"{layer}.relu6", f"{layer}.relu", f"{layer}.bn", layer):
            if edge in edges:
                return edge, edges[edge]
        raise LibraryError(f"the reference has no edge for layer {layer}; build the library again")


def largest(values: object) -> float:
    """The largest absolute value; NaN where one of them is, which ``max`` would lose."""
    return float(np.max(np.abs(np.asarray(values, dtype=np.float64))))


def _attribute(node: onnx.NodeProto, name: str) -> list[int]:
    (found,) = [attribute for attribute in node.attribute if attribute.name == name]
    return list(found.ints)
