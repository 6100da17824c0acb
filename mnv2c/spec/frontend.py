"""Builds the graph that a spec describes, op by op as the paper draws it: BatchNorm and ReLU6 still on their own.

What comes in: a ``Spec`` and weights by name. What goes out: a verified ``Graph`` from the normalised image (batch x
height x width x 3) to the ``logits`` (batch x classes); where the classifier says softmax to the ``probabilities``,
and where it has no layer to the ``features``, the mean over the map. ``parameter_shapes`` says which weights it takes:
``<layer>.weight`` OIHW, ``<layer>.gamma/.beta/.mean/.var`` one per output channel, ``fc.weight`` classes x features,
``fc.bias``; dense layers before the last are ``hidden0``, ``hidden1`` ... Weights may also come folded: a layer that
has a ``.bias`` and no statistics gets no BatchNorm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypedDict

from mnv2c.ir.graph import (
    LOGITS,
    PROBABILITIES,
    Add,
    Array,
    BatchNorm,
    Conv,
    Convolution,
    Dense,
    Depthwise,
    Expand,
    GlobalAvgPool,
    Graph,
    Input,
    MaxPool,
    Op,
    Padding,
    Project,
    ReLU,
    ReLU6,
    Softmax,
    Source,
    TensorType,
)
from mnv2c.ir.verifier import verify
from mnv2c.spec.table import DenseActivation, DenseRow, PaddingConvention, Residual, Row, Separable, Spec

FEATURES = "features"
"""The output of a network without a classifier."""


def build_graph(spec: Spec, weights: Mapping[str, Array]) -> Graph:
    """The graph of ``spec``; ``GraphError`` where ``weights`` lacks a tensor or has it in another shape.

    A layer that ``weights`` has folded gets a bias instead of a BatchNorm, a dense one the bias that ``weights`` has.
    """
    layers = _network(spec, weights.keys())
    constants = {name: weights[name] for name in layers.shapes if name in weights}
    graph = Graph(name=spec.name, ops=tuple(layers.ops), constants=constants, outputs={layers.output: layers.last.name})
    verify(graph)
    return graph


def parameter_shapes(spec: Spec, given: Collection[str] | None = None) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight, in the order of the layers.

    ``given`` are the names of the weights that there are. From them follows each layer's form: one with a ``.bias`` and
    none of a BatchNorm's statistics is folded, any other has a BatchNorm; a dense one has a bias where ``given`` names
    it. Without ``given`` each convolution has a BatchNorm, and each dense layer a bias.
    """
    return _network(spec, [f"{name}.bias" for name in dense_names(spec)] if given is None else given).shapes


def dense_names(spec: Spec) -> tuple[str, ...]:
    """Of the classifier's layers: ``hidden0``, ``hidden1``, ... and ``fc``, the last."""
    hidden = range(len(spec.classifier) - 1)
    return (*(f"hidden{number}" for number in hidden), "fc") if spec.classifier else ()


def _network(spec: Spec, given: Collection[str]) -> _Layers:
    """Table 2 of the paper, top to bottom."""
    layers, stem = _Layers(spec, given), spec.stem
    layers.convolution(Conv, "stem", spec.channels(stem.c), stem.source, kernel=stem.kernel, stride=stem.s)
    if stem.pool:
        layers.max_pool("stem.pool", stem.source, kernel=3, stride=stem.pool)
    block = 0
    for row in spec.bottlenecks:
        for repeat in range(row.n):
            _block(layers, f"block{block}", row, repeat, spec)
            block += 1
    if spec.head is not None:
        layers.convolution(Conv, "head", spec.head_channels, spec.head.source)
    layers.pool(layers.last.source)
    for name, dense in zip(dense_names(spec), spec.classifier, strict=True):
        layers.dense(name, dense)
    return layers


def _block(layers: _Layers, block: str, row: Row | Separable | Residual, repeat: int, spec: Spec) -> None:
    match row:
        case Row():
            _inverted_residual(layers, block, row, repeat, spec.channels(row.c))
        case Separable():
            _separable(layers, block, row, repeat, spec.channels(row.c))
        case Residual():
            _residual(layers, block, row, repeat, (spec.channels(row.c / row.r), spec.channels(row.c)))


def _inverted_residual(layers: _Layers, block: str, row: Row, repeat: int, channels: int) -> None:
    """Expand, filter, project; add where stride is 1 and the channels stay (sections 3.2 to 3.4)."""
    source = replace(row.source, repeat=repeat)
    entry = layers.last
    stride = row.s if repeat == 0 else 1
    if row.t != 1:
        layers.convolution(Expand, f"{block}.expand", row.t * layers.last.type.shape[3], source)
    layers.convolution(Depthwise, f"{block}.dw", layers.last.type.shape[3], source, kernel=3, stride=stride)
    layers.convolution(Project, f"{block}.project", channels, source)
    if stride == 1 and layers.last.type == entry.type:
        add = Add(name=f"{block}.add", inputs=(layers.last.name, entry.name), type=entry.type, source=source)
        layers.append(add)


def _separable(layers: _Layers, block: str, row: Separable, repeat: int, channels: int) -> None:
    """Filter, then combine (arXiv 1704.04861, figure 3)."""
    source, stride = replace(row.source, repeat=repeat), row.s if repeat == 0 else 1
    layers.convolution(Depthwise, f"{block}.dw", layers.last.type.shape[3], source, kernel=3, stride=stride)
    layers.convolution(Conv, f"{block}.pointwise", channels, source)


def _residual(layers: _Layers, block: str, row: Residual, repeat: int, channels: tuple[int, int]) -> None:
    """Reduce, filter, enlarge, to so many ``channels`` inside and behind; add; then the activation (arXiv 1512.03385,
    figure 5)."""
    source, stride = replace(row.source, repeat=repeat), row.s if repeat == 0 else 1
    entry = layers.last
    layers.convolution(Conv, f"{block}.reduce", channels[0], source)
    layers.convolution(Conv, f"{block}.conv", channels[0], source, kernel=3, stride=stride)
    layers.convolution(Conv, f"{block}.enlarge", channels[1], source, is_linear=True)
    inside = layers.last
    if inside.type != entry.type:
        shortcut = f"{block}.shortcut"
        layers.convolution(Conv, shortcut, channels[1], source, stride=stride, is_linear=True, reads=entry)
        entry = layers.last
    layers.append(Add(name=f"{block}.add", inputs=(inside.name, entry.name), type=inside.type, source=source))
    layers.activation(f"{block}.add", source)


_ACTIVATIONS: dict[DenseActivation, type[Op]] = {"relu": ReLU, "relu6": ReLU6, "softmax": Softmax}


class _Shared(TypedDict):
    """What an op and its activation have in common."""

    type: TensorType
    source: Source


class _Layers:
    """The ops so far, the shapes of their weights, and what the last is to the caller; ``given`` as in
    ``parameter_shapes``."""

    def __init__(self, spec: Spec, given: Collection[str]) -> None:
        image = spec.input
        self._given = given
        self._padding = spec.padding
        self._epsilon = spec.batchnorm_epsilon
        self._activation = spec.activation
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.output = FEATURES
        image_type = TensorType((image.batch, image.height, image.width, 3))
        self.ops: list[Op] = [
            Input(name="input", inputs=(), type=image_type, source=image.source, mean=image.mean, scale=image.scale)
        ]

    @property
    def last(self) -> Op:
        """The op whose edge the next layer reads."""
        return self.ops[-1]

    def append(self, op: Op) -> None:
        self.ops.append(op)

    def convolution(
        self,
        kind: type[Convolution],
        layer: str,
        channels: int,
        source: Source,
        *,
        kernel: int = 1,
        stride: int = 1,
        is_linear: bool = False,
        reads: Op | None = None,
    ) -> None:
        """A convolution of ``reads``, by default the last op, its BatchNorm or bias, and the activation unless it
        ``is_linear``, as a Project always is (section 3.2)."""
        entry = reads or self.last
        batch, height, width, inputs = entry.type.shape
        top, bottom, height = extent(height, kernel, stride, self._padding)
        left, right, width = extent(width, kernel, stride, self._padding)
        out = TensorType((batch, height, width, channels))
        folded = self._is_folded(layer)
        self.shapes[f"{layer}.weight"] = (channels, 1 if kind is Depthwise else inputs, kernel, kernel)
        self.append(
            kind(
                name=layer,
                inputs=(entry.name,),
                type=out,
                source=source,
                weight=f"{layer}.weight",
                bias=f"{layer}.bias" if folded else None,
                stride=stride,
                padding=Padding(top, left, bottom, right),
            )
        )
        if folded:
            self.shapes[f"{layer}.bias"] = (channels,)
        else:
            self._batchnorm(layer, source)
        if kind is not Project and not is_linear:
            self.activation(layer, source)

    def activation(self, layer: str, source: Source) -> None:
        """The table's, behind the last op."""
        kind = ReLU6 if self._activation == "relu6" else ReLU
        name = f"{layer}.{self._activation}"
        self.append(kind(name=name, inputs=(self.last.name,), type=self.last.type, source=source))

    def max_pool(self, layer: str, source: Source, *, kernel: int, stride: int) -> None:
        """The largest in each window."""
        batch, height, width, channels = self.last.type.shape
        top, bottom, height = extent(height, kernel, stride, self._padding)
        left, right, width = extent(width, kernel, stride, self._padding)
        self.append(
            MaxPool(
                name=layer,
                inputs=(self.last.name,),
                type=TensorType((batch, height, width, channels)),
                source=source,
                kernel=kernel,
                stride=stride,
                padding=Padding(top, left, bottom, right),
            )
        )

    def _is_folded(self, layer: str) -> bool:
        return f"{layer}.bias" in self._given and not any(name in self._given for name in _statistics(layer))

    def _batchnorm(self, layer: str, source: Source) -> None:
        type_ = self.last.type
        gamma, beta, mean, var = _statistics(layer)
        self.shapes |= dict.fromkeys((gamma, beta, mean, var), type_.shape[-1:])
        self.append(
            BatchNorm(
                name=f"{layer}.bn",
                inputs=(self.last.name,),
                type=type_,
                source=source,
                gamma=gamma,
                beta=beta,
                mean=mean,
                var=var,
                epsilon=self._epsilon,
            )
        )

    def pool(self, source: Source) -> None:
        """The mean over the map."""
        batch, _, _, features = self.last.type.shape
        pooled = TensorType((batch, features))
        self.append(GlobalAvgPool(name="pool", inputs=(self.last.name,), type=pooled, source=source))

    def dense(self, name: str, row: DenseRow) -> None:
        """A layer of the classifier, and its activation."""
        batch, features = self.last.type.shape
        weight, bias = f"{name}.weight", f"{name}.bias"
        has_bias = bias in self._given
        self.shapes |= {weight: (row.c, features)} | ({bias: (row.c,)} if has_bias else {})
        shared: _Shared = {"type": TensorType((batch, row.c)), "source": row.source}
        dense = Dense(name=name, inputs=(self.last.name,), weight=weight, bias=bias if has_bias else None, **shared)
        self.append(dense)
        if row.activation is not None:
            kind = _ACTIVATIONS[row.activation]
            self.append(kind(name=f"{name}.{row.activation}", inputs=(name,), **shared))
        self.output = PROBABILITIES if row.activation == "softmax" else LOGITS


def _statistics(layer: str) -> tuple[str, str, str, str]:
    """What a BatchNorm's four constants are named."""
    return f"{layer}.gamma", f"{layer}.beta", f"{layer}.mean", f"{layer}.var"


def extent(size: int, kernel: int, stride: int, convention: PaddingConvention) -> tuple[int, int, int]:
    """Zeros before and after, and the output's extent, along one side of the map.

    ``same``, as TensorFlow: ceil(size / stride) outputs; an odd number of zeros has the extra one after, so that a 3x3
    of stride 2 on an even size pads 0 and 1. ``symmetric``, as PyTorch: kernel // 2 on each side.
    """
    if convention == "symmetric":
        before = after = kernel // 2
        return before, after, (size + before + after - kernel) // stride + 1
    out = -(-size // stride)
    zeros = max((out - 1) * stride + kernel - size, 0)
    return zeros // 2, zeros - zeros // 2, out
