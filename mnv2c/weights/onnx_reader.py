"""Reads an ONNX model, by what its nodes compute and not by their names.

What comes in: a path. What goes out: its ``Network``. Every edge is known by the layer that makes it and the order of
its axes, so that transpositions need no layer of their own; reshapes and flattening count only behind the mean over the
map, where they do nothing. Quantised models (QDQ, and the QLinear operators) give their float values back; where their
quantiser has left an activation to the range of 8 bits, it is there again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array
from mnv2c.weights.layers import MOST_BYTES, Image, Layer, Layout, Network, Unknown
from mnv2c.weights.onnx_constants import Constants, Value
from mnv2c.weights.onnx_nodes import NODES, SYMMETRIC, Edge, Misfit, first_edge, label

if TYPE_CHECKING:
    import onnx

_MOST_NODES = 20_000
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_RGB = 3
_DEQUANTISED = "quantised weights: taken as floats"
_ACTIVATIONS = "quantised activations: left as floats, without what 8 bits lose"


def read_onnx(path: Path) -> Network:
    """The model in ``path``; ``WeightsError``, one line, where it cannot be read."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = path.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(f"{path}: {size >> 20} MiB: this is no MobileNetV2")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path}: not an ONNX model, or truncated; copy or export it again") from error
    if not model.graph.node:
        raise WeightsError(f"{path}: an ONNX file without nodes; export the model again")
    if len(model.graph.node) > _MOST_NODES:
        raise WeightsError(f"{path}: {len(model.graph.node)} nodes: this is no MobileNetV2")
    try:
        return _Reader(model, Constants(model, path.parent)).run()
    except ValueError as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split())}") from error
    except TypeError as error:  # protobuf gives text that is not UTF-8 as bytes
        raise WeightsError(f"{path}: damaged: a name in it is no text; copy or export it again") from error


class _Reader:
    """``layers`` so far by name, ``edges`` by their ONNX names; ``quantised`` says that activations are."""

    def __init__(self, model: onnx.ModelProto, constants: Constants) -> None:
        self._model = model
        self.constants = constants
        self.layers: dict[str, Layer] = {}
        self.edges: dict[str, Edge] = {}
        self.quantised = False
        self.dequantised = False
        self._sizes: set[str] = set()

    def run(self) -> Network:
        layout = self._image()
        for node in self._model.graph.node:
            self._node(node)
        outputs = [self.edges[one.name] for one in self._model.graph.output if one.name in self.edges]
        if not outputs:
            raise ValueError("none of its outputs is computed from the image")
        order = list(self.layers)
        output = max((edge.layer for edge in outputs), key=order.index)
        versions = [one.version for one in self._model.opset_import if one.domain in ("", "ai.onnx")]
        by = " ".join(filter(None, (self._model.producer_name, self._model.producer_version)))
        return Network(
            origin=f"ONNX opset {max(versions, default=0)}" + (f", from {by[:60]}" if by else ""),
            layers=self.layers,
            output=output,
            layout=layout,
            notes=(_DEQUANTISED,) * self.dequantised + (_ACTIVATIONS,) * self.quantised,
            in_8_bits=self.quantised,
        )

    def _image(self) -> Layout:
        """The one input that is no initializer, a batch of RGB images."""
        inputs = [one for one in self._model.graph.input if one.name not in self.constants]
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs[:4])
            raise ValueError(f"{len(inputs)} inputs ({names}), not one image" if inputs else "no input for an image")
        extents = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]
        if len(extents) != 4 or (extents[1] == _RGB) == (extents[3] == _RGB):
            shown = "x".join("?" if extent is None else str(extent) for extent in extents) or "of any shape"
            raise ValueError(f"its input {inputs[0].name} is {shown}, not batches of RGB images (Nx3xHxW or NxHxWx3)")
        layout: Layout = "NCHW" if extents[1] == _RGB else "NHWC"
        height, width = extents[layout.index("H")], extents[layout.index("W")]
        name = inputs[0].name
        image = Image(name=name, inputs=(), label=f"{name} (input)", height=height, width=width, channels=_RGB)
        self.layers[name], self.edges[name] = image, Edge(name, layout)
        return layout

    def _node(self, node: onnx.NodeProto) -> None:
        """Adds what it computes to the constants, to the sizes, to the edges, or to the layers."""
        from onnx import helper

        if not node.output:
            return
        given = [name for name in node.input if name]
        for name in given:
            if name not in self.constants and name not in self.edges and name not in self._sizes:
                raise ValueError(f"{label(node)} reads {name!r}, which nothing before it makes")
        try:
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        except ValueError as error:
            raise ValueError(f"{label(node)}: {error}") from error
        data = [name for name in given if name in self.edges]
        if not data and all(name in self.constants for name in given) and self.constants.add_computed(node, attributes):
            self.dequantised |= node.op_type == "DequantizeLinear"
            return
        if node.op_type in ("Shape", "Size") or not data:
            self._sizes.update(node.output)
            return
        handle = NODES.get(node.op_type) if node.domain in _DOMAINS else None
        if handle is None or (data[0] != given[0] and node.op_type not in SYMMETRIC):
            self.unknown(node, f"no network of this family has {node.op_type}")
        else:
            try:
                handle(self, node, attributes)
            except Misfit as error:
                self.unknown(node, str(error))
            except (IndexError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{label(node)} lacks an input or an attribute") from error

    def add(self, node: onnx.NodeProto, layer: Layer, edge: Edge) -> None:
        """``layer``, which makes the node's first output."""
        self.layers[layer.name] = layer
        self.edges[node.output[0]] = replace(edge, layer=layer.name)

    def unknown(self, node: onnx.NodeProto, why: str) -> None:
        for output in node.output:
            sources = tuple(dict.fromkeys(self.edges[name].layer for name in node.input if name in self.edges))
            self.layers[output] = Unknown(name=output, inputs=sources, label=label(node), why=why)
            self.edges[output] = Edge(output, self.edges[first_edge(self, node)].axes)

    def float(self, name: str) -> Array:
        """A constant's value as float32; a node that reads anything else there is no layer."""
        return np.asarray(self.constant(name), np.float32)

    def constant(self, name: str) -> Value:
        if name not in self.constants:
            raise Misfit("its weights are computed, not constants")
        return self.constants[name]
