"""The graph IR: frozen dataclasses, one per op; edges are names that stay the same from the YAML row to the C symbol.

What comes in: ``frontend`` builds a ``Graph`` from a ``Spec`` and weights. What goes out: ``passes`` rewrite it, and
``onnx_export``, ``interpreter`` and ``backends`` read it. Activations are NHWC, convolution weights OIHW (depthwise:
C x 1 x 3 x 3), dense weights classes x features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TensorType:
    """Shape (NHWC or NC) and element type of an edge."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def nbytes(self) -> int:
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Source:
    """The YAML row an op came from: ``row`` is its text, ``{t: 6, c: 24, n: 2, s: 2}``; ``repeat`` counts from 0."""

    file: str
    line: int
    row: str
    repeat: int = 0


@dataclass(frozen=True)
class Padding:
    """Zeros around the spatial extents, in pixels."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0


Activation = Literal["relu6"] | None


@dataclass(frozen=True, kw_only=True)
class Op:
    """``name`` is the op and its one output edge; ``inputs`` are names of edges; ``type`` is the output's."""

    name: str
    inputs: tuple[str, ...]
    type: TensorType
    source: Source


@dataclass(frozen=True, kw_only=True)
class Input(Op):
    """The normalised image: ``x = (pixel - mean) / scale``, one value per channel."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Convolution(Op):
    """What the four convolutions share. ``weight`` and ``bias`` name constants; the kernel size is the weight's.

    ``inputs`` is ``(x,)``; after ``fuse_add`` a Project has ``(x, residual)``: ``y = activation(conv(x) + bias) +
    residual``. After ``fuse_pad`` the output has a ``border`` of zeros around it, which ``type`` counts.
    """

    weight: str
    bias: str | None = None
    stride: int = 1
    padding: Padding = Padding()
    activation: Activation = None
    border: Padding = Padding()


@dataclass(frozen=True, kw_only=True)
class Conv(Convolution):
    """A full convolution: the 3x3 stem and the 1x1 head."""


@dataclass(frozen=True, kw_only=True)
class Expand(Convolution):
    """The 1x1 convolution that opens an inverted residual (paper, section 3.3)."""


@dataclass(frozen=True, kw_only=True)
class Depthwise(Convolution):
    """The 3x3 convolution of each channel with itself; carries the block's stride."""


@dataclass(frozen=True, kw_only=True)
class Project(Convolution):
    """The 1x1 convolution back to the linear bottleneck: never an activation (paper, section 3.2)."""


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Op):
    """``y = gamma * (x - mean) / sqrt(var + epsilon) + beta`` per channel; the four fields name constants."""

    gamma: str
    beta: str
    mean: str
    var: str
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class ReLU6(Op):
    """``min(max(x, 0), 6)``."""


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """The shortcut: the sum of two edges of one type."""


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """A ``border`` of zeros around a map."""

    border: Padding


@dataclass(frozen=True, kw_only=True)
class GlobalAvgPool(Op):
    """The mean over height and width: NHWC to NC."""


@dataclass(frozen=True, kw_only=True)
class Dense(Op):
    """``y = x W^T + b``; ``weight`` (classes x features) and ``bias`` name constants."""

    weight: str
    bias: str


@dataclass(frozen=True)
class Graph:
    """Ops in an order that defines each edge before its use, the ``Input`` first.

    ``outputs`` says what the caller gets, in order: the output's name, as C and ONNX show it, and the edge that it is.
    Such an edge may be read by ops too. Passes may rename edges; the names of the outputs never change.
    """

    name: str
    ops: tuple[Op, ...]
    constants: Mapping[str, Array]
    outputs: Mapping[str, str]

    def op(self, name: str) -> Op:
        """The op that defines edge ``name``; KeyError where there is none."""
        for op in self.ops:
            if op.name == name:
                return op
        raise KeyError(name)

    def users(self, name: str) -> tuple[Op, ...]:
        """The ops that read edge ``name``."""
        return tuple(op for op in self.ops if name in op.inputs)

    @property
    def input(self) -> Input:
        first = self.ops[0]
        assert isinstance(first, Input), "the verifier keeps the Input first"
        return first
