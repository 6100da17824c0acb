"""A Keras model's description as layers: what its classes compute, and how they are put together.

What comes in: the object that Keras writes as JSON, of Keras 2 or 3, and where tensors are. What goes out: a
``Network``. KeyError and the like where the object is not as Keras writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mnv2c.ir.graph import Array, Padding
from mnv2c.weights.layers import (
    BatchNorm,
    Clip,
    Convolution,
    Dense,
    Image,
    Layer,
    Mean,
    Network,
    Scale,
    Softmax,
    Sum,
    Unknown,
    Zeros,
)

Config = Mapping[str, Any]

_MODELS = ("Functional", "Model", "Sequential")
_MOST_LAYERS, _DEEPEST = 20_000, 16
_NOTHING = (
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "RandomBrightness",
    "RandomContrast", "RandomCrop", "RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth",
    "RandomZoom", "SpatialDropout2D",
)  # fmt: skip
"""What is done in training alone. ``RandomCrop`` resizes, so that what follows it does not fit where it crops."""


class Tensors(Protocol):
    """Where the weights are."""

    def enter(self, containers: tuple[tuple[str, int], ...], names: tuple[str, ...], kinds: tuple[str, ...]) -> Any:
        """For each of ``kinds`` the tensor or None, of the layer that is reached from the outermost model by
        ``names``; ``containers`` has the class of each, and how many of the class stand before it in its model."""


@dataclass(frozen=True)
class _Place:
    """A layer's path from the outermost model inwards."""

    names: tuple[str, ...] = ()
    containers: tuple[tuple[str, int], ...] = ()

    def inside(self, name: str, kind: str, number: int) -> _Place:
        return _Place((*self.names, name), (*self.containers, (kind, number)))


class _Misfit(Exception):
    """Why a layer is none that is known."""


class Graph:
    """``layers`` so far."""

    def __init__(self, config: Config, tensors: Tensors) -> None:
        self._config, self._tensors = config, tensors
        self.layers: dict[str, Layer] = {}
        self._count = 0

    def network(self, origin: str) -> Network:
        kind = self._config["class_name"]
        if kind not in _MODELS:
            raise ValueError(f"a {kind} of its own, not a model of Keras's layers; export it to ONNX or TFLite")
        height, width, channels = _image_shape(self._config)
        if channels != 3:
            raise ValueError(f"its images have {channels} channels, not red, green and blue")
        image = Image(name="image", inputs=(), label="the image", height=height, width=width, channels=3)
        self.layers["image"] = image
        output = self._model(kind, self._config["config"], "image", _Place())
        return Network(origin=origin, layers=self.layers, output=output, layout="NHWC")

    def _model(self, kind: str, config: Any, entry: str, place: _Place) -> str:
        """The layers of a model that reads ``entry``; its last one."""
        if len(place.names) > _DEEPEST:
            raise RecursionError
        layers = config if isinstance(config, list) else config["layers"]
        numbers: dict[str, int] = {}
        edges: dict[str, str] = {}
        last = entry
        for one in layers:
            self._count += 1
            if self._count > _MOST_LAYERS:
                raise ValueError("too many layers: this is no MobileNetV2")
            class_name, settings = one["class_name"], one["config"]
            name = one.get("name") or (settings if isinstance(settings, dict) else {}).get("name") or class_name
            number = numbers.get(class_name, 0)
            numbers[class_name] = number + 1
            inside = place.inside(str(name), str(class_name), number)
            if class_name == "InputLayer":
                edges[name] = entry
                continue
            sources = [last] if kind == "Sequential" else [edges[source] for source in _sources(one)]
            last = edges[name] = self._layer(class_name, settings, sources, inside, one)
        return last if kind == "Sequential" else edges[_output(config)]

    def _layer(self, kind: str, config: Any, sources: list[str], place: _Place, described: Config) -> str:
        label = f"{'/'.join(place.names)} ({kind})"
        try:
            if kind in _MODELS:
                return self._model(kind, config, _only(sources), place)
            if kind in _NOTHING:
                return _only(sources)
            make = _LAYERS.get(kind)
            if make is None:
                raise _Misfit(f"no network of this family has {kind}")
            made = make(_Layer(self, config, sources, place, label, described))
        except _Misfit as error:
            made = [Unknown(name=_name(self, place), inputs=tuple(sources), label=label, why=str(error))]
        for layer in made:
            self.layers[layer.name] = layer
        return made[-1].name if made else _only(sources)

    def tensors(self, place: _Place, kinds: tuple[str, ...]) -> list[Array | None]:
        found: list[NDArray[Any] | None] = self._tensors.enter(place.containers, place.names, kinds)
        return [None if value is None else np.asarray(value, np.float32) for value in found]


@dataclass(frozen=True)
class _Layer:
    """What a maker knows of its layer; ``described`` also has how it is called."""

    graph: Graph
    config: Config
    sources: list[str]
    place: _Place
    label: str
    described: Config

    def named(self, suffix: str = "", reads: str | None = None) -> dict[str, Any]:
        name = _name(self.graph, self.place) + suffix
        return {"name": name, "inputs": (reads or _only(self.sources),), "label": self.label}

    def tensors(self, *kinds: str) -> list[Array]:
        found = self.graph.tensors(self.place, kinds)
        missing = [kind for kind, value in zip(kinds, found, strict=True) if value is None]
        if missing:
            raise ValueError(f"{self.label}: its {missing[0]} is not in the file")
        return [value for value in found if value is not None]

    def activated(self, layer: Layer) -> list[Layer]:
        """``layer``, and the activation in its settings."""
        activation = _activation(self.config.get("activation", "linear"))
        return [layer, *_activated(activation, self.named(".activation", layer.name))]


def _name(graph: Graph, place: _Place) -> str:
    return f"{'/'.join(place.names)}#{len(graph.layers)}"


def _only(sources: list[str]) -> str:
    if len(sources) != 1:
        raise _Misfit(f"reads {len(sources)} maps")
    return sources[0]


def _activation(value: Any) -> str:
    """Its name; Keras 3 may write an object."""
    if isinstance(value, dict):
        value = value.get("config") if value.get("class_name") == "function" else value.get("class_name")
    return str(value).lower()


def _activated(activation: str, named: dict[str, Any]) -> list[Layer]:
    match activation:
        case "linear":
            return []
        case "relu":
            return [Clip(**named, low=0.0, high=inf)]
        case "relu6":
            return [Clip(**named, low=0.0, high=6.0)]
        case "softmax":
            return [Softmax(**named)]
    raise _Misfit(f"no network of this family has the activation {activation[:40]}")


def _channels_last(layer: _Layer) -> None:
    if layer.config.get("data_format", "channels_last") not in ("channels_last", None):
        raise _Misfit("maps with the channels first")


def _convolution(layer: _Layer) -> list[Layer]:
    config, depthwise = layer.config, "DepthwiseConv2D" in layer.label
    _channels_last(layer)
    kinds = ("depthwise_kernel", "kernel") if depthwise else ("kernel",)
    has_bias = config.get("use_bias", True)
    weight = bias = None
    for kind in kinds:  # Keras 2 calls it the one, Keras 3 the other
        weight, *rest = layer.graph.tensors(layer.place, (kind, "bias") if has_bias else (kind,))
        bias = rest[0] if rest else None
        if weight is not None:
            break
    if weight is None or (has_bias and bias is None):
        raise ValueError(f"{layer.label}: its weights are not in the file")
    if weight.ndim != 4:
        raise _Misfit(f"a weight of {weight.ndim} axes")
    groups = int(config.get("groups", 1))
    if depthwise:
        if weight.shape[3] != 1:
            raise _Misfit(f"makes {weight.shape[3]} channels of each")
        groups = weight.shape[2]
    turned = weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(3, 2, 0, 1)
    padding = config.get("padding", "valid")
    if padding not in ("same", "valid"):
        raise _Misfit(f"padding {str(padding)[:40]}")
    convolution = Convolution(
        **layer.named(),
        weight=np.ascontiguousarray(turned),
        bias=bias,
        strides=_pair(config.get("strides", 1)),
        padding="same" if padding == "same" else Padding(),
        groups=groups,
        dilations=_pair(config.get("dilation_rate", 1)),
    )
    return layer.activated(convolution)


def _batch_norm(layer: _Layer) -> list[Layer]:
    config = layer.config
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, 3, 1):
        raise _Misfit(f"a BatchNorm of axis {axis}")
    has = {"gamma": bool(config.get("scale", True)), "beta": bool(config.get("center", True))}
    kinds = (*(kind for kind, there in has.items() if there), "moving_mean", "moving_variance")
    found = dict(zip(kinds, layer.tensors(*kinds), strict=True))
    mean = found["moving_mean"]
    return [
        BatchNorm(
            **layer.named(),
            gamma=found.get("gamma", np.ones_like(mean)),
            beta=found.get("beta", np.zeros_like(mean)),
            mean=mean,
            var=found["moving_variance"],
            epsilon=float(config.get("epsilon", 1e-3)),
        )
    ]


def _relu(layer: _Layer) -> list[Layer]:
    config = layer.config
    if config.get("negative_slope") or config.get("threshold"):
        raise _Misfit("a ReLU with a slope or a threshold")
    most = config.get("max_value")
    return [Clip(**layer.named(), low=0.0, high=inf if most is None else float(most))]


def _activation_layer(layer: _Layer) -> list[Layer]:
    return _activated(_activation(layer.config["activation"]), layer.named())


def _softmax(layer: _Layer) -> list[Layer]:
    return [Softmax(**layer.named())]


def _add(layer: _Layer) -> list[Layer]:
    """Of two maps; Keras 3 calls ``x + 1`` the same."""
    if len(layer.sources) != 2:
        return _arithmetic(layer)
    named = layer.named("", layer.sources[0])
    return [Sum(**{**named, "inputs": tuple(layer.sources)})]


def _zeros(layer: _Layer) -> list[Layer]:
    _channels_last(layer)
    padding = layer.config["padding"]
    (top, bottom), (left, right) = (_pair(side) for side in (padding if isinstance(padding, list) else [padding] * 2))
    return [Zeros(**layer.named(), sides=Padding(top, left, bottom, right))]


def _mean(layer: _Layer) -> list[Layer]:
    _channels_last(layer)
    return [Mean(**layer.named())]


def _flatten(layer: _Layer) -> list[Layer]:
    source = layer.graph.layers[_only(layer.sources)]
    while isinstance(source, Clip | BatchNorm | Scale | Softmax):
        source = layer.graph.layers[source.inputs[0]]
    if not isinstance(source, Mean | Dense):
        if isinstance(source, Convolution) and layer.graph.layers[source.inputs[0]].__class__ is Mean:
            return []  # a 1x1 convolution as classifier
        raise _Misfit("reshapes a map; this family takes its mean first")
    return []


def _dense(layer: _Layer) -> list[Layer]:
    has_bias = layer.config.get("use_bias", True)
    weight, *bias = layer.tensors("kernel", "bias") if has_bias else layer.tensors("kernel")
    if weight.ndim != 2:
        raise _Misfit(f"a weight of {weight.ndim} axes")
    dense = Dense(**layer.named(), weight=np.ascontiguousarray(weight.T), bias=bias[0] if bias else None)
    return layer.activated(dense)


def _rescaling(layer: _Layer) -> list[Layer]:
    factor, offset = (np.asarray(layer.config[key], np.float32) for key in ("scale", "offset"))
    if factor.size not in (1, 3) or offset.size not in (1, 3):
        raise _Misfit("a Rescaling of another number of channels than 3")
    return [Scale(**layer.named(), factor=factor.squeeze(), offset=offset.squeeze())]


def _arithmetic(layer: _Layer) -> list[Layer]:
    """``x / 127.5``, ``x - 1`` and the like, as ``preprocess_input`` leaves them in a model."""
    kind = str(layer.config.get("function") or layer.config.get("name") or "").rpartition(".")[2]
    kind = _OPERATIONS.get(layer.label.rpartition("(")[2].rstrip(")"), kind)
    number = _operand(layer.described)
    factor, offset = {
        "truediv": (1 / number if number else inf, 0.0),
        "multiply": (number, 0.0),
        "subtract": (1.0, -number),
        "add": (1.0, number),
    }.get(kind, (inf, 0.0))
    if not np.isfinite(factor):
        raise _Misfit(f"no network of this family has {kind[:40] or 'it'}")
    return [Scale(**layer.named(), factor=np.asarray(factor, np.float32), offset=np.asarray(offset, np.float32))]


_OPERATIONS = {
    "TrueDivide": "truediv",
    "Divide": "truediv",
    "Multiply": "multiply",
    "Subtract": "subtract",
    "Add": "add",
}


def _operand(described: Config) -> float:
    """The number that a layer is called with beside its map."""
    node = described["inbound_nodes"][0]
    if isinstance(node, dict):
        values = [*node.get("args", []), *node.get("kwargs", {}).values()]
    else:
        call = node[0] if isinstance(node[0], list) else node
        values = list(call[3].values())
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != 1:
        raise _Misfit("arithmetic of something else than a map and a number")
    return float(numbers[0])


_LAYERS: dict[str, Callable[[_Layer], list[Layer]]] = {
    "Activation": _activation_layer,
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "BatchNormalizationV1": _batch_norm,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Divide": _arithmetic,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _mean,
    "Multiply": _arithmetic,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _flatten,
    "Softmax": _softmax,
    "Subtract": _arithmetic,
    "TFOpLambda": _arithmetic,
    "TrueDivide": _arithmetic,
    "ZeroPadding2D": _zeros,
}


def _pair(value: Any) -> tuple[int, int]:
    one, other = value if isinstance(value, list) else (value, value)
    return int(one), int(other)


def _sources(described: Config) -> list[str]:
    """The layers that one of a Functional model reads, in order."""
    nodes = described["inbound_nodes"]
    if len(nodes) != 1:
        raise ValueError(f"{described.get('name')}: used {len(nodes)} times, which is not supported")
    node = nodes[0]
    if not isinstance(node, dict):  # Keras 2: [[name, node, tensor, arguments], ...]
        return [call[0] for call in ([node] if isinstance(node[0], str) else node)]
    found: list[str] = []
    open_ = [node.get("args", [])]
    while open_:
        value = open_.pop(0)
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            found.append(value["config"]["keras_history"][0])
        elif isinstance(value, list):
            open_ = [*value, *open_]
    return found


def _output(config: Config) -> str:
    """The one output's layer; of several the first."""
    outputs = config["output_layers"]
    first = outputs[0] if isinstance(outputs, list) else next(iter(outputs.values()))
    return str(first[0] if isinstance(first, list) else first)


def _image_shape(config: Config) -> tuple[int | None, int | None, int | None]:
    """Height, width and channels, from the first layer in which they stand, models inside included."""
    open_: list[Any] = [config]
    while open_:
        one = open_.pop(0)
        if not isinstance(one, dict):
            continue
        settings = one.get("config")
        if isinstance(settings, dict):
            shape = settings.get("batch_shape") or settings.get("batch_input_shape")
            if isinstance(shape, list) and len(shape) == 4:
                height, width, channels = (int(e) if isinstance(e, int) and e > 0 else None for e in shape[1:])
                return height, width, channels
        layers = settings if isinstance(settings, list) else (settings or {}).get("layers", [])
        open_ = [*layers[:1], *open_]
    raise ValueError("it does not say what images it takes")
