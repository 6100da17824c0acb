"""What a reader makes of a trained model's file, whatever its format: layers with their tensors, and what reads what.

What comes in: nothing; the readers of ``weights`` fill it in. What goes out: a ``Network``, in which nothing of the
format is left: maps are NHWC, convolution weights OIHW (depthwise C x 1 x H x W), dense weights classes x features, all
float32, with transpositions, reshapes, dropout and what does nothing to an image gone. ``recognise`` finds the table in
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mnv2c.ir.graph import Array, Padding

MOST_BYTES = 1 << 28
"""Of all tensors of a trained model together: the paper's table at a width multiplier of 4 has 151 MiB."""

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """``name`` is the layer and the map that it makes, ``inputs`` are names of layers; ``label`` is for people: its
    name in the file, and its kind as the format calls it."""

    name: str
    inputs: tuple[str, ...]
    label: str


@dataclass(frozen=True, kw_only=True)
class Image(Layer):
    """What the caller gives; height and width are None where the file leaves them open."""

    height: int | None
    width: int | None
    channels: int


@dataclass(frozen=True, kw_only=True)
class Convolution(Layer):
    """``weight`` OIHW over ``groups``; ``padding`` is in pixels, or ``same`` as TensorFlow computes it."""

    weight: Array
    bias: Array | None
    strides: tuple[int, int]
    padding: Padding | Literal["same"]
    groups: int
    dilations: tuple[int, int] = (1, 1)


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Layer):
    """``gamma * (x - mean) / sqrt(var + epsilon) + beta`` per channel."""

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Scale(Layer):
    """``factor * x + offset``, each one number per channel, or one for all."""

    factor: Array
    offset: Array


@dataclass(frozen=True, kw_only=True)
class Clip(Layer):
    """``min(max(x, low), high)``: ReLU6, ReLU, or half of one."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Sum(Layer):
    """Of two maps."""


@dataclass(frozen=True, kw_only=True)
class Zeros(Layer):
    """Zeros around a map."""

    sides: Padding


@dataclass(frozen=True, kw_only=True)
class Mean(Layer):
    """Over the map; ``extents`` is what the file says that those are, None where it means all of it."""

    extents: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Dense(Layer):
    """``x W^T + b``, ``weight`` classes x features."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, kw_only=True)
class Softmax(Layer):
    """Over the classes."""


@dataclass(frozen=True, kw_only=True)
class Unknown(Layer):
    """What has no place in these networks, and ``why``: ``HardSwish is no layer of MobileNetV2``."""

    why: str


@dataclass(frozen=True)
class Preprocessing:
    """``x = (pixel - mean) / scale`` per channel of an RGB image of 0 to 255."""

    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


@dataclass(frozen=True)
class Network:
    """``layers`` in an order that makes each map before it is read, by name; the first is the ``Image``.

    ``origin`` says what the file is (``ONNX opset 17, from pytorch 2.5.1``); ``layout`` the order of axes of what its
    own engine takes, None where it is tensors alone; ``notes`` what was changed on reading (``int8 dequantised``) and
    what was taken for granted, since the file cannot say it, in ``assumed``. ``preprocessing`` is the file's own word,
    outside its layers. ``library`` is whose names the tensors of a file without a graph have;
    ``in_8_bits`` says that its own engine computes so.
    """

    origin: str
    layers: Mapping[str, Layer]
    output: str
    layout: Layout | None
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    library: str = ""
    in_8_bits: bool = False
    image: Image = field(init=False)

    def __post_init__(self) -> None:
        image = next(iter(self.layers.values()))
        assert isinstance(image, Image), "readers put it first"
        object.__setattr__(self, "image", image)
