"""Measures how well its precision determines what a network computes: the yardstick of ``mnv2c validate``.

What comes in: the reference, and images. What goes out, by output: the largest change when every weight moves to a
neighbouring float32, or by the last bit of what the library multiplies where that is coarser. Those networks are as
good as the reference, so that a library cannot be asked to be nearer to it; and a weight that is wrong by more than its
last bits stands out, for the reference's own weights are what is moved.

Neither depth nor the size of the logits alone says how far apart right libraries are. Measured on an AMD EPYC (Zen 5),
seeded weights, 16 tables of 5 to 60 rows with t of 1, 3 and 6 and c of 16 to 96, both paddings; errors are the largest
of 4 images, against float64, the ratio is that of 16 images:

=======================  ============  ============  =================================
table                    library       onnxruntime   library to reference / noise
=======================  ============  ============  =================================
5 rows (17 layers)       1.4e-5        1.0e-5        2.05 (an error of 2e-5)
10 and 17 rows           2.4e-5        1.7e-5        0.75 to 1.42
25 rows                  5.0e-5        5.1e-5        0.69 to 0.89
40 rows                  3.6e-4        4.4e-4        0.59 to 0.80
60 rows, one table       5.7e-4        5.2e-4        0.80
60 rows, another         7.3e-3        3.9e-3        0.87
shipped, seeded          2.3e-5        1.8e-5        0.88 to 1.12
1.0, trained             1.5e-5        1.4e-5        0.49
=======================  ============  ============  =================================

Errors grow with depth because a network without shortcuts amplifies what comes in: by the table, not by the layer.
Over all layers of these networks, the ratio was at most 1.36 wherever errors exceeded 1e-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mnv2c.ir.graph import Array
from mnv2c.precision import COARSER, Precision
from mnv2c.reference.evaluator import Reference

if TYPE_CHECKING:
    import onnx

DRAWS = 4
"""Networks with moved weights. What one alone changes varies twofold from one draw to the next."""

FACTOR = 2.0
"""How many times the noise a right library may be off. At 1 a layer of the 40-row table would diverge, see above; at 4
the trained network, whose noise is 5.0e-5, could be off by more than 1e-4."""


class Noise:
    """``largest`` is the noise so far, by output and by edge where ``observe`` is set; empty before ``add``."""

    def __init__(self, model: onnx.ModelProto, precision: Precision = "fp32", *, observe: bool = False) -> None:
        self._model = model
        self._bits = COARSER[precision]
        self._observe = observe
        self.largest: dict[str, float] = {}

    def of(self, name: str) -> float:
        """The noise of one output or edge; 0 where it was not measured."""
        return self.largest.get(name, 0.0)

    def add(self, x: Array, wanted: Mapping[str, Array]) -> None:
        """Measures on ``x``, normalised images N x H x W x 3, where the reference itself gives ``wanted``."""
        for reference in self._moved:
            for name, value in reference.run(x).items():
                change = float(np.abs(value - wanted[name].astype(np.float64)).max())
                self.largest[name] = max(self.largest.get(name, 0.0), change)

    @cached_property
    def _moved(self) -> list[Reference]:
        return [Reference(_move_weights(self._model, draw, self._bits), observe=self._observe) for draw in range(DRAWS)]


def allowed(tolerance: float, noise: float) -> float:
    """How far a right library may be off: ``tolerance``, or what its precision leaves open where that is more."""
    return max(tolerance, FACTOR * noise)


def _move_weights(model: onnx.ModelProto, seed: int, bits: int) -> onnx.ModelProto:
    """Every value of every weight ``bits`` last bits of float32 up or down, at random; limits of ReLU6, which are
    scalars, stay."""
    import onnx
    from onnx import numpy_helper

    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    draw = np.random.default_rng(seed)
    for initializer in moved.graph.initializer:
        weight = numpy_helper.to_array(initializer)
        if weight.ndim:
            up = draw.integers(0, 2, weight.shape, np.bool_)
            neighbours = weight + np.where(up, bits, -bits).astype(weight.dtype) * np.spacing(np.abs(weight))
            initializer.CopyFrom(numpy_helper.from_array(neighbours, initializer.name))
    return moved
