"""The Relax backend: TVM itself runs the emitted module; its partition names every operand of every kernel call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from command_line import SPECS
from tvm import relax

from mnv2c.backends.relax import kernel_calls
from mnv2c.backends.relax.emit import emit
from mnv2c.backends.relax.partition import partition
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Array, Graph
from mnv2c.ir.interpreter import interpret
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.weights.seeded import seeded_weights
from mnv2c.workloads import Pad, Pointwise, Stem

TABLES = {
    "paper": ("width_multiplier=0.35", "resolution=32", "classes=10"),
    "odd, symmetric": ("width_multiplier=0.35", "resolution=45", "classes=7", "padding=symmetric"),
    "two rectangles": ("width_multiplier=0.35", "input.resolution=[32, 45]", "input.batch=2", "classes=7"),
    "expansion factor 1 with a shortcut": (
        "resolution=32",
        "classes=5",
        "bottlenecks=[{t: 1, c: 32, n: 2, s: 1}, {t: 6, c: 24, n: 1, s: 2}, {t: 1, c: 24, n: 1, s: 2}]",
    ),
}


@pytest.fixture(scope="module", params=TABLES, ids=str)
def graph(request: pytest.FixtureRequest) -> Graph:
    return run_pipeline(_frontend(_spec(TABLES[request.param])))


def _spec(overrides: tuple[str, ...]) -> Spec:
    return load_spec(SPECS / "mnv2_1.0.yaml", overrides)


def _frontend(spec: Spec) -> Graph:
    return build_graph(spec, seeded_weights(spec, 3))


def test_the_text_of_the_emitted_module(golden: Callable[[str, str], None]) -> None:
    """What a build keeps as ``ir/relax.py``."""
    graph = run_pipeline(_frontend(load_spec(SPECS / "mnv2_0.35.yaml", ("resolution=96",))))
    golden("mnv2_0.35_96.relax", emit(graph).script() + "\n")


def test_tvm_runs_the_emitted_module(graph: Graph) -> None:
    image = np.random.default_rng(5).standard_normal(graph.input.type.shape).astype(np.float32)
    executable = tvm.compile(relax.transform.LegalizeOps()(emit(graph)), target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arguments: list[Array] = [image, *graph.constants.values()]
    logits = machine["main"](*(tvm.runtime.tensor(value) for value in arguments)).numpy()
    np.testing.assert_allclose(logits, interpret(graph, image)["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"logits": "fc", "edge": "block1.expand.bn"}, r"block1.expand.relu6: no kernel computes ReLU6 by itself; "),
        ({"logits": "fc", "edge": "block2.project.bn"}, r"block2.add: no kernel computes Add by itself; "),
        ({"logits": "fc", "edge": "block1.dw"}, r"block1.dw.bn: no kernel computes BatchNorm by itself; "),
    ],
)
def test_an_output_between_what_one_kernel_computes_is_refused(
    outputs: dict[str, str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """By name, and TVM has nothing to say."""
    graph = replace(_frontend(load_spec(SPECS / "mnv2_0.35.yaml", ("resolution=32",))), outputs=outputs)
    with pytest.raises(GraphError, match=words):
        kernel_calls(run_pipeline(graph))
    assert capfd.readouterr().err == ""


def test_a_layer_without_a_bias_is_refused() -> None:
    spec = _spec(("resolution=32",))
    with pytest.raises(GraphError, match="stem: a Conv without a bias; fold_batchnorm gives it one"):
        emit(_frontend(spec))
    weights = seeded_weights(spec, 3)
    del weights["fc.bias"]
    graph = run_pipeline(build_graph(spec, weights))
    assert kernel_calls(graph)
    without = replace(graph, ops=(*graph.ops[:-1], replace(graph.ops[-1], bias=None)))
    with pytest.raises(GraphError, match="fc: a Dense without a bias; add_bias gives it one"):
        kernel_calls(without)


def test_every_op_is_one_call_and_its_operands_are_those_of_the_graph(graph: Graph) -> None:
    calls = kernel_calls(graph)
    assert [call.layer for call in calls] == [op.name for op in graph.ops[1:]]
    for call, op in zip(calls, graph.ops[1:], strict=True):
        assert call.outputs == (op.name,)
        assert call.inputs == op.inputs
        assert call.constants == tuple(name for name in (getattr(op, "weight", ""), getattr(op, "bias", "")) if name)
        assert call.workload.outputs == (op.type,)
        assert call.workload.inputs == tuple(graph.op(edge).type for edge in op.inputs)
        assert [type_.shape for type_ in call.workload.constants] == [graph.constants[c].shape for c in call.constants]


def test_a_pad_is_a_kernel_only_where_its_input_has_another_reader() -> None:
    paper = kernel_calls(run_pipeline(_frontend(_spec(TABLES["paper"]))))
    assert not [call for call in paper if isinstance(call.workload, Pad)]
    thin = kernel_calls(run_pipeline(_frontend(_spec(TABLES["expansion factor 1 with a shortcut"]))))
    assert [call.layer for call in thin if isinstance(call.workload, Pad)] == ["block0.dw.pad", "block1.dw.pad"]


def test_the_linear_bottlenecks_are_linear() -> None:
    calls = kernel_calls(run_pipeline(_frontend(_spec(TABLES["paper"]))))
    pointwise = {call.layer: call.workload for call in calls if isinstance(call.workload, Pointwise)}
    assert {name.rpartition(".")[2] for name, work in pointwise.items() if work.activation is None} == {"project"}
    assert sum(work.residual for work in pointwise.values()) == 10
    assert [call.layer for call in calls if isinstance(call.workload, Stem)] == ["stem"]


def test_a_graph_before_the_passes_is_refused() -> None:
    with pytest.raises(GraphError, match="fold"):
        emit(_frontend(_spec(TABLES["paper"])))


CONV = {"data_layout": "NHWC", "kernel_layout": "OIHW"}


@pytest.mark.parametrize(
    ("weight", "options", "told"),
    [
        ((8, 1, 3, 3), {"groups": 8, "dilation": (2, 2)}, "dilation [2, 2]"),
        ((8, 1, 3, 3), {"groups": 8, "strides": (2, 1)}, "strides [2, 1]"),
        ((8, 1, 5, 5), {"groups": 8}, "weight 8x1x5x5"),
        ((16, 4, 1, 1), {"groups": 2}, "groups 2"),
        ((16, 8, 1, 1), {"padding": (1, 1, 1, 1)}, "padding [1, 1, 1, 1]"),
        ((16, 8, 1, 1), {"strides": (2, 1)}, "strides [2, 1]"),
        ((16, 8, 3, 3), {"padding": (1, 1, 1, 1)}, "padding [1, 1, 1, 1]"),
        ((16, 8, 3, 1), {}, "weight 16x8x3x1"),
        ((16, 1, 3, 3), {"groups": 8}, "weight 16x1x3x3"),
        ((8, 1, 3, 3), {"groups": 8, "padding": (1, 1, 1, 1)}, "padding [1, 1, 1, 1]"),
    ],
)
def test_a_convolution_without_a_kernel_is_refused_by_name(
    weight: tuple[int, ...], options: dict[str, Any], told: str
) -> None:
    def body(x: relax.Expr, w: relax.Expr, b: relax.Expr) -> list[relax.Expr]:
        convolved = relax.op.nn.conv2d(x, w, **CONV, **options)
        return [convolved, lambda y: relax.op.add(y, b), lambda y: relax.op.clip(y, 0, 6)]

    message = _refusal((1, 12, 12, 8), weight, body)
    assert message.startswith("block7.dw: no kernel computes nn.conv2d (")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("op", "told"),
    [
        (lambda x: relax.op.multiply(x, x), "multiply"),
        (lambda x: relax.op.mean(x, axis=[1, 2], keepdims=True), "mean"),
        (lambda x: relax.op.mean(x, axis=[3]), "mean over axes"),
        (lambda x: relax.op.nn.max_pool2d(x, (3, 2), layout="NHWC"), "other windows"),
        (lambda x: relax.op.nn.max_pool2d(x, (3, 3), layout="NCHW"), "other windows"),
        (lambda x: relax.op.nn.max_pool2d(x, (3, 3), (2, 2), ceil_mode=True, layout="NHWC"), "other windows"),
        (lambda x: relax.op.nn.max_pool2d(x, (3, 3), dilation=(2, 2), layout="NHWC"), "other windows"),
        (lambda x: relax.op.nn.pad(x, [0, 0, 1, 1, 1, 1, 0, 4]), "nn.pad by"),
        (lambda x: relax.op.nn.pad(x, [0, 0, 1, 1, 1, 1, 0, 0], pad_mode="reflect"), "reflect"),
        (lambda x: relax.op.nn.pad(x, [0, 0, 1, 1, 1, 1, 0, 0], pad_value=1.0), "constant 1"),
    ],
)
def test_another_op_without_a_kernel_is_refused_by_name(op: Any, told: str) -> None:
    message = _refusal((1, 12, 12, 8), (8, 8, 1, 1), lambda x, w, b: [op(x)])
    assert message.startswith("block7.dw: no kernel computes")
    assert told in message


def test_clipping_to_something_else_than_0_and_6_is_refused() -> None:
    def body(x: relax.Expr, w: relax.Expr, b: relax.Expr) -> list[relax.Expr]:
        convolved = relax.op.nn.conv2d(x, w, **CONV)
        return [convolved, lambda y: relax.op.add(y, b), lambda y: relax.op.clip(y, -1, 6)]

    assert "clip to [-1.0, 6.0]" in _refusal((1, 4, 4, 8), (16, 8, 1, 1), body)


def test_half_precision_is_refused() -> None:
    def body(x: relax.Expr, w: relax.Expr, b: relax.Expr) -> list[relax.Expr]:
        return [relax.op.nn.conv2d(x, w, **CONV), lambda y: relax.op.add(y, b)]

    assert "float16" in _refusal((1, 4, 4, 8), (16, 8, 1, 1), body, dtype="float16")


def _refusal(x: tuple[int, ...], weight: tuple[int, ...], body: Any, *, dtype: str = "float32") -> str:
    """What is said of a module with one layer, ``block7.dw``: the first of ``body``, then what the rest makes of it."""
    shapes = {"x": x, "w": weight, "b": (weight[0],)}
    parameters = [relax.Var(name, relax.TensorType(shape, dtype)) for name, shape in shapes.items()]
    builder = relax.BlockBuilder()
    with builder.function("main", parameters):
        with builder.dataflow():
            first, *rest = body(*parameters)
            value = builder.emit(first)
            for step in rest:
                value = builder.emit(step(value))
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    with pytest.raises(GraphError) as caught:
        partition(builder.finalize(), image="input", constants=("w", "b"), edges=("block7.dw",))
    return str(caught.value)
