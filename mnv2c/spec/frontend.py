"""Builds the graph that a spec describes, op by op as the paper draws it: BatchNorm and ReLU6 still on their own.

What comes in: a ``Spec`` and weights by name. What goes out: a verified ``Graph`` from the normalised image
(batch x height x width x 3) to the logits (batch x classes), without softmax. ``parameter_shapes`` says which weights
it takes: ``<layer>.weight`` OIHW, ``<layer>.gamma/.beta/.mean/.var`` one per output channel, ``fc.weight`` classes x
features, ``fc.bias``. Weights may also come folded: a layer that has a ``.bias`` and no statistics gets no BatchNorm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from mnv2c.ir.graph import (
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
    Op,
    Padding,
    Project,
    ReLU6,
    Source,
    TensorType,
)
from mnv2c.ir.verifier import verify
from mnv2c.spec.table import PaddingConvention, Row, Spec

_UNFOLDED = ("fc.bias",)
"""Of the names that tell the form of a layer those that say: a BatchNorm behind every convolution, a bias in ``fc``."""


def build_graph(spec: Spec, weights: Mapping[str, Array]) -> Graph:
    """The graph of ``spec``; ``GraphError`` where ``weights`` lacks a tensor or has it in another shape.

    A layer that ``weights`` has folded gets a bias instead of a BatchNorm, and ``fc`` the bias that ``weights`` has.
    """
    layers = _network(spec, weights.keys())
    constants = {name: weights[name] for name in layers.shapes if name in weights}
    graph = Graph(name=spec.name, ops=tuple(layers.ops), constants=constants, outputs={"logits": layers.last.name})
    verify(graph)
    return graph


def parameter_shapes(spec: Spec, given: Collection[str] = _UNFOLDED) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight, in the order of the layers.

    ``given`` are the names of the weights that there are. From them follows each layer's form: one with a ``.bias`` and
    none of a BatchNorm's statistics is folded, any other has a BatchNorm; ``fc`` has a bias where ``given`` names it.
    """
    return _network(spec, given).shapes


def _network(spec: Spec, given: Collection[str]) -> _Layers:
    """Table 2 of the paper, top to bottom."""
    layers = _Layers(spec, given)
    layers.convolution(Conv, "stem", spec.channels(spec.stem.c), spec.stem.source, kernel=3, stride=spec.stem.s)
    block = 0
    for row in spec.bottlenecks:
        for repeat in range(row.n):
            _inverted_residual(layers, f"block{block}", row, repeat, spec.channels(row.c))
            block += 1
    layers.convolution(Conv, "head", spec.head_channels, spec.head.source)
    layers.classifier(spec.classes, spec.head.source, spec.classes_source)
    return layers


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


class _Layers:
    """The ops so far and the shapes of their weights; ``given`` as in ``parameter_shapes``."""

    def __init__(self, spec: Spec, given: Collection[str]) -> None:
        image = spec.input
        self._given = given
        self._padding = spec.padding
        self._epsilon = spec.batchnorm_epsilon
        self.shapes: dict[str, tuple[int, ...]] = {}
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
        self, kind: type[Convolution], layer: str, channels: int, source: Source, *, kernel: int = 1, stride: int = 1
    ) -> None:
        """A convolution and its BatchNorm or bias, and ReLU6 unless it is a linear bottleneck (section 3.2)."""
        batch, height, width, inputs = self.last.type.shape
        top, bottom, height = _extent(height, kernel, stride, self._padding)
        left, right, width = _extent(width, kernel, stride, self._padding)
        out = TensorType((batch, height, width, channels))
        folded = self._is_folded(layer)
        self.shapes[f"{layer}.weight"] = (channels, 1 if kind is Depthwise else inputs, kernel, kernel)
        self.append(
            kind(
                name=layer,
                inputs=(self.last.name,),
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
        if kind is not Project:
            self.append(ReLU6(name=f"{layer}.relu6", inputs=(self.last.name,), type=out, source=source))

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

    def classifier(self, classes: int, pool_source: Source, source: Source) -> None:
        """The mean over the map and the logits."""
        batch, _, _, features = self.last.type.shape
        pooled = TensorType((batch, features))
        self.append(GlobalAvgPool(name="pool", inputs=(self.last.name,), type=pooled, source=pool_source))
        bias = "fc.bias" if "fc.bias" in self._given else None
        self.shapes |= {"fc.weight": (classes, features)} | ({} if bias is None else {bias: (classes,)})
        logits = TensorType((batch, classes))
        self.append(
            Dense(name="fc", inputs=(self.last.name,), type=logits, source=source, weight="fc.weight", bias=bias)
        )


def _statistics(layer: str) -> tuple[str, str, str, str]:
    """What a BatchNorm's four constants are named."""
    return f"{layer}.gamma", f"{layer}.beta", f"{layer}.mean", f"{layer}.var"


def _extent(size: int, kernel: int, stride: int, convention: PaddingConvention) -> tuple[int, int, int]:
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
