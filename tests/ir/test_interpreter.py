"""The interpreter against loops that follow the definitions word by word, and against the trained network's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from command_line import SPECS
from PIL import Image
from shared_data import GOLDEN, PHOTOGRAPHS, TRAINED, needs_shared_data

from mnv2c.ir.graph import (
    Array,
    BatchNorm,
    Convolution,
    Dense,
    Depthwise,
    Graph,
    MaxPool,
    Op,
    Pad,
    Padding,
    Project,
    TensorType,
)
from mnv2c.ir.interpreter import interpret, interpret_all
from mnv2c.passes import PIPELINE, Pass, fuse_pad, run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights.seeded import seeded_weights

TINY = [
    "resolution=[11, 14]",
    "input.batch=2",
    "classes=5",
    "bottlenecks=[{t: 1, c: 8, n: 1, s: 1}, {t: 2, c: 16, n: 2, s: 2}]",
    "head.c=24",
]

OTHERS = [
    "bottlenecks=[{separable: {c: 8, n: 2, s: 2}}, {residual: {c: 16, n: 2, s: 2}}, {residual: {c: 8, n: 1, s: 1}}]",
    "stem={c: 32, s: 1, kernel: 5, pool: 2}",
    "activation=relu",
]
"""Rows as MobileNetV1 and ResNet have them, and their stem."""

PADDED = PIPELINE[: PIPELINE.index(fuse_pad)]


def tiny(padding: str, *changes: str) -> Graph:
    spec = load_spec(SPECS / "mnv2_0.35.yaml", [*TINY, f"padding={padding}", *changes])
    return build_graph(spec, seeded_weights(spec, 3))


def image(graph: Graph) -> Array:
    return np.random.default_rng(0).uniform(-1, 1, graph.input.type.shape).astype(np.float32)


def convolve(op: Convolution, x: Array, graph: Graph) -> np.ndarray:
    """Output pixel by output pixel, tap by tap; what lies outside the map counts as zero."""
    weight = graph.constants[op.weight].astype(np.float64)
    batch, height, width, _ = x.shape
    border = op.border
    rows = op.type.shape[1] - border.top - border.bottom
    columns = op.type.shape[2] - border.left - border.right
    y = np.zeros((batch, rows, columns, op.type.shape[3]))
    for row, column in product(range(rows), range(columns)):
        for i, j in product(range(weight.shape[2]), range(weight.shape[3])):
            from_row, from_column = row * op.stride + i - op.padding.top, column * op.stride + j - op.padding.left
            if not (0 <= from_row < height and 0 <= from_column < width):
                continue
            for image, out in product(range(batch), range(weight.shape[0])):
                pixel, tap = x[image, from_row, from_column].astype(np.float64), weight[out, :, i, j]
                y[image, row, column, out] += pixel[out] * tap[0] if isinstance(op, Depthwise) else pixel @ tap
    return y


def surround(x: np.ndarray, border: Padding) -> np.ndarray:
    """``x`` in the middle of a map of zeros."""
    batch, height, width, channels = x.shape
    rows, columns = border.top + height + border.bottom, border.left + width + border.right
    y = np.zeros((batch, rows, columns, channels))
    y[:, border.top : border.top + height, border.left : border.left + width] = x
    return y


def largest(op: MaxPool, x: Array) -> np.ndarray:
    """Window by window, of what there is of it."""
    y = np.empty(op.type.shape)
    for row, column in product(*map(range, y.shape[1:3])):
        top, left = row * op.stride - op.padding.top, column * op.stride - op.padding.left
        window = x[:, max(top, 0) : top + op.kernel, max(left, 0) : left + op.kernel]
        y[:, row, column] = window.max(axis=(1, 2))
    return y


def by_definition(op: Op, edges: dict[str, Array], graph: Graph) -> np.ndarray:
    x = edges[op.inputs[0]]
    match op:
        case Convolution():
            y = convolve(op, x, graph)
            y = y if op.bias is None else y + graph.constants[op.bias]
            y = y + edges[op.inputs[1]] if len(op.inputs) == 2 else y
            y = np.maximum(y, 0) if op.activation else y
            return surround(np.minimum(y, 6) if op.activation == "relu6" else y, op.border)
        case MaxPool():
            return largest(op, x)
        case Pad():
            return surround(x, op.border)
        case BatchNorm():
            gamma, beta, mean, var = (graph.constants[name] for name in (op.gamma, op.beta, op.mean, op.var))
            return np.asarray((x - mean) * (gamma / np.sqrt(var + op.epsilon)) + beta)
        case Dense():
            weight, bias = graph.constants[op.weight], graph.constants[op.bias or "fc.bias"]
            return np.array([[sum(features * row) + b for row, b in zip(weight, bias, strict=True)] for features in x])
    name = type(op).__name__
    if name == "ReLU6":
        return np.minimum(np.maximum(x, 0), 6)
    if name == "ReLU":
        return np.maximum(x, 0)
    if name == "Add":
        return x + edges[op.inputs[1]]
    assert name == "GlobalAvgPool"
    pixels = [x[:, i, j] for i, j in product(range(x.shape[1]), range(x.shape[2]))]
    return np.asarray(sum(pixels) / len(pixels))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("passes", [(), PADDED, PIPELINE], ids=["frontend", "padded", "fused"])
@pytest.mark.parametrize("changes", [(), OTHERS], ids=["paper", "others"])
def test_every_op_does_what_its_definition_says(padding: str, passes: tuple[Pass, ...], changes: Sequence[str]) -> None:
    graph = run_pipeline(tiny(padding, *changes), passes)
    edges = interpret_all(graph, image(graph))
    assert list(edges) == [op.name for op in graph.ops]
    for op in graph.ops[1:]:
        assert edges[op.name].dtype == np.float32
        assert np.ptp(edges[op.name]) > 1e-3, f"{op.name} is dead: this tests nothing"
        expected = by_definition(op, edges, graph)
        np.testing.assert_allclose(edges[op.name], expected, rtol=1e-5, atol=1e-5, err_msg=op.name)


def test_the_stages_pad_and_surround() -> None:
    """What the test above runs holds each op that there is: Pads before ``fuse_pad``, borders after it."""
    padded, fused = run_pipeline(tiny("same"), PADDED), run_pipeline(tiny("same"))
    assert [op.name for op in padded.ops if isinstance(op, Pad)]
    assert [op.name for op in fused.ops if isinstance(op, Convolution) and op.border != Padding()]


def test_a_pad_puts_zeros_on_each_side() -> None:
    graph = tiny("same")
    first, border = graph.input, Padding(top=1, left=2, bottom=3, right=4)
    pad = Pad(name="pad", inputs=(first.name,), type=TensorType((2, 15, 20, 3)), source=first.source, border=border)
    x = image(graph)
    y = interpret(replace(graph, ops=(first, pad), constants={}, outputs={"y": "pad"}), x)["y"]
    np.testing.assert_array_equal(y[:, 1:-3, 2:-4], x)
    assert np.count_nonzero(y) == np.count_nonzero(x)


def test_a_border_is_zero_whatever_the_bias() -> None:
    graph = run_pipeline(tiny("same"), PADDED)
    head, border = graph.op("head"), Padding(top=1, left=2, bottom=3, right=4)
    assert isinstance(head, Convolution)
    batch, height, width, channels = head.type.shape
    type_ = TensorType((batch, height + 4, width + 6, channels))
    constants = {**graph.constants, "head.bias": np.ones(channels, np.float32)}
    plain = replace(graph, constants=constants)
    around = replace(plain, ops=tuple(replace(op, border=border, type=type_) if op is head else op for op in graph.ops))
    expected, y = (interpret_all(each, image(graph))["head"] for each in (plain, around))
    np.testing.assert_array_equal(y[:, 1:-3, 2:-4], expected)
    y[:, 1:-3, 2:-4] = 0
    assert not y.any()


def test_a_residual_is_added_after_the_bias() -> None:
    graph = run_pipeline(tiny("same"))
    project = next(op for op in graph.ops if isinstance(op, Project) and len(op.inputs) == 2)
    assert project.inputs == ("block2.dw", "block1.project")
    edges = interpret_all(graph, image(graph))
    alone = replace(project, inputs=project.inputs[:1])
    without = interpret_all(replace(graph, ops=tuple(alone if op is project else op for op in graph.ops)), image(graph))
    difference = edges[project.name] - without[project.name]
    np.testing.assert_allclose(difference, edges["block1.project"], atol=1e-5)


def test_an_image_of_another_shape_is_refused() -> None:
    graph = tiny("same")
    with pytest.raises(ValueError, match="takes"):
        interpret(graph, image(graph)[:, :-1])


@needs_shared_data
def test_the_trained_network_gives_its_published_logits() -> None:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["classes=1001"])
    with np.load(TRAINED) as tensors:
        weights = {name: tensors[name] for name in tensors.files if name != "__meta__"}
    graph = build_graph(spec, weights)
    with np.load(GOLDEN) as published:
        names, logits = published["names"], published["fp32_logits"]
    pixels = Image.open(PHOTOGRAPHS / f"{Path(str(names[0])).stem}.png").convert("RGB")
    x = (np.asarray(pixels, np.float32)[None] - graph.input.mean) / graph.input.scale
    for stage in (graph, run_pipeline(graph)):
        np.testing.assert_allclose(interpret(stage, x.astype(np.float32))["logits"][0], logits[0], atol=1e-4)
