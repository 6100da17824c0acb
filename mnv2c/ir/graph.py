"""The graph IR: frozen dataclasses, one per op; edges are names that stay the same from the YAML row to the C symbol.

What comes in: ``frontend`` builds a ``Graph`` from a ``Spec`` and weights. What goes out: ``passes`` rewrite it, and
``onnx_export``, ``interpreter`` and ``backends`` read it. Activations are NHWC, convolution weights OIHW (depthwise:
C x 1 x 3 x 3), dense weights classes x features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TensorType:
    """Shape (NHWC or NC) and element type, by NumPy's name, of an edge."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """How many values, over the whole batch."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that the values take, without any alignment."""
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Source:
    """The YAML row that an op came from.

    ``line`` counts from 1; ``row`` is the row's text, ``{t: 6, c: 24, n: 2, s: 2}``; ``repeat`` says which of its ``n``
    blocks, from 0.
    """

    file: str
    line: int
    row: str
    repeat: int = 0


@dataclass(frozen=True)
class Padding:
    """Zeros around the spatial extents of a map, in pixels; false where there are none."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right: the order in which they are printed, and in which ONNX and TVM have them."""
        return self.top, self.left, self.bottom, self.right

    def __bool__(self) -> bool:
        return any(self.sides)

    def around(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The NHWC shape of a map of ``shape`` with these zeros around it."""
        batch, height, width, channels = shape
        return batch, self.top + height + self.bottom, self.left + width + self.right, channels

    def inside(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The NHWC shape of the map within one of ``shape`` that counts these zeros: the inverse of ``around``."""
        batch, height, width, channels = shape
        return batch, height - self.top - self.bottom, width - self.left - self.right, channels


Activation = Literal["relu6", "relu"] | None
"""What a convolution, or a dense layer, does to its sums, a shortcut added, before it stores them."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """``name`` is the op and its one output edge; ``inputs`` are names of edges; ``type`` is the output's."""

    name: str
    inputs: tuple[str, ...]
    type: TensorType
    source: Source


@dataclass(frozen=True, kw_only=True)
class Input(Op):
    """The normalised images, N x H x W x 3: ``x = (pixel - mean) / scale``, one mean and scale per channel."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Convolution(Op):
    """What the four convolutions share: NHWC to NHWC, ``padding`` and ``stride``, the same along both sides, in pixels.

    ``weight`` (OIHW; Depthwise C x 1 x 3 x 3) and ``bias`` (one per output channel) name constants; the kernel size is
    the weight's.

    ``inputs`` is ``(x,)``; after ``fuse_add`` a 1x1 convolution may have ``(x, residual)``: ``y = activation(conv(x) +
    bias + residual)``. After ``fuse_pad`` the output has a ``border`` of zeros around it, which ``type`` counts.
    """

    weight: str
    bias: str | None = None
    stride: int = 1
    padding: Padding = Padding()
    activation: Activation = None
    border: Padding = Padding()


@dataclass(frozen=True, kw_only=True)
class Conv(Convolution):
    """A full convolution: the stem and the 1x1 head (paper, Table 2); the 1x1 of a depthwise separable convolution
    (arXiv 1704.04861), and those of a residual bottleneck (arXiv 1512.03385)."""


@dataclass(frozen=True, kw_only=True)
class Expand(Convolution):
    """The 1x1 convolution that opens an inverted residual, to t times the channels (paper, section 3.3)."""


@dataclass(frozen=True, kw_only=True)
class Depthwise(Convolution):
    """The 3x3 filter of each channel by itself, with the block's stride (paper, section 3.1)."""


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
    """``min(max(x, 0), 6)`` (paper, section 4)."""


@dataclass(frozen=True, kw_only=True)
class ReLU(Op):
    """``max(x, 0)``."""


ACTIVATIONS: Mapping[type[Op], Activation] = MappingProxyType({ReLU6: "relu6", ReLU: "relu"})
"""What each op that is one does, as a convolution or a dense layer into which it is fused."""


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """``exp(x) / sum(exp(x))`` over the last axis: N x classes, each row a distribution."""


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """The shortcut: the sum of two edges of one type (paper, section 3.3)."""


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """A ``border`` of zeros around a map, NHWC; ``type`` counts it. Only ``pad_convolution`` makes one."""

    border: Padding


@dataclass(frozen=True, kw_only=True)
class MaxPool(Op):
    """The largest value of each channel in every window of ``kernel x kernel`` pixels, ``stride`` apart, NHWC; what
    ``padding`` adds around the map, less than a window on each side, is never the largest."""

    kernel: int
    stride: int
    padding: Padding = Padding()


@dataclass(frozen=True, kw_only=True)
class GlobalAvgPool(Op):
    """The mean over height and width: N x H x W x C to N x C (paper, Table 2)."""


@dataclass(frozen=True, kw_only=True)
class Dense(Op):
    """``y = activation(x W^T + b)``, N x features to N x classes.

    ``weight`` (classes x features) and ``bias`` (classes), where there is one, name constants.
    """

    weight: str
    bias: str | None = None
    activation: Activation = None


LOGITS, PROBABILITIES = "logits", "probabilities"
CLASSIFIED = (LOGITS, PROBABILITIES)
"""Names of outputs, N x classes, that say how well each class fits."""


@dataclass(frozen=True)
class Graph:
    """Ops in an order that defines each edge before its use, the ``Input`` first.

    ``outputs`` says what the caller gets, in order: the output's name, as C and ONNX show it, and the edge that it is.
    Such an edge may be read by ops too. Passes may rename edges; the names of the outputs never change. ``constants``
    are float32, each read by one op. ``verifier`` lists all that must hold.
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
        """The ops that read edge ``name``, in their order; the caller, who reads outputs, is not among them."""
        return tuple(op for op in self.ops if name in op.inputs)

    @property
    def input(self) -> Input:
        """The op that is the caller's image."""
        first = self.ops[0]
        assert isinstance(first, Input), "the verifier keeps the Input first"
        return first
