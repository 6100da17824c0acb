"""Workloads: what a kernel computes. Frozen, without TVM and without a device.

What comes in: a backend makes one for each kernel call, a tuning record carries one. What goes out: the types of its
operands, a name that no other workload has, and a line that describes it. Activations are NHWC; constants have the
graph's layouts (convolutions OIHW, dense weights classes x features): how they are packed is the device's business.

The operands of a kernel are its ``inputs``, its ``constants`` and its ``outputs``, in this order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mnv2c.ir.graph import Activation, Padding, TensorType
from mnv2c.precision import Precision

NO_BORDER = Padding()


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    """``batch`` images at once; ``constants`` come in float32, whatever the ``precision``."""

    family: ClassVar[str]
    batch: int = 1
    precision: Precision = "fp32"

    @property
    def dtype(self) -> str:
        """The element type of activations and weights in memory."""
        return "float16" if self.precision == "fp16" else "float32"

    @property
    def name(self) -> str:
        """A C identifier, injective: the family's extents, then each field that is not at its default."""
        return "_".join([self.family, *self._extents(), *self._options()])

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorType, ...]:
        """Types of the edges that it reads."""

    @property
    def constants(self) -> tuple[TensorType, ...]:
        """Types of weight and bias, as the graph has them."""
        return ()

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorType, ...]:
        """Types of the edges that it writes, borders included."""

    @property
    def macs(self) -> int:
        """Multiply-adds of one run, the whole batch."""
        return 0

    @property
    @abstractmethod
    def description(self) -> str:
        """What it does, in one line for the reader of the C driver."""

    @abstractmethod
    def _extents(self) -> tuple[str, ...]:
        """What begins its name: as many pieces for every workload of the family."""

    def _options(self) -> list[str]:
        pieces = [f"batch{self.batch}"] if self.batch != 1 else []
        return [*pieces, self.precision] if self.precision != "fp32" else pieces

    def _tensor(self, *extents: int) -> TensorType:
        return TensorType(extents, self.dtype)


@dataclass(frozen=True, kw_only=True)
class _Spatial(Workload):
    """``height x width`` output pixels, the border around them not counted."""

    height: int
    width: int

    def _map(self, channels: int, border: Padding = NO_BORDER) -> TensorType:
        rows, columns = border.top + self.height + border.bottom, border.left + self.width + border.right
        return self._tensor(self.batch, rows, columns, channels)

    def _size(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class _Banded(_Spatial):
    """What may run in bands of ``band`` rows: equal runs of the kernel's tasks are the bands of the batch, in order.

    0 where a task may be anything.
    """

    band: int = 0

    def _options(self) -> list[str]:
        return [*super()._options(), *([f"band{self.band}"] if self.band else [])]


@dataclass(frozen=True, kw_only=True)
class Pointwise(_Banded):
    """``activation(x W^T + bias (+ residual))`` in every pixel, ``k`` channels in, ``n`` out: the expansion, the linear
    bottleneck with its shortcut (paper, sections 3.2 and 3.3), and the head.

    ``border`` zeros surround the output for a depthwise convolution that reads it.
    """

    family: ClassVar[str] = "pointwise"
    k: int
    n: int
    activation: Activation = None
    residual: bool = False
    border: Padding = NO_BORDER

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        x = self._map(self.k)
        return (x, self._map(self.n)) if self.residual else (x,)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        return _floats(self.n, self.k, 1, 1), _floats(self.n)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.n, self.border),)

    @property
    def bordered(self) -> bool:
        """Whether the output's rows do not follow one another in memory."""
        return self.border != NO_BORDER

    @property
    def pixels(self) -> int:
        """Of the whole batch."""
        return self.batch * self.height * self.width

    @property
    def macs(self) -> int:
        return self.pixels * self.k * self.n

    @property
    def description(self) -> str:
        shapes = f"{self._size()}x{self.k} -> {self._size()}x{self.n}"
        return f"1x1 convolution, {shapes}" + _and(self.activation)

    def _extents(self) -> tuple[str, ...]:
        return self._size(), str(self.k), str(self.n)

    def _options(self) -> list[str]:
        residual = ["residual"] if self.residual else []
        return [*super()._options(), *_activation(self.activation), *residual, *_sides("border", self.border)]


@dataclass(frozen=True, kw_only=True)
class Depthwise(_Banded):
    """A 3x3 convolution of each of ``channels`` with itself (paper, section 3.1); its input, ``rows x columns``, has
    its zeros in memory. Of a ``ring`` the rows come again after the last: row ``r`` is ``r % rows``."""

    family: ClassVar[str] = "depthwise"
    channels: int
    stride: int
    rows: int
    columns: int
    activation: Activation = None
    ring: bool = False

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.rows, self.columns, self.channels),)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        return _floats(self.channels, 1, 3, 3), _floats(self.channels)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.channels),)

    @property
    def macs(self) -> int:
        return 9 * self.batch * self.height * self.width * self.channels

    @property
    def description(self) -> str:
        shapes = f"{self.rows}x{self.columns}x{self.channels} -> {self._size()}x{self.channels}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"3x3 depthwise convolution{stride}, {shapes}" + _and(self.activation)

    def _extents(self) -> tuple[str, ...]:
        return self._size(), str(self.channels), f"stride{self.stride}", "from", f"{self.rows}x{self.columns}"

    def _options(self) -> list[str]:
        return [*super()._options(), *_activation(self.activation), *(["ring"] if self.ring else [])]


@dataclass(frozen=True, kw_only=True)
class Stem(_Banded):
    """A ``kernel x kernel`` convolution of an image of ``rows x columns`` pixels of 3 channels (paper, Table 2, first
    row), which has no border of its own.

    Where ``image`` is uint8 the pixels are raw, and ``(pixel - mean) / scale`` per channel is part of the work;
    else ``mean`` and ``scale`` are empty.
    """

    family: ClassVar[str] = "stem"
    CHANNELS: ClassVar[int] = 3
    n: int
    stride: int
    rows: int
    columns: int
    padding: Padding
    kernel: int = 3
    activation: Activation = None
    border: Padding = NO_BORDER
    image: str = "float32"
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.batch, self.rows, self.columns, self.CHANNELS), self.image),)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        return _floats(self.n, self.CHANNELS, self.kernel, self.kernel), _floats(self.n)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.n, self.border),)

    @property
    def macs(self) -> int:
        return self.kernel**2 * self.CHANNELS * self.batch * self.height * self.width * self.n

    @property
    def description(self) -> str:
        shapes = f"{self.rows}x{self.columns}x{self.CHANNELS} -> {self._size()}x{self.n}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} convolution{stride}, {shapes}" + _and(self.activation)

    def _extents(self) -> tuple[str, ...]:
        return self._size(), str(self.n), f"stride{self.stride}", "from", f"{self.rows}x{self.columns}"

    def _options(self) -> list[str]:
        image = [self.image] if self.image != "float32" else []
        numbers = [
            f"{name}{_numbers(values)}" for name, values in (("mean", self.mean), ("scale", self.scale)) if values
        ]
        kernel = [f"kernel{self.kernel}"] if self.kernel != 3 else []
        sides = [*_sides("padding", self.padding), *_sides("border", self.border)]
        return [*super()._options(), *kernel, *_activation(self.activation), *sides, *image, *numbers]


@dataclass(frozen=True, kw_only=True)
class Conv(_Spatial):
    """A ``kernel x kernel`` convolution of ``k`` channels to ``n``, as a residual bottleneck has inside, or with a
    ``stride`` beside it (arXiv 1512.03385, figure 5); its input, ``rows x columns``, has its zeros in memory."""

    family: ClassVar[str] = "conv"
    k: int
    n: int
    kernel: int
    stride: int
    rows: int
    columns: int
    activation: Activation = None
    border: Padding = NO_BORDER

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.rows, self.columns, self.k),)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        return _floats(self.n, self.k, self.kernel, self.kernel), _floats(self.n)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.n, self.border),)

    @property
    def macs(self) -> int:
        return self.kernel**2 * self.batch * self.height * self.width * self.k * self.n

    @property
    def description(self) -> str:
        shapes = f"{self.rows}x{self.columns}x{self.k} -> {self._size()}x{self.n}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} convolution{stride}, {shapes}" + _and(self.activation)

    def _extents(self) -> tuple[str, ...]:
        taps = f"{self.kernel}x{self.kernel}"
        return (
            self._size(),
            str(self.k),
            str(self.n),
            taps,
            f"stride{self.stride}",
            "from",
            f"{self.rows}x{self.columns}",
        )

    def _options(self) -> list[str]:
        return [*super()._options(), *_activation(self.activation), *_sides("border", self.border)]


@dataclass(frozen=True, kw_only=True)
class Pad(_Spatial):
    """A ``border`` of zeros around a map of ``channels``: where a depthwise convolution reads an edge that another op
    reads too (expansion factor 1 with a shortcut)."""

    family: ClassVar[str] = "pad"
    channels: int
    border: Padding

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.channels),)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.channels, self.border),)

    @property
    def description(self) -> str:
        return f"zeros around {self._size()}x{self.channels}"

    def _extents(self) -> tuple[str, ...]:
        return self._size(), str(self.channels)

    def _options(self) -> list[str]:
        return [*super()._options(), *_sides("border", self.border)]


@dataclass(frozen=True, kw_only=True)
class Pool(_Spatial):
    """The mean of each of ``channels`` over ``height x width`` pixels (paper, Table 2, ``avgpool``)."""

    family: ClassVar[str] = "pool"
    channels: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.channels),)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.channels),)

    @property
    def description(self) -> str:
        return f"mean over {self._size()} pixels of {self.channels} channels"

    def _extents(self) -> tuple[str, ...]:
        return self._size(), str(self.channels)


@dataclass(frozen=True, kw_only=True)
class MaxPool(_Spatial):
    """The largest of each of ``channels`` in every window of ``kernel x kernel`` pixels of a map of ``rows x columns``;
    what ``padding`` adds around the map is never the largest."""

    family: ClassVar[str] = "max_pool"
    channels: int
    kernel: int
    stride: int
    rows: int
    columns: int
    padding: Padding

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.rows, self.columns, self.channels),)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.channels),)

    @property
    def description(self) -> str:
        shapes = f"{self.rows}x{self.columns}x{self.channels} -> {self._size()}x{self.channels}"
        return f"largest of {self.kernel}x{self.kernel} pixels, stride {self.stride}, {shapes}"

    def _extents(self) -> tuple[str, ...]:
        taps = f"{self.kernel}x{self.kernel}"
        return self._size(), str(self.channels), taps, f"stride{self.stride}", "from", f"{self.rows}x{self.columns}"

    def _options(self) -> list[str]:
        return [*super()._options(), *_sides("padding", self.padding)]


@dataclass(frozen=True, kw_only=True)
class Dense(Workload):
    """``activation(x W^T + bias)``: ``k`` features in, the logits of ``n`` classes out (paper, Table 2, last row), or
    what the next such layer reads."""

    family: ClassVar[str] = "dense"
    k: int
    n: int
    activation: Activation = None

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.k),)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        return _floats(self.n, self.k), _floats(self.n)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (_floats(self.batch, self.n),)

    @property
    def macs(self) -> int:
        return self.batch * self.k * self.n

    @property
    def description(self) -> str:
        return f"dense, {self.k} features -> {self.n} classes" + _and(self.activation)

    def _extents(self) -> tuple[str, ...]:
        return str(self.k), str(self.n)

    def _options(self) -> list[str]:
        return [*super()._options(), *_activation(self.activation)]


@dataclass(frozen=True, kw_only=True)
class Softmax(Workload):
    """``exp(x) / sum(exp(x))`` over ``n`` classes: logits in, a distribution out, in fp32 both."""

    family: ClassVar[str] = "softmax"
    n: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (_floats(self.batch, self.n),)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (_floats(self.batch, self.n),)

    @property
    def description(self) -> str:
        return f"softmax of {self.n} classes"

    def _extents(self) -> tuple[str, ...]:
        return (str(self.n),)


@dataclass(frozen=True, kw_only=True)
class ExpandDepthwise(_Spatial):
    """A ``Pointwise`` and the ``Depthwise`` that alone reads it, in one: the expanded map of ``rows x columns`` pixels
    and ``channels`` need not exist whole (paper, section 5.1), nor the ``padding`` of zeros around it.

    ``expansion`` is the activation between the two.
    """

    family: ClassVar[str] = "expand_depthwise"
    k: int
    channels: int
    stride: int
    rows: int
    columns: int
    padding: Padding
    expansion: Activation = None
    activation: Activation = None

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.rows, self.columns, self.k),)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        n = self.channels
        return _floats(n, self.k, 1, 1), _floats(n), _floats(n, 1, 3, 3), _floats(n)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.channels),)

    @property
    def macs(self) -> int:
        pixels = self.k * self.rows * self.columns + 9 * self.height * self.width
        return self.batch * self.channels * pixels

    @property
    def description(self) -> str:
        shapes = f"{self.rows}x{self.columns}x{self.k} -> {self._size()}x{self.channels}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"1x1 convolution{_and(self.expansion)}, 3x3 depthwise{stride}, {shapes}" + _and(self.activation)

    def _extents(self) -> tuple[str, ...]:
        return (
            self._size(),
            str(self.k),
            str(self.channels),
            f"stride{self.stride}",
            "from",
            f"{self.rows}x{self.columns}",
        )

    def _options(self) -> list[str]:
        expansion = [f"expansion_{self.expansion}"] if self.expansion else []
        sides = _sides("padding", self.padding)
        return [*super()._options(), *expansion, *_activation(self.activation), *sides]


@dataclass(frozen=True, kw_only=True)
class PointwisePool(_Spatial):
    """A ``Pointwise`` and the ``Pool`` that alone reads it, in one: the head's map need not exist."""

    family: ClassVar[str] = "pointwise_pool"
    k: int
    n: int
    activation: Activation = None

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (self._map(self.k),)

    @property
    def constants(self) -> tuple[TensorType, ...]:
        return _floats(self.n, self.k, 1, 1), _floats(self.n)

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        return (self._tensor(self.batch, self.n),)

    @property
    def macs(self) -> int:
        return self.batch * self.height * self.width * self.k * self.n

    @property
    def description(self) -> str:
        shapes = f"{self._size()}x{self.k} -> {self._size()}x{self.n}"
        return f"1x1 convolution, {shapes}{_and(self.activation)}, mean over {self._size()} pixels"

    def _extents(self) -> tuple[str, ...]:
        return self._size(), str(self.k), str(self.n)

    def _options(self) -> list[str]:
        return [*super()._options(), *_activation(self.activation)]


_KINDS = (Stem, Pointwise, Depthwise, Conv, Pad, MaxPool, Pool, Dense, Softmax, ExpandDepthwise, PointwisePool)
FAMILIES: dict[str, type[Workload]] = {kind.family: kind for kind in _KINDS}
"""The kinds of workload by the names of their families."""


def _floats(*extents: int) -> TensorType:
    return TensorType(extents)


def _activation(activation: Activation) -> list[str]:
    return [activation] if activation else []


def _and(activation: Activation) -> str:
    return {"relu6": ", ReLU6", "relu": ", ReLU", None: ""}[activation]


def _sides(name: str, zeros: Padding) -> list[str]:
    sides = (zeros.top, zeros.left, zeros.bottom, zeros.right)
    return [f"{name}{'_'.join(map(str, sides))}"] if any(sides) else []


def _numbers(values: Sequence[float]) -> str:
    """Numbers as a piece of a C identifier; one where all are the same."""
    distinct = values[:1] if len(set(values)) == 1 else values
    return "_".join(repr(float(value)).translate({ord("."): "p", ord("-"): "m", ord("+"): ""}) for value in distinct)
