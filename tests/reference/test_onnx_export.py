"""The ONNX reference means what the graph means: against the interpreter, two ONNX engines and published logits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import SPECS
from folded_weights import fold
from PIL import Image
from shared_data import GOLDEN, PHOTOGRAPHS, TRAINED, needs_shared_data

from mnv2c.errors import GraphError, LibraryError
from mnv2c.ir.graph import Array, Convolution, Graph, Padding
from mnv2c.ir.interpreter import interpret, interpret_all
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights

SMALL = ("width_multiplier=0.35", "resolution=32", "classes=10")


def graph_of(*overrides: str, weights: Path | None = None) -> Graph:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", overrides)
    return build_graph(spec, load_weights(weights, spec, 0)[0])


def image_for(graph: Graph) -> Array:
    return np.random.default_rng(0).uniform(-1, 1, graph.input.type.shape).astype(np.float32)


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def check_every_edge(graph: Graph, engine: str) -> None:
    """All edges within 1e-4 of the interpreter, and in the graph's own shapes."""
    reference = Reference(export_onnx(graph), observe=True)
    assert reference.engine.startswith(engine)
    x = image_for(graph)
    measured, expected = reference.run(x), interpret_all(graph, x)
    assert measured.keys() == {op.name for op in graph.ops[1:]} | {"input.nchw", "pool.nchw", *graph.outputs}
    for op in graph.ops[1:]:
        assert measured[op.name].shape == op.type.shape
        assert measured[op.name].dtype == np.float32
        np.testing.assert_allclose(measured[op.name], expected[op.name], atol=1e-4, rtol=1e-4, err_msg=op.name)
    for name, edge in graph.outputs.items():
        np.testing.assert_array_equal(measured[name], measured[edge])


def with_features(graph: Graph) -> Graph:
    """The map before the pool is an output too."""
    return replace(graph, outputs={**graph.outputs, "features": "head.relu6"})


# Odd sizes: `same` pads both sides of them, and one side of the even ones.
CASES = [
    ("padding=same",),
    ("padding=symmetric",),
    ("resolution=33",),
    ("resolution=45", "padding=symmetric"),
    ("input.batch=3", "resolution=[32, 47]"),
    (
        "bottlenecks=[{separable: {c: 64, n: 2, s: 2}}, {residual: {c: 128, n: 2, s: 2}}]",
        "stem={c: 32, s: 2, kernel: 7, pool: 2}",
        "activation=relu",
        "padding=symmetric",
    ),
]


@pytest.mark.parametrize("overrides", CASES)
def test_onnxruntime_agrees_with_the_interpreter(overrides: tuple[str, ...]) -> None:
    pytest.importorskip("onnxruntime")
    check_every_edge(graph_of(*SMALL, *overrides), "onnxruntime ")


@pytest.mark.parametrize("overrides", CASES)
@pytest.mark.usefixtures("without_onnxruntime")
def test_the_evaluator_of_onnx_agrees_with_the_interpreter(overrides: tuple[str, ...]) -> None:
    check_every_edge(graph_of(*SMALL, *overrides), "onnx.reference ")


@pytest.mark.parametrize("engine", ["onnxruntime ", "onnx.reference "])
def test_several_outputs_are_the_graph_s(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, under their names, in the graph's own layout: with and without the edges between."""
    if engine == "onnx.reference ":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        pytest.importorskip("onnxruntime")
    graph = with_features(graph_of(*SMALL, "resolution=64"))
    check_every_edge(graph, engine)
    model = export_onnx(graph)
    assert [(value.name, extents(value)) for value in model.graph.output] == [
        ("logits", [1, 10]),
        ("features", [1, 2, 2, 1280]),
    ]
    x = image_for(graph)
    measured, expected = Reference(model).run(x), interpret(graph, x)
    assert list(measured) == list(expected) == ["logits", "features"]
    for name, values in expected.items():
        np.testing.assert_allclose(measured[name], values, atol=1e-4, rtol=1e-4, err_msg=name)


def test_paddings_differ() -> None:
    same, symmetric = (graph_of(*SMALL, f"padding={padding}") for padding in ("same", "symmetric"))
    x = image_for(same)
    first, second = (Reference(export_onnx(graph)).run(x)["logits"] for graph in (same, symmetric))
    assert np.abs(first - second).max() > 0.01


def test_the_model_is_the_unoptimised_graph_by_name() -> None:
    graph = graph_of("classes=1001")
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert [kinds.count(kind) for kind in ("Conv", "BatchNormalization", "Clip", "Add", "Gemm")] == [52, 52, 35, 10, 1]
    made = {output for node in model.graph.node for output in node.output}
    assert {op.name for op in graph.ops[1:]} <= made
    assert graph.constants.keys() <= {tensor.name for tensor in model.graph.initializer}
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert extents(model.graph.input[0]) == [1, 224, 224, 3]
    assert extents(model.graph.output[0]) == [1, 1001]


def extents(value: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def test_old_runtimes_can_read_it() -> None:
    model = export_onnx(graph_of(*SMALL))
    assert model.ir_version <= 8
    assert [opset.version for opset in model.opset_import] == [17]


def test_equal_graphs_give_equal_bytes() -> None:
    first, second = (export_onnx(graph_of(*SMALL)).SerializeToString() for _ in range(2))
    assert first == second
    assert str(SPECS).encode() not in first


@pytest.mark.parametrize("engine", ["onnxruntime ", "onnx.reference "])
def test_folded_layers_and_a_classifier_without_bias(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "onnx.reference ":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        pytest.importorskip("onnxruntime")
    spec = load_spec(SPECS / "mnv2_1.0.yaml", SMALL)
    weights = fold(load_weights(None, spec, 0)[0], spec.batchnorm_epsilon, layers=lambda layer: layer != "head")
    del weights["fc.bias"]
    graph = build_graph(spec, weights)
    kinds = [node.op_type for node in export_onnx(graph).graph.node]
    assert (kinds.count("Conv"), kinds.count("BatchNormalization")) == (52, 1)
    check_every_edge(graph, engine)


def fused_border(op: Convolution) -> Convolution:
    return replace(op, border=Padding(1, 1, 1, 1))


def fused_activation(op: Convolution) -> Convolution:
    return replace(op, activation="relu6")


def fused_add(op: Convolution) -> Convolution:
    return replace(op, inputs=(*op.inputs, "block1.project.bn"))


@pytest.mark.parametrize("fuse", [fused_border, fused_activation, fused_add])
def test_an_optimised_graph_is_refused(fuse: Callable[[Convolution], Convolution]) -> None:
    graph = graph_of(*SMALL)
    ops = [fuse(op) if isinstance(op, Convolution) and op.name == "block2.project" else op for op in graph.ops]
    with pytest.raises(GraphError, match=r"block2\.project: something is fused into it"):
        export_onnx(replace(graph, ops=tuple(ops)))


def test_a_model_that_no_engine_computes_is_an_error() -> None:
    """At its start, or where it runs."""
    model = export_onnx(graph := graph_of(*SMALL))
    with pytest.raises(LibraryError, match="the reference cannot be computed"):
        Reference(model).run(image_for(graph)[:, 1:])
    del model.graph.node[0]
    with pytest.raises(LibraryError, match="the reference cannot be computed"):
        Reference(model)


@needs_shared_data
def test_the_trained_network_gives_the_published_logits() -> None:
    graph = graph_of("classes=1001", weights=TRAINED)
    reference = Reference(export_onnx(graph))
    with np.load(GOLDEN) as golden:
        names, expected = golden["names"].tolist(), golden["fp32_logits"]
    assert len(names) == 18
    for name, logits in zip(names, expected, strict=True):
        pixels = np.asarray(Image.open(PHOTOGRAPHS / name).convert("RGB"), np.float32)
        measured = reference.run((pixels / 127.5 - 1)[np.newaxis])["logits"][0]
        assert np.abs(measured - logits).max() < 1e-3, name
