"""Files that are not what they say, or a network of another family: each is one line, soon, and takes little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from command_line import SPECS, mnv2c
from model_files import KerasModel, torchvision_names, write_safetensors
from onnx import TensorProto, helper, numpy_helper
from onnx_writer import Form, write
from photograph import photograph

from mnv2c.errors import Mnv2cError
from mnv2c.ir.graph import Array
from mnv2c.measure.tflite_model import write_tflite
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.weights.importing import import_model
from mnv2c.weights.seeded import seeded_weights

SECONDS, BYTES = 20, 400 << 20
SPEC = load_spec(SPECS / "mnv2_1.0.yaml", ["width_multiplier=0.35", "resolution=32", "classes=3"])
WEIGHTS = seeded_weights(SPEC, 1)
Made = Callable[[Path], Path]


def file(name: str, content: bytes) -> Made:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def good_onnx(form: Form = Form(), spec: Spec = SPEC) -> onnx.ModelProto:  # noqa: B008 - frozen
    return write(build_graph(spec, seeded_weights(spec, 1)), form)


def changed_onnx(change: Callable[[onnx.ModelProto], object], form: Form = Form()) -> Made:  # noqa: B008
    def make(folder: Path) -> Path:
        model = good_onnx(form)
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return folder / "model.onnx"

    return make


def node(model: onnx.ModelProto, kind: str, number: int = 0) -> onnx.NodeProto:
    return [one for one in model.graph.node if one.op_type == kind][number]


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def attribute(one: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [each for each in one.attribute if each.name != name]
    del one.attribute[:]
    one.attribute.extend([*kept, helper.make_attribute(name, value)])


def weight(name: str, value: Array) -> Callable[[onnx.ModelProto], object]:
    return lambda model: tensor(model, name).CopyFrom(numpy_helper.from_array(value, name))


def dims(name: str, *extents: int) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        one = tensor(model, name)
        del one.dims[:]
        one.dims.extend(extents)

    return change


def external(**entries: str) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        one = tensor(model, "stem.weight")
        one.ClearField("raw_data")
        one.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            one.external_data.add(key=key, value=value)

    return change


def before(kind: str, *new: onnx.NodeProto, reads: str = "", number: int = 0) -> Callable[[onnx.ModelProto], object]:
    """``new`` stand before the first node of ``kind``; ``{x}`` in their inputs is what that reads, which then reads
    the edge ``new``."""

    def change(model: onnx.ModelProto) -> None:
        target = node(model, kind, number)
        index = list(model.graph.node).index(target)
        for one in new:
            for position, name in enumerate(one.input):
                one.input[position] = target.input[0] if name == "{x}" else name
        target.input[0] = "new"
        for offset, one in enumerate(new):
            model.graph.node.insert(index + offset, one)

    return change


def instead(kind: str, new: str, number: int = 0) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        one = node(model, kind, number)
        one.op_type = new
        del one.input[1:]

    return change


def inputs(*shapes: tuple[int, ...]) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.input[:]
        names = ["pixels", *(f"more{number}" for number in range(len(shapes) - 1))]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
        model.graph.input.extend(values)

    return change


def bomb(model: onnx.ModelProto) -> None:
    """Doubles a constant again and again."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1 << 20,), np.float32), "doubled0"))
    for step in range(64):
        name = f"doubled{step}"
        new = helper.make_node("Concat", [name, name], [f"doubled{step + 1}"], axis=0)
        model.graph.node.insert(step, new)


def broadcast(model: onnx.ModelProto) -> None:
    for name, shape in (("row", (1, 1 << 22)), ("column", (1 << 22, 1))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model.graph.node.insert(0, helper.make_node("Add", ["row", "column"], ["square"]))


def filled(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40, 8], np.int64), "large"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["large"], ["zeros"]))


def backwards(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-2].output[0]


def no_shortcut(model: onnx.ModelProto) -> None:
    """The first is left out."""
    add = node(model, "Add")
    add.op_type = "Identity"
    del add.input[1:]


def branches(depth: int) -> onnx.NodeProto:
    """If inside If."""
    one = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(depth):
        one = helper.make_node("If", ["{x}"], ["new"], then_branch=helper.make_graph([one], "g", [], []))
    return one


def deep_bytes(depth: int) -> bytes:
    """A model whose graph has a node whose attribute has a graph, and so on: deeper than any library writes it."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            content = bytes([field << 3 | 2]) + varint(len(content)) + content
    return b"\x08\x08" + bytes([7 << 3 | 2]) + varint(len(content)) + content


def varint(number: int) -> bytes:
    more, low = number >> 7, number & 127
    return bytes([low | 128]) + varint(more) if more else bytes([low])


def function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "Mine", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    one = node(model, "Clip")
    one.op_type, one.domain = "Mine", "own"
    del one.input[1:]


def many(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Identity", ["pixels"], [f"copy{number}"]) for number in range(30_000))


def three_lines(model: onnx.ModelProto) -> None:
    inputs(())(model)
    model.graph.input[0].name = "a\n \nb"


def not_text(folder: Path) -> Path:
    model = good_onnx()
    model.producer_name = "the producer"
    return file("model.onnx", model.SerializeToString().replace(b"the producer", b"\xff\xfe\xff producer"))(folder)


def symlink(folder: Path) -> Path:
    path = changed_onnx(external(location="data"))(folder)
    (folder.parent / "secret").write_bytes(bytes(1 << 12))
    (folder / "data").symlink_to(folder.parent / "secret")
    return path


def short_data(folder: Path) -> Path:
    (folder / "data").write_bytes(bytes(100))
    return changed_onnx(external(location="data", offset="50"))(folder)


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def safetensors(change: Callable[[dict[str, Any]], object]) -> Made:
    def make(folder: Path) -> Path:
        tensors: dict[str, Any] = torchvision_names(WEIGHTS)
        change(tensors)
        return write_safetensors(folder / "model.safetensors", tensors)

    return make


def header(text: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + bytes(64)


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def keras(change: Callable[[Any], object], suffix: str = "keras") -> Made:
    def make(folder: Path) -> Path:
        model = KerasModel(SPEC, WEIGHTS, nested="functional")
        change(model.config)
        return Path(getattr(model, f"write_{suffix}")(folder / f"model.{suffix}"))

    return make


def layer(config: Any, name: str) -> Any:
    """One of the application's, or of the outer model's."""
    outer = config["config"]["layers"]
    inner = next(one for one in outer if one["class_name"] == "Functional")["config"]["layers"]
    return next(one for one in (*outer, *inner) if one["name"] == name)


def source(described: Any) -> Any:
    return described["inbound_nodes"][0]["args"][0]["config"]


def deep(config: Any) -> None:
    inner = dict(config)
    for _ in range(60):
        inner = {"class_name": "Sequential", "config": {"name": "s", "layers": [inner]}}
    config.clear()
    config.update(inner)


def h5(change: Callable[[h5py.File], object]) -> Made:
    def make(folder: Path) -> Path:
        path = KerasModel(SPEC, WEIGHTS, nested="functional").write_h5(folder / "model.h5")
        with h5py.File(path, "r+") as opened:
            change(opened)
        return path

    return make


KERNEL = "model_weights/mobilenetv2/Conv1/kernel"


def elsewhere(opened: h5py.File) -> None:
    del opened[KERNEL]
    opened.create_dataset(KERNEL, (3, 3, 3, 16), "f4", external=[("/etc/passwd", 0, 1728)])


def huge(opened: h5py.File) -> None:
    del opened[KERNEL]
    opened.create_dataset(KERNEL, (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")


def linked(opened: h5py.File) -> None:
    del opened[KERNEL]
    opened[KERNEL] = h5py.ExternalLink("/etc/passwd", "/")


def endless(path: Path) -> Path:
    """An object of the heap is as large as brings HDF5 back to it, again and again."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, content.index(b"GCOL") + 24, (1 << 64) - 16)
    path.write_bytes(content)
    return path


def tflite(change: Callable[[bytes], bytes]) -> Made:
    return lambda folder: file("model.tflite", change(good_tflite()))(folder)


def good_tflite() -> bytes:
    pytest.importorskip("ai_edge_litert")
    return write_tflite(export_onnx(build_graph(SPEC, WEIGHTS)))


def objects(change: Callable[[Any, Any], object]) -> Callable[[bytes], bytes]:
    """With LiteRT's own schema."""

    def rewrite(content: bytes) -> bytes:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        change(model, schema)
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    return rewrite


def operator(model: Any, number: int, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(model.subgraphs[0].operators[number], name, value)


def own_output(model: Any, schema: Any) -> None:
    one = model.subgraphs[0].operators[0]
    one.inputs = [one.outputs[0], *one.inputs[1:]]


def other_kind(kind: str) -> Callable[[Any, Any], object]:
    def change(model: Any, schema: Any) -> None:
        code = getattr(schema.BuiltinOperator, kind)
        model.operatorCodes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127)))
        operator(model, 0, opcodeIndex=len(model.operatorCodes) - 1, builtinOptionsType=0, builtinOptions=None)

    return change


SWISH = helper.make_node("HardSwish", ["{x}"], ["new"])
ENTRY = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
OTHER = {"layer1.0.conv1.weight": np.ones((4, 4), np.float32)}
PICKLE = pickle.dumps({"features.0.0.weight": [1.0]})

CASES: dict[str, tuple[Made, str]] = {
    "nothing there": (lambda folder: folder / "model.onnx", "no such file"),
    "an empty file": (file("model.onnx", b""), "is empty"),
    "an empty folder": (lambda folder: folder, "without model.safetensors"),
    "a pipe": (fifo, "not a file"),
    "text": (file("model.bin.txt", b"hello, world\n"), "not a trained model"),
    "a table": (lambda folder: SPECS / "mnv2_1.0.yaml", "not a trained model"),
    "a picture": (lambda folder: photograph(folder / "model.png"), "not a trained model"),
    "a picture called ONNX": (
        lambda folder: photograph(folder / "x.png").rename(folder / "x.onnx"), "not an ONNX model",
    ),
    "noise": (file("model.onnx", np.random.default_rng(0).bytes(10_000)), "not an ONNX model"),
    "an archive of something": (file("model.keras", zipped({"readme.txt": b"hello"})), "no Keras model"),
    "an archive without a name": (file("model", zipped({"readme.txt": b"hello"})), "not a trained model"),
    "gzip": (file("model.tflite", gzip.compress(b"x" * 1000)), "not a TFLite model"),
    "ONNX cut in half": (lambda folder: file("m.onnx", good_onnx().SerializeToString()[:900_000])(folder), "truncated"),
    "ONNX by bytes that are no text": (not_text, "a name in it is no text"),
    "ONNX of a name of three lines": (
        changed_onnx(three_lines), "its input a b is of any shape",
    ),
    "ONNX of no nodes": (changed_onnx(lambda model: model.graph.ClearField("node")), "without nodes"),
    "ONNX of 30,000 nodes": (changed_onnx(many), "30[0-9]{3} nodes"),
    "a node that reads what comes later": (changed_onnx(backwards), "which nothing before it makes"),
    "a loop": (changed_onnx(instead("Clip", "Loop")), r"Clip_2 \(Loop\).*no network of this family has Loop"),
    "graphs in graphs": (changed_onnx(before("Conv", branches(20), number=1)), r"\(If\): no network .* has If"),
    "graphs in graphs without an end": (file("model.onnx", deep_bytes(5000)), "not an ONNX model"),
    "a function of its own": (changed_onnx(function), "no network of this family has Mine"),
    "a tensor of 2^60 numbers": (changed_onnx(dims("stem.weight", 1 << 30, 1 << 30)), "more than 256 MiB"),
    "a tensor of less than nothing": (changed_onnx(dims("stem.weight", -16, 3, 3, 3)), "has the shape"),
    "a tensor of another size": (changed_onnx(dims("stem.weight", 16, 3, 3, 4)), "1728 bytes for the shape"),
    "a tensor of text": (changed_onnx(lambda m: setattr(tensor(m, "stem.weight"), "data_type", 8)), "stem.weight"),
    "a tensor of nothing known": (
        changed_onnx(lambda m: setattr(tensor(m, "stem.weight"), "data_type", 99)), "element type",
    ),
    "data that is not there": (changed_onnx(external(location="data")), "its data data is missing"),
    "data above": (changed_onnx(external(location="../../etc/passwd")), "outside of the model's folder"),
    "data elsewhere": (changed_onnx(external(location="/etc/passwd")), "outside of the model's folder"),
    "data behind a link": (symlink, "is missing"),
    "data that is short": (short_data, "not wholly in data"),
    "data at no number": (changed_onnx(external(location="data", offset="x")), "is missing"),
    "a constant that doubles": (changed_onnx(bomb), "too much|GiB"),
    "a constant that is broadcast": (changed_onnx(broadcast), "Add of constants|computes too much"),
    "a constant that is filled": (changed_onnx(filled), "ConstantOfShape of constants"),
    "two images": (changed_onnx(inputs((1, 3, 32, 32), (1, 3, 32, 32))), "2 inputs"),
    "no image": (changed_onnx(inputs((1, 768))), "not batches of RGB images"),
    "four channels": (changed_onnx(inputs((1, 4, 32, 32))), "not batches of RGB images"),
    "hard swish": (changed_onnx(before("Conv", SWISH, number=1)), r"\(HardSwish\): no network of this family has Hard"),
    "squeeze and excite": (
        changed_onnx(before("Conv", helper.make_node("Mul", ["{x}", "{x}"], ["new"]), number=2)),
        "Mul of two maps",
    ),
    "ReLU where ReLU6 should be": (changed_onnx(instead("Clip", "Relu")), "ReLU where stem of MobileNetV2 has ReLU6"),
    "Sigmoid at the end": (changed_onnx(instead("Identity", "Sigmoid", -1)), "no network of this family has Sigmoid"),
    "a kernel of 5x5": (changed_onnx(weight("block0.dw.weight", np.ones((16, 1, 5, 5), np.float32))), "5x5.*3x3"),
    "a dilated kernel": (changed_onnx(lambda m: attribute(node(m, "Conv", 1), "dilations", [2, 2])), "dilations"),
    "strides of 3": (changed_onnx(lambda m: attribute(node(m, "Conv", 1), "strides", [3, 3])), r"strides \(3, 3\)"),
    "zeros on the wrong side": (
        changed_onnx(lambda m: attribute(node(m, "Conv"), "pads", [1, 1, 0, 0])), "zeros 1,1,0,0",
    ),
    "groups": (changed_onnx(lambda m: attribute(node(m, "Conv", 1), "group", 4)), "in 4 groups"),
    "no shortcut": (changed_onnx(no_shortcut), "block2, of stride 1.*has no shortcut"),
    "no head": (changed_onnx(lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info(
        node(m, "Conv", 30).output[0], TensorProto.FLOAT, None))), "not a MobileNetV2"),
    "weights that are no numbers": (
        changed_onnx(weight("stem.weight", np.full((16, 3, 3, 3), np.nan, np.float32))), "432 of 432 values not finite",
    ),
    "a bias of another layer": (
        changed_onnx(lambda m: node(m, "Conv", 3).input.append("stem.gamma")), "a bias of 16 numbers for 48 channels",
    ),
    "a constant that is no tensor": (
        changed_onnx(lambda m: attribute(node(m, "Constant"), "value", 7), Form(relu6="constants")), "is no tensor",
    ),
    "variances below zero": (
        changed_onnx(weight("stem.var", np.full(16, -1, np.float32))), "16 of 16 variances below zero",
    ),
    "safetensors cut in half": (
        lambda folder: file("m.safetensors", safetensors(dict.copy)(folder).read_bytes()[:50_000])(folder), "truncated",
    ),
    "safetensors of a huge header": (file("m.safetensors", header("{}", 1 << 60)), "not a safetensors file"),
    "safetensors of no JSON": (file("m.safetensors", header("{{{{")), "not a safetensors file"),
    "safetensors of 2^60 numbers": (
        file("m.safetensors", header('{"a":{"dtype":"F32","shape":[1073741824,1073741824],"data_offsets":[0,64]}}')),
        "not a safetensors file",
    ),
    "safetensors that overlap": (
        file("m.safetensors", header(json.dumps(dict.fromkeys("ab", ENTRY)))), "not a safetensors file",
    ),
    "bfloat16": (
        file("m.safetensors", header('{"a":{"dtype":"BF16","shape":[32],"data_offsets":[0,64]}}')), "is BF16; save",
    ),
    "a state dict of another family": (
        lambda folder: write_safetensors(folder / "m.safetensors", OTHER),
        "not named as torchvision, timm or transformers",
    ),
    "a state dict that lacks a tensor": (
        safetensors(lambda tensors: tensors.pop("features.3.conv.1.1.running_mean")), "no tensor for mean of block2.dw",
    ),
    "a state dict with one too many": (
        safetensors(lambda tensors: tensors.update({"features.3.se.fc.weight": np.ones((2, 2, 2), np.float32)})),
        "features.3.se.fc.weight: no layer of that family has it",
    ),
    "a pickle": (file("model.pth", PICKLE), "PyTorch|torch"),
    "a damaged archive of PyTorch": (
        file("model.pth", zipped({"archive/data.pkl": PICKLE}).replace(b"PK\1\2", b"PK\1\3")), "damaged or truncated",
    ),
    "a pickle called npz": (file("model.npz", PICKLE), "PyTorch|torch|not an .npz"),
    "an npz of a pickle": (
        lambda folder: (np.savez(folder / "m.npz", a=np.array([None])), folder / "m.npz")[1], "cannot be read",  # type: ignore[arg-type]
    ),
    "an npz that unfolds": (
        lambda folder: (np.savez_compressed(folder / "m.npz", a=np.zeros(300 << 20, np.float32)), folder / "m.npz")[1],
        "holds 1200 MiB",
    ),
    "Keras weights alone": (h5(lambda opened: opened.attrs.pop("model_config")), "holds no model, only weights"),
    "Keras HDF5 cut in half": (
        lambda folder: file("m.h5", keras(dict.copy, "h5")(folder).read_bytes()[:90_000])(folder), "no HDF5",
    ),
    "an HDF5 heap without an end": (lambda folder: endless(h5(lambda o: None)(folder)), "does not come to an end"),
    "HDF5 data in another file": (h5(elsewhere), "lies in another file"),
    "an HDF5 link to another file": (h5(linked), "Conv1 .*its weights are not in the file"),
    "HDF5 of 2^40 numbers": (h5(huge), "more than 256 MiB"),
    "a Keras description that is no JSON": (h5(lambda o: o.attrs.modify("model_config", "{")), "is no JSON"),
    "a Keras description of nothing": (h5(lambda o: o.attrs.modify("model_config", "[]")), "not as Keras writes it"),
    "Keras models in models": (keras(deep), "without an end"),
    "a Keras archive that unfolds": (
        file("m.keras", zipped({"config.json": bytes(64 << 20), "model.weights.h5": b""})), "larger than 16 MiB",
    ),
    "a Keras archive without weights": (
        file("m.keras", zipped({"config.json": b"{}", "model.weights.h5": b"x"})), "no HDF5 file",
    ),
    "Keras code": (
        keras(lambda c: layer(c, "Conv1_relu").update(class_name="Lambda")), r"Conv1_relu \(Lambda\): no network",
    ),
    "Keras maps with channels first": (
        keras(lambda c: layer(c, "Conv1")["config"].update(data_format="channels_first")), "channels first",
    ),
    "Keras swish": (keras(lambda c: layer(c, "Conv1")["config"].update(activation="swish")), "the activation swish"),
    "Keras strides without end": (
        keras(lambda c: layer(c, "Conv1")["config"].update(strides=[float("inf")] * 2)), "not as Keras writes it",
    ),
    "a Keras epsilon of nothing": (
        keras(lambda c: layer(c, "bn_Conv1")["config"].update(epsilon=-1)), "an epsilon of -1",
    ),
    "a Keras model that ends where it begins": (
        keras(lambda c: c["config"].update(output_layers=["input_2", 0, 0])), "the network ends here",
    ),
    "a Keras layer used twice": (
        keras(lambda c: layer(c, "Conv1").update(inbound_nodes=layer(c, "Conv1")["inbound_nodes"] * 2)), "used 2 times",
    ),
    "a Keras layer that reads what comes later": (
        keras(lambda c: source(layer(c, "Conv1")).update(keras_history=["Conv_1", 0, 0])), "not as Keras writes it",
    ),
    "grey Keras images": (
        keras(lambda c: layer(c, "input_2")["config"].update(batch_shape=[None, 32, 32, 1])), "1 channels, not red",
    ),
    "TFLite cut in half": (tflite(lambda content: content[: len(content) // 2]), "truncated or damaged"),
    "TFLite of four bytes": (file("m.tflite", b"\x18\0\0\0TFL3"), "truncated or damaged"),
    "TFLite of wild offsets": (
        tflite(lambda content: content[:8] + b"\xff\xff\xff\x7f" * 64 + content[264:]), "damaged|truncated",
    ),
    "TFLite without a graph": (tflite(objects(lambda m, s: setattr(m, "subgraphs", []))), "has no graph"),
    "a TFLite operator that reads itself": (tflite(objects(own_output)), "not a MobileNetV2|none of its outputs"),
    "a TFLite WHILE": (tflite(objects(other_kind("WHILE"))), "no network of this family has WHILE"),
    "TFLite HARD_SWISH": (tflite(objects(other_kind("HARD_SWISH"))), "no network of this family has HARD_SWISH"),
    "a TFLite tensor of another size": (
        tflite(objects(lambda m, s: setattr(m.buffers[2], "data", np.zeros(8, np.uint8)))), "8 bytes for the shape",
    ),
    "a TFLite tensor that is not there": (
        tflite(objects(lambda m, s: operator(m, 0, inputs=[0, 9999, 2]))), "no tensor 9999",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_line_that_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    make, words = CASES[case]
    folder = tmp_path / "files"
    folder.mkdir()
    path = make(folder)
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(Mnv2cError) as caught:
            import_model(path, "model")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert re.search(words, text, re.DOTALL), text
    assert text.startswith(f"{path}: "), text
    assert "\n" not in text.replace("1 fault:\n", ""), text
    assert len(text) < 500
    assert time.process_time() - began < SECONDS
    assert most < BYTES


def test_there_are_forty_kinds() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    "case", ["ReLU where ReLU6 should be", "HDF5 of 2^40 numbers", "a pickle", "TFLite cut in half"]
)
def test_the_command_says_it_and_writes_nothing(case: str, tmp_path: Path) -> None:
    make, words = CASES[case]
    path = make(tmp_path)
    there = sorted(tmp_path.iterdir())
    done = mnv2c("import", path, "-o", "net", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == there


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    path = changed_onnx(lambda model: None)(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    done = mnv2c("import", path, "-o", "mine", cwd=tmp_path)
    assert done.returncode == 1
    assert "no import wrote it" in done.stderr
    for _ in range(2):  # what an import wrote is replaced by the next
        assert mnv2c("import", path, "-o", "net", cwd=tmp_path).returncode == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine.yaml", "model.onnx", "net.npz", "net.yaml"]
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "name: mine\n"
    done = mnv2c("import", "net.npz", cwd=tmp_path)
    assert "is the model itself" in done.stderr


def test_the_seeds_of_the_cases_are_good(tmp_path: Path) -> None:
    """So that each case fails for what was changed."""
    for make in (
        changed_onnx(lambda m: None),
        safetensors(dict.copy),
        keras(dict.copy),
        h5(lambda o: None),
        tflite(bytes),
    ):
        found = import_model(make(tmp_path), SPEC.name, overrides=["resolution=32"])
        assert replace(found.spec, input=SPEC.input, padding="same", batchnorm_epsilon=1e-3) == SPEC
