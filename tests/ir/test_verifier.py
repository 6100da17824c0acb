"""The verifier: each invariant broken once, each violation named, all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from command_line import SPECS

from mnv2c.errors import GraphError
from mnv2c.ir.graph import (
    Array,
    BatchNorm,
    Convolution,
    Dense,
    Graph,
    Input,
    Op,
    Pad,
    Padding,
    TensorType,
)
from mnv2c.ir.verifier import verify
from mnv2c.passes import fold_batchnorm, fuse_activation, fuse_add, fuse_pad, pad_convolution
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights.seeded import seeded_weights

TABLE = "bottlenecks=[{t: 1, c: 8, n: 1, s: 1}, {t: 2, c: 8, n: 2, s: 2}]"


def tiny() -> Graph:
    spec = load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=12", "classes=5", TABLE, "head.c=24"])
    return build_graph(spec, seeded_weights(spec, 0))


def fused() -> Graph:
    return fuse_add(fuse_activation(fold_batchnorm(tiny())))


def padded() -> Graph:
    return pad_convolution(fused())


def bordered() -> Graph:
    return fuse_pad(padded())


def swap(graph: Graph, *ops: Op) -> Graph:
    """The graph with ``ops`` in place of those of the same names."""
    new = {op.name: op for op in ops}
    return replace(graph, ops=tuple(new.get(op.name, op) for op in graph.ops))


def convolution(graph: Graph, name: str) -> Convolution:
    return cast(Convolution, graph.op(name))


def pad(name: str, edge: str, type_: TensorType) -> Pad:
    return Pad(name=name, inputs=(edge,), type=type_, source=tiny().op(edge).source, border=Padding(1, 1, 1, 1))


def constants(graph: Graph, name: str, value: Array | None) -> Graph:
    """The graph with one constant changed, or gone where ``value`` is None."""
    rest = {key: array for key, array in graph.constants.items() if key != name}
    return replace(graph, constants=rest if value is None else {**rest, name: value})


def without(graph: Graph, *names: str) -> Graph:
    return replace(graph, ops=tuple(op for op in graph.ops if op.name not in names))


def typed(graph: Graph, name: str, *shape: int) -> Graph:
    return swap(graph, replace(graph.op(name), type=TensorType(shape)))


BROKEN: dict[str, tuple[Callable[[], Graph], str]] = {
    "no ops": (lambda: replace(tiny(), ops=()), "no ops"),
    "no input": (lambda: replace(tiny(), ops=tiny().ops[1:]), "the first op, stem, is no Input"),
    "two inputs": (
        lambda: replace(tiny(), ops=(tiny().ops[0], replace(tiny().ops[0], name="input2"), *tiny().ops[1:])),
        "input2: a second Input",
    ),
    "no output": (lambda: replace(tiny(), outputs={}), "no outputs"),
    "output that is not there": (lambda: replace(tiny(), outputs={"y": "tail"}), "output y: no op makes tail"),
    "output that is the input": (lambda: replace(tiny(), outputs={"y": "input"}), "output y: input is the input"),
    "output that C cannot name": (
        lambda: replace(tiny(), outputs={"head.map": "head.relu6"}),
        "output 'head.map': not a C identifier",
    ),
    "output with a digit first": (lambda: replace(tiny(), outputs={"2nd": "fc"}), "output '2nd': not a C identifier"),
    "output named as an edge": (lambda: replace(tiny(), outputs={"pool": "fc"}), "output pool: an edge has that name"),
    "one edge for two outputs": (
        lambda: replace(tiny(), outputs={"y": "fc", "z": "fc"}),
        "fc: 2 outputs are this edge",
    ),
    "output with a border": (
        lambda: replace(bordered(), outputs={"logits": "fc", "map": "stem"}),
        "output map: stem has a border, which its caller does not want",
    ),
    "op after the output": (lambda: replace(tiny(), outputs={"y": "pool"}), "fc: nobody reads it"),
    "use before definition": (
        lambda: replace(tiny(), ops=(tiny().ops[0], tiny().ops[2], tiny().ops[1], *tiny().ops[3:])),
        "stem.bn: reads stem before it is defined",
    ),
    "undefined edge": (lambda: without(tiny(), "pool"), "fc: reads pool before it is defined"),
    "own edge": (
        lambda: swap(fused(), replace(fused().op("block2.project"), inputs=("block2.dw", "block2.project"))),
        "block2.project: reads block2.project before it is defined",
    ),
    "defined twice": (lambda: replace(tiny(), ops=(*tiny().ops, tiny().ops[-1])), "fc: defined twice"),
    "dead op": (
        lambda: swap(tiny(), replace(tiny().op("block2.add"), inputs=("block1.project.bn", "block1.project.bn"))),
        "block2.project.bn: nobody reads it",
    ),
    "missing constant": (lambda: constants(tiny(), "stem.var", None), "stem.bn: constant stem.var is not there"),
    "unused constant": (
        lambda: constants(tiny(), "stray", np.ones(1, np.float32)),
        "constant stray: nobody reads it",
    ),
    "shared constant": (
        lambda: swap(tiny(), replace(convolution(tiny(), "block1.dw"), weight="block2.dw.weight")),
        "constant block2.dw.weight: read 2 times",
    ),
    "float64 constant": (
        lambda: constants(tiny(), "stem.var", np.ones(16, np.float64)),
        "constant stem.var: float64, not float32",
    ),
    "bias of another length": (
        lambda: constants(fused(), "stem.bias", np.ones(15, np.float32)),
        "stem: stem.bias is (15,), not (16,)",
    ),
    "statistics of another length": (
        lambda: constants(tiny(), "stem.mean", np.ones(15, np.float32)),
        "stem.bn: stem.mean is (15,), not (16,)",
    ),
    "weight of another rank": (
        lambda: constants(tiny(), "stem.weight", np.ones((16, 3), np.float32)),
        "stem: convolves (1, 12, 12, 3) with (16, 3), stride 2",
    ),
    "weight for other channels": (
        lambda: constants(tiny(), "head.weight", np.ones((24, 9, 1, 1), np.float32)),
        "head: head.weight is (24, 9, 1, 1), not (24, 8, 1, 1)",
    ),
    "full weight for a depthwise": (
        lambda: constants(tiny(), "block0.dw.weight", np.ones((16, 16, 3, 3), np.float32)),
        "block0.dw: block0.dw.weight is (16, 16, 3, 3), not (16, 1, 3, 3)",
    ),
    "depthwise kernel of five": (
        lambda: constants(tiny(), "block0.dw.weight", np.ones((16, 1, 5, 5), np.float32)),
        "block0.dw: block0.dw.weight is (16, 1, 5, 5), not (16, 1, 3, 3)",
    ),
    "dense weight": (
        lambda: constants(tiny(), "fc.weight", np.ones((24, 5), np.float32)),
        "fc: weight is (24, 5), not (5, 24)",
    ),
    "dense bias": (lambda: constants(tiny(), "fc.bias", np.ones(6, np.float32)), "fc: bias is (6,), not (5,)"),
    "stride": (
        lambda: swap(tiny(), replace(convolution(tiny(), "stem"), stride=1)),
        "stem: output is (1, 6, 6, 16), not (1, 11, 11, 16)",
    ),
    "stride zero": (lambda: swap(tiny(), replace(convolution(tiny(), "stem"), stride=0)), "stem: stride 0"),
    "padding": (
        lambda: swap(tiny(), replace(convolution(tiny(), "block0.dw"), padding=Padding(1, 1, 1, 0))),
        "block0.dw: output is (1, 6, 6, 16), not (1, 6, 5, 16)",
    ),
    "negative padding": (
        lambda: swap(tiny(), replace(convolution(tiny(), "stem"), padding=Padding(-1, 0, 2, 1))),
        "stem: negative padding -1,0,2,1",
    ),
    "negative border": (
        lambda: swap(tiny(), replace(convolution(tiny(), "stem"), border=Padding(0, 0, 0, -1))),
        "stem: negative border 0,0,0,-1",
    ),
    "border not in the type": (
        lambda: swap(tiny(), replace(convolution(tiny(), "block0.dw"), border=Padding(1, 0, 0, 0))),
        "block0.dw: output is (1, 6, 6, 16), not (1, 7, 6, 16)",
    ),
    "type without its border": (
        lambda: typed(bordered(), "stem", 1, 6, 6, 16),
        "stem: output is (1, 6, 6, 16), not (1, 8, 8, 16)",
    ),
    "border around a shortcut": (
        lambda: swap(bordered(), replace(convolution(bordered(), "block2.project"), border=Padding(1, 1, 1, 1))),
        "block2.project: a border around a map with a shortcut",
    ),
    "negative border of a pad": (
        lambda: swap(padded(), replace(cast(Pad, padded().op("block0.dw.pad")), border=Padding(1, -2, 1, 1))),
        "block0.dw.pad: negative border 1,-2,1,1",
    ),
    "pad type": (
        lambda: swap(padded(), replace(cast(Pad, padded().op("block0.dw.pad")), border=Padding(1, 2, 3, 4))),
        "block0.dw.pad: output is (1, 8, 8, 16), not (1, 10, 12, 16)",
    ),
    "pad element type": (
        lambda: swap(padded(), replace(padded().op("block0.dw.pad"), type=TensorType((1, 8, 8, 16), "int8"))),
        "block0.dw.pad: int8 from float32",
    ),
    "pad of two edges": (
        lambda: swap(padded(), replace(padded().op("block0.dw.pad"), inputs=("stem", "stem"))),
        "block0.dw.pad: 2 inputs, not 1",
    ),
    "pad of a vector": (
        lambda: swap(tiny(), pad("fc", "pool", TensorType((1, 24)))),
        "fc: pads (1, 24), which has no height and width",
    ),
    "batchnorm type": (
        lambda: typed(tiny(), "stem.bn", 1, 6, 6, 8),
        "stem.bn: output is (1, 6, 6, 8), not (1, 6, 6, 16)",
    ),
    "relu6 type": (
        lambda: typed(tiny(), "head.relu6", 1, 3, 3, 8),
        "head.relu6: output is (1, 3, 3, 8), not (1, 3, 3, 24)",
    ),
    "add type": (
        lambda: typed(tiny(), "block2.add", 1, 3, 3, 4),
        "block2.add: output is (1, 3, 3, 4), not (1, 3, 3, 8)",
    ),
    "pool type": (lambda: typed(tiny(), "pool", 1, 8), "pool: output is (1, 8), not (1, 24)"),
    "dense type": (lambda: typed(tiny(), "fc", 2, 5), "fc: output is (2, 5), not (1, 5)"),
    "empty shape": (lambda: typed(tiny(), "pool", 0, 24), "pool: shape (0, 24) is empty"),
    "element type": (
        lambda: swap(tiny(), replace(tiny().op("pool"), type=TensorType((1, 24), "int8"))),
        "pool: int8 from float32",
    ),
    "epsilon": (
        lambda: swap(tiny(), replace(cast(BatchNorm, tiny().op("stem.bn")), epsilon=0.0)),
        "stem.bn: epsilon 0.0",
    ),
    "activated bottleneck": (
        lambda: swap(tiny(), replace(convolution(tiny(), "block0.project"), activation="relu6")),
        "block0.project: a Project has no activation",
    ),
    "residual of another type": (
        lambda: swap(fused(), replace(fused().op("block2.project"), inputs=("block2.dw", "block0.project"))),
        "block2.project: residual block0.project is (1, 6, 6, 8), the output (1, 3, 3, 8)",
    ),
    "residual for a depthwise": (
        lambda: swap(fused(), replace(fused().op("block2.dw"), inputs=("block2.dw.pad", "block2.expand"))),
        "block2.dw: 2 inputs, not 1",
    ),
    "one operand": (
        lambda: swap(tiny(), replace(tiny().op("block2.add"), inputs=("block2.project.bn",))),
        "block2.add: 1 inputs, not 2",
    ),
    "dense of nothing": (
        lambda: swap(tiny(), replace(cast(Dense, tiny().op("fc")), inputs=())),
        "fc: 0 inputs, not 1",
    ),
    "one mean": (
        lambda: swap(tiny(), replace(cast(Input, tiny().ops[0]), mean=(1.0,))),
        "input: 1 means and 3 scales for 3 channels",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_invariant_is_named(name: str) -> None:
    broken, message = BROKEN[name]
    with pytest.raises(GraphError) as caught:
        verify(broken())
    assert f"mnv2_0.35: {message}" in str(caught.value)


@pytest.mark.parametrize(
    "graph",
    [tiny(), fold_batchnorm(tiny()), fused(), padded(), bordered()],
    ids=["frontend", "folded", "fused", "padded", "bordered"],
)
def test_a_valid_graph_passes(graph: Graph) -> None:
    verify(graph)


def test_a_classifier_may_have_no_bias() -> None:
    verify(constants(swap(tiny(), replace(cast(Dense, tiny().op("fc")), bias=None)), "fc.bias", None))


def test_an_output_may_be_read_too() -> None:
    verify(replace(tiny(), outputs={"features": "head.relu6", "logits": "fc"}))


def test_all_violations_are_named_at_once() -> None:
    graph = constants(constants(tiny(), "stem.var", None), "stray", np.ones(1, np.float32))
    with pytest.raises(GraphError) as caught:
        verify(replace(typed(graph, "pool", 1, 8), outputs={"y": "pool"}))
    assert str(caught.value).splitlines() == [
        "mnv2_0.35: fc: nobody reads it",
        "mnv2_0.35: constant stray: nobody reads it",
        "mnv2_0.35: stem.bn: constant stem.var is not there",
        "mnv2_0.35: pool: output is (1, 8), not (1, 24)",
        "mnv2_0.35: fc: weight is (5, 24), not (5, 8)",
    ]


def test_a_tensor_that_32_bits_cannot_count_is_refused() -> None:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["batch=1024", "resolution=2048"])
    with pytest.raises(GraphError, match=r"stem: shape \(1024, 1024, 1024, 32\) has 34359738368 elements"):
        build_graph(spec, seeded_weights(spec, 0))
