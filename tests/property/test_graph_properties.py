"""Random valid tables: they load, give verified graphs, and every pass preserves what the interpreter computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from command_line import SPECS
from folded_weights import fold
from hypothesis import given, settings
from hypothesis import strategies as st
from property.strategies import specs

from mnv2c.errors import SourceError, SpecError
from mnv2c.ir.graph import ACTIVATIONS, Add, Array, BatchNorm, Convolution, Graph, MaxPool, Pad, Padding
from mnv2c.ir.interpreter import interpret
from mnv2c.ir.verifier import verify
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph, dense_names, parameter_shapes
from mnv2c.spec.table import Row, Separable, Spec, load_spec
from mnv2c.spec.yaml_writer import write_spec
from mnv2c.weights.seeded import seeded_weights

SPEC = SPECS / "mnv2_1.0.yaml"
KINDS = ("stem", "expand", "dw", "project", "pointwise", "reduce", "conv", "enlarge", "shortcut", "head")
LAYERS = st.sampled_from(KINDS)
Value = TypeVar("Value")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("specs")


def errors_of(path: Path, *overrides: str) -> tuple[SourceError, ...]:
    """The mistakes that ``load_spec`` names; any other exception passes through and fails the test."""
    try:
        load_spec(path, overrides)
    except SpecError as error:
        return error.errors
    return ()


def only(values: Mapping[str, Value]) -> Value:
    """Of a network with one output."""
    (value,) = values.values()
    return value


def image(graph: Graph, seed: int) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, graph.input.type.shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(spec=specs())
def test_a_spec_survives_its_text(spec: Spec, folder: Path) -> None:
    path = folder / "random.yaml"
    path.write_text(write_spec(spec))
    assert load_spec(path) == spec


@settings(max_examples=60, deadline=None)
@given(spec=specs(), seed=st.integers(0, 1000))
def test_a_random_spec_gives_a_verified_graph(spec: Spec, seed: int) -> None:
    weights = seeded_weights(spec, seed)
    graph = build_graph(spec, weights)
    verify(graph)
    assert {name: value.shape for name, value in weights.items()} == parameter_shapes(spec)
    features = spec.head_channels if spec.head else spec.channels(spec.bottlenecks[-1].c)
    width = spec.classifier[-1].c if spec.classifier else features
    assert graph.op(only(graph.outputs)).type.shape == (spec.input.batch, width)
    convolutions = [op for op in graph.ops if isinstance(op, Convolution)]
    shortcuts = [op.name for op in convolutions if op.name.endswith(".shortcut")]
    inside = sum(
        row.n * (2 if isinstance(row, Separable) or (isinstance(row, Row) and row.t == 1) else 3)
        for row in spec.bottlenecks
    )
    assert len(convolutions) == 1 + (spec.head is not None) + inside + len(shortcuts)
    for name in shortcuts:
        assert len(graph.op(name.replace("shortcut", "add")).inputs) == 2
    for op in graph.ops:
        if isinstance(op, Convolution | MaxPool):
            _, height, width, _ = graph.op(op.inputs[0]).type.shape
            assert op.type.shape[1:3] == (-(-height // op.stride), -(-width // op.stride))


@settings(max_examples=40, deadline=None)
@given(spec=specs(), seed=st.integers(0, 1000))
def test_every_pass_preserves_the_logits(spec: Spec, seed: int) -> None:
    graph = build_graph(spec, seeded_weights(spec, seed))
    x = image(graph, seed)
    before = only(interpret(graph, x))
    stages: dict[str, Array] = {}
    final = run_pipeline(graph, observe=lambda stage, observed: stages.update({stage: only(interpret(observed, x))}))
    assert list(stages) == [
        "00-frontend",
        "01-fold_batchnorm",
        "02-fuse_add",
        "03-fuse_activation",
        "04-pad_convolution",
        "05-fuse_pad",
        "06-add_bias",
    ]
    for stage, values in stages.items():
        np.testing.assert_allclose(values, before, rtol=1e-4, atol=1e-4, err_msg=stage)
    assert not [op.name for op in final.ops if isinstance(op, (BatchNorm, Add, *ACTIVATIONS))]
    inside = [op for op in final.ops if isinstance(op, Convolution) and op.inputs[0] != "input"]
    assert all(op.padding == Padding() for op in inside)
    for pad in (op for op in final.ops if isinstance(op, Pad)):
        producer = final.op(pad.inputs[0])
        is_shared = len(producer.inputs) == 2 or len(final.users(producer.name)) > 1
        assert is_shared or isinstance(producer, MaxPool), f"{pad.name} could be fused"


@settings(max_examples=40, deadline=None)
@given(spec=specs(), folded=st.sets(LAYERS), biased=st.booleans())
def test_weights_in_any_form_give_the_same_logits(spec: Spec, folded: set[str], biased: bool) -> None:
    weights = seeded_weights(spec, 0)
    given = fold(weights, spec.batchnorm_epsilon, layers=lambda layer: layer.rpartition(".")[2] in folded)
    full = dict(weights)
    for bias in [] if biased else [f"{name}.bias" for name in dense_names(spec)]:
        full[bias] = np.zeros_like(given.pop(bias))
    assert {name: value.shape for name, value in given.items()} == parameter_shapes(spec, given)
    graph = build_graph(spec, given)
    x = image(graph, 0)
    expected = only(interpret(build_graph(spec, full), x))
    for stage in (graph, run_pipeline(graph)):
        np.testing.assert_allclose(only(interpret(stage, x)), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(spec=specs(), data=st.data())
def test_every_pass_preserves_an_edge_that_is_an_output(spec: Spec, data: st.DataObject) -> None:
    graph = build_graph(spec, seeded_weights(spec, 0))
    edge = data.draw(st.sampled_from([op.name for op in graph.ops[1:-1]]))
    graph = replace(graph, outputs={**graph.outputs, "edge": edge})
    x = image(graph, 0)
    before = interpret(graph, x)
    stages: dict[str, dict[str, Array]] = {}
    run_pipeline(graph, observe=lambda stage, observed: stages.update({stage: interpret(observed, x)}))
    for stage, outputs in stages.items():
        for name, values in before.items():
            np.testing.assert_allclose(outputs[name], values, rtol=1e-4, atol=1e-4, err_msg=f"{stage}: {name}")


@settings(max_examples=200, deadline=None)
@given(spec=specs(), data=st.data())
def test_a_damaged_spec_is_an_error_or_a_spec(spec: Spec, data: st.DataObject, folder: Path) -> None:
    text = write_spec(spec)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 8)))
    garbage = data.draw(st.text(st.sampled_from("{}[]:,-&*!|>'\"#% \n\tab01.e\x00\ufeff"), max_size=6))
    path = folder / "damaged.yaml"
    path.write_text(text[:start] + garbage + text[end:], encoding="utf-8")
    assert all(error.line >= 1 and error.column >= 1 and error.message for error in errors_of(path))


@settings(max_examples=100, deadline=None)
@given(key=st.text(max_size=12), value=st.text(max_size=12))
def test_a_random_override_is_an_error_or_a_spec(key: str, value: str) -> None:
    fields = ("classes", "input.mean", "bottlenecks[2].c", "head", key)
    for field in fields:
        assert all(error.file == "--set" for error in errors_of(SPEC, f"{field}={value}"))
