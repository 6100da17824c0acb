"""Trained models' files of every format but ONNX, written without the frameworks: the structures that these write."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from safetensors.numpy import save_file

from mnv2c.ir.graph import Array
from mnv2c.spec.table import Spec

Weights = Mapping[str, Array]
Named = dict[str, Array]
_TORCH = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}


def torchvision_names(weights: Weights, prefix: str = "") -> Named:
    """``features.N.conv.M``, and the classifier behind a dropout."""
    found: Named = {}
    blocks = 1 + max(int(name.split(".")[0].removeprefix("block")) for name in weights if name.startswith("block"))
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        if layer.startswith("block"):
            number, role = int(layer.split(".")[0].removeprefix("block")), layer.split(".")[1]
            roles = ("expand", "dw") if f"block{number}.expand.weight" in weights else ("dw",)
            if role == "project":
                conv, norm = f"conv.{len(roles)}", f"conv.{len(roles) + 1}"
            else:
                conv, norm = (f"conv.{roles.index(role)}.{index}" for index in (0, 1))
            place = f"features.{number + 1}.{norm if part in _TORCH else conv}"
        elif layer in ("stem", "head"):
            place = f"features.{0 if layer == 'stem' else blocks + 1}.{int(part in _TORCH)}"
        else:
            place = f"classifier.{1 + 3 * int(layer.removeprefix('hidden'))}" if layer != "fc" else "classifier.9"
        found[f"{prefix}{place}.{_TORCH.get(part, part)}"] = value
        if part == "var":
            found[f"{prefix}{place}.num_batches_tracked"] = np.array(7, np.int64)
    return found


def timm_names(weights: Weights, repeats: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)) -> Named:
    """``blocks.STAGE.REPEAT``."""
    places = [f"blocks.{stage}.{repeat}" for stage, n in enumerate(repeats) for repeat in range(n)]
    found: Named = {}
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        if layer.startswith("block"):
            block, role = layer.split(".")
            expanded = f"{block}.expand.weight" in weights
            roles = ("expand", "dw", "project") if expanded else ("dw", "project")
            conv = {"expand": "conv_pw", "dw": "conv_dw", "project": "conv_pwl" if expanded else "conv_pw"}[role]
            place = (
                f"{places[int(block.removeprefix('block'))]}.{f'bn{roles.index(role) + 1}' if part in _TORCH else conv}"
            )
        elif layer in ("stem", "head"):
            place = {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}[layer][part in _TORCH]
        else:
            place = "classifier"
        found[f"{place}.{_TORCH.get(part, part)}"] = value
    return found


def transformers_names(weights: Weights) -> Named:
    """``mobilenet_v2.layer.N``."""
    roles = {"expand": "expand_1x1", "dw": "conv_3x3", "project": "reduce_1x1"}
    found: Named = {}
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        inner = "normalization" if part in _TORCH else "convolution"
        if layer.startswith("block"):
            number, role = int(layer.split(".")[0].removeprefix("block")), layer.split(".")[1]
            place = f"mobilenet_v2.{f'layer.{number - 1}' if number else 'conv_stem'}.{roles[role]}.{inner}"
        elif layer == "fc":
            place = "classifier"
        else:
            place = f"mobilenet_v2.{'conv_stem.first_conv' if layer == 'stem' else 'conv_1x1'}.{inner}"
        found[f"{place}.{_TORCH.get(part, part)}"] = value
    return found


def write_safetensors(path: Path, tensors: Named) -> Path:
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


Kind = Literal["keras 2", "keras 3"]


class KerasModel:
    """``MobileNetV2`` as Keras's applications build it, inside a model with a head, its tensors beside it.

    ``nested`` says how: in a Functional model with a Rescaling, or in Sequential ones as Teachable Machine does it.
    """

    def __init__(
        self, spec: Spec, weights: Weights, *, kind: Kind = "keras 3", nested: Literal["functional", "sequential"]
    ) -> None:
        self._spec, self._weights, self._kind = spec, weights, kind
        self.tensors: dict[tuple[str, ...], Named] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self.numbered: dict[str, list[Array]] = {}
        base = self._base()
        self.config = self._functional(base) if nested == "functional" else self._sequential(base)

    def write_h5(self, path: Path) -> Path:
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(self.config)
            file.attrs["keras_version"] = "2.15.0" if self._kind == "keras 2" else "3.4.1"
            root = file.create_group("model_weights")
            for names, values in self.tensors.items():
                for kind, value in values.items():
                    suffix = ":0" if self._kind == "keras 2" else ""
                    root[f"{names[0]}/{names[-1]}/{kind}{suffix}"] = value
        return path

    def write_keras(self, path: Path) -> Path:
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            for place, values in self.numbered.items():
                for index, value in enumerate(values):
                    file[f"{place}/vars/{index}"] = value
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.4.1"}))
            archive.writestr("config.json", json.dumps(self.config))
            archive.writestr("model.weights.h5", stream.getvalue())
        return path

    def _base(self) -> dict[str, Any]:
        """The application without its head, as a Functional model."""
        image, spec = self._spec.input, self._spec
        layers = [self._input("input_1", [None, image.height, image.width, 3])]
        self._inside, self._folder = ("mobilenetv2",), "layers/functional"
        last = self._unit(layers, "Conv1", "bn_Conv1", "Conv1_relu", "stem", layers[0]["name"], stride=spec.stem.s)
        number = 0
        for row in spec.bottlenecks:
            for repeat in range(row.n):
                last = self._block(layers, number, last, row.s if repeat == 0 else 1)
                number += 1
        last = self._unit(layers, "Conv_1", "Conv_1_bn", "out_relu", "head", last)
        settings = {
            "name": "mobilenetv2",
            "layers": layers,
            "input_layers": [["input_1", 0, 0]],
            "output_layers": [[last, 0, 0]],
        }
        return {"class_name": "Functional", "config": settings, "name": "mobilenetv2"}

    def _block(self, layers: list[Any], number: int, entry: str, stride: int) -> str:
        our, theirs = f"block{number}", f"block_{number}" if number else "expanded_conv"
        last = entry
        if f"{our}.expand.weight" in self._weights:
            last = self._unit(
                layers, f"{theirs}_expand", f"{theirs}_expand_BN", f"{theirs}_expand_relu", f"{our}.expand", last
            )
        names = (f"{theirs}_depthwise", f"{theirs}_depthwise_BN", f"{theirs}_depthwise_relu")
        last = self._unit(layers, *names, f"{our}.dw", last, stride=stride)
        last = self._unit(layers, f"{theirs}_project", f"{theirs}_project_BN", "", f"{our}.project", last)
        inputs = self._channels[entry]
        if stride == 1 and inputs == self._channels[last]:
            layers.append(self._layer("Add", f"{theirs}_add", {}, [last, entry]))
            self._channels[f"{theirs}_add"] = inputs
            last = f"{theirs}_add"
        return last

    _channels: dict[str, int] = {}  # noqa: RUF012 - filled anew by every model, by names that are the same

    def _unit(
        self, layers: list[Any], conv: str, norm: str, relu: str, our: str, entry: str, *, stride: int = 1
    ) -> str:
        weight = self._weights[f"{our}.weight"]
        depthwise, last = our.endswith(".dw"), entry
        settings: dict[str, Any] = {
            "strides": [stride] * 2,
            "padding": "same",
            "use_bias": False,
            "activation": "linear",
        }
        settings |= {"kernel_size": list(weight.shape[2:]), "dilation_rate": [1, 1], "data_format": "channels_last"}
        if stride == 2 and depthwise:
            layers.append(self._layer("ZeroPadding2D", f"{conv}_pad", {"padding": [[0, 1], [0, 1]]}, [last]))
            settings["padding"], last = "valid", f"{conv}_pad"
        kind = "DepthwiseConv2D" if depthwise else "Conv2D"
        layers.append(self._layer(kind, conv, settings, [last]))
        kernel = weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(2, 3, 1, 0)
        name = "depthwise_kernel" if depthwise and self._kind == "keras 2" else "kernel"
        self._store(kind, conv, {name: kernel})
        layers.append(
            self._layer("BatchNormalization", norm, {"epsilon": self._spec.batchnorm_epsilon, "axis": [3]}, [conv])
        )
        parts = {"gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "var"}
        self._store("BatchNormalization", norm, {name: self._weights[f"{our}.{part}"] for name, part in parts.items()})
        last = norm
        if relu:
            layers.append(
                self._layer("ReLU", relu, {"max_value": 6.0, "negative_slope": 0.0, "threshold": 0.0}, [norm])
            )
            last = relu
        self._channels[last] = len(weight)
        return last

    def _functional(self, base: dict[str, Any]) -> dict[str, Any]:
        image = self._spec.input
        self._inside, self._folder = (), ""
        layers = [
            self._input("input_2", [None, image.height, image.width, 3]),
            self._layer("RandomFlip", "random_flip", {"mode": "horizontal"}, ["input_2"]),
            self._layer("Rescaling", "rescaling", {"scale": 1 / 127.5, "offset": -1}, ["random_flip"]),
            {**base, "inbound_nodes": self._nodes(["rescaling"])},
            self._layer("GlobalAveragePooling2D", "pooling", {"keepdims": False}, ["mobilenetv2"]),
            self._layer("Dropout", "dropout", {"rate": 0.2}, ["pooling"]),
        ]
        last = "dropout"
        for name, row in zip(self._dense_names(), self._spec.classifier, strict=True):
            layers.append(self._layer("Dense", name, self._dense(name, row.activation), [last]))
            last = name
        settings = {"name": "model", "layers": layers, "input_layers": ["input_2", 0, 0], "output_layers": [last, 0, 0]}
        return {"class_name": "Functional", "config": settings}

    def _sequential(self, base: dict[str, Any]) -> dict[str, Any]:
        """Sequential of Sequentials; the one inside has the application and the mean, the other the head."""
        moved = {("sequential_1", *names): values for names, values in self.tensors.items()}
        self.numbered = {f"layers/sequential/{place}": values for place, values in self.numbered.items()}
        self.tensors, self._inside, self._folder = moved, ("sequential_2",), "layers/sequential_1"
        pooling = {"class_name": "GlobalAveragePooling2D", "config": {"name": "pooling"}}
        dense = [
            {"class_name": "Dense", "config": {"name": name, **self._dense(name, row.activation)}}
            for name, row in zip(self._dense_names(), self._spec.classifier, strict=True)
        ]
        models = [
            {"class_name": "Sequential", "config": {"name": "sequential_1", "layers": [base, pooling]}},
            {"class_name": "Sequential", "config": {"name": "sequential_2", "layers": dense}},
        ]
        return {"class_name": "Sequential", "config": {"name": "sequential", "layers": models}}

    def _dense_names(self) -> list[str]:
        return [f"dense_{number}" for number in range(len(self._spec.classifier))]

    def _dense(self, name: str, activation: str | None) -> dict[str, Any]:
        number, count = int(name.rpartition("_")[2]), len(self._spec.classifier)
        our = "fc" if number == count - 1 else f"hidden{number}"
        values = {"kernel": self._weights[f"{our}.weight"].T}
        has_bias = f"{our}.bias" in self._weights
        if has_bias:
            values["bias"] = self._weights[f"{our}.bias"]
        self._store("Dense", name, values)
        return {"units": values["kernel"].shape[1], "activation": activation or "linear", "use_bias": has_bias}

    def _store(self, kind: str, name: str, values: Named) -> None:
        self.tensors[(*self._inside, name) if self._inside else (name, name)] = values
        counts = self._counts.setdefault(self._folder, {})
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        snake = {"Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "BatchNormalization": "batch_normalization"}
        folder = snake.get(kind, kind.lower()) + (f"_{number}" if number else "")
        place = f"{self._folder}/layers/{folder}" if self._folder else f"layers/{folder}"
        self.numbered[place] = list(values.values())

    def _input(self, name: str, shape: list[Any]) -> dict[str, Any]:
        key = "batch_input_shape" if self._kind == "keras 2" else "batch_shape"
        return {"class_name": "InputLayer", "config": {"name": name, key: shape}, "name": name, "inbound_nodes": []}

    def _layer(self, kind: str, name: str, settings: dict[str, Any], sources: list[str]) -> dict[str, Any]:
        return {
            "class_name": kind,
            "config": {"name": name, **settings},
            "name": name,
            "inbound_nodes": self._nodes(sources),
        }

    def _nodes(self, sources: list[str]) -> list[Any]:
        if self._kind == "keras 2":
            return [[[source, 0, 0, {}] for source in sources]]
        tensors = [
            {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}} for source in sources
        ]
        return [{"args": [tensors] if len(tensors) > 1 else tensors, "kwargs": {}}]
