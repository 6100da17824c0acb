"""The frontend: names, shapes, padding, shortcuts, and the weights it asks for."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import SPECS
from published import PARAMETERS

from mnv2c.errors import GraphError
from mnv2c.ir.graph import Add, Array, Convolution, Expand, Graph, Padding
from mnv2c.spec.frontend import build_graph, parameter_shapes
from mnv2c.spec.table import Spec, load_spec

PAPER = SPECS / "mnv2_1.0.yaml"


def ones(spec: Spec) -> dict[str, Array]:
    return {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(spec).items()}


def graph_of(*overrides: str) -> Graph:
    spec = load_spec(PAPER, overrides)
    return build_graph(spec, ones(spec))


def test_edges_are_named_as_the_design_says() -> None:
    names = [op.name for op in graph_of().ops]
    assert names[:9] == [
        "input",
        "stem",
        "stem.bn",
        "stem.relu6",
        "block0.dw",
        "block0.dw.bn",
        "block0.dw.relu6",
        "block0.project",
        "block0.project.bn",
    ]
    assert [name for name in names if name.startswith("block2.")] == [
        "block2.expand",
        "block2.expand.bn",
        "block2.expand.relu6",
        "block2.dw",
        "block2.dw.bn",
        "block2.dw.relu6",
        "block2.project",
        "block2.project.bn",
        "block2.add",
    ]
    assert names[-5:] == ["head", "head.bn", "head.relu6", "pool", "fc"]


def test_shortcuts_where_stride_is_one_and_channels_stay() -> None:
    adds = [op for op in graph_of().ops if isinstance(op, Add)]
    assert [op.name for op in adds] == [f"block{i}.add" for i in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)]
    assert adds[1].inputs == ("block4.project.bn", "block3.project.bn")
    assert adds[2].inputs == ("block5.project.bn", "block4.add")


def test_a_strided_block_has_no_shortcut_even_on_a_map_of_one_pixel() -> None:
    """Where stride 2 leaves one pixel of one, types agree; the block is still no residual (section 3.3)."""
    table = "[{t: 2, c: 16, n: 1, s: 2}, {t: 2, c: 16, n: 1, s: 2}, {t: 2, c: 16, n: 1, s: 1}]"
    spec = load_spec(PAPER, [f"bottlenecks={table}", "resolution=8"])
    small = Spec(**{**vars(spec), "input": type(spec.input)(height=1, width=1)})
    adds = [op.name for op in build_graph(small, ones(small)).ops if isinstance(op, Add)]
    assert adds == ["block2.add"]


def test_shapes_at_224() -> None:
    graph = graph_of("classes=1001")
    shapes = {op.name: op.type.shape for op in graph.ops}
    assert shapes["input"] == (1, 224, 224, 3)
    assert shapes["stem"] == (1, 112, 112, 32)
    assert shapes["block1.expand"] == (1, 112, 112, 96)
    assert shapes["block1.dw"] == (1, 56, 56, 96)
    assert shapes["block16.project"] == (1, 7, 7, 320)
    assert shapes["pool"] == (1, 1280)
    assert shapes["fc"] == (1, 1001)
    assert graph.outputs == {"logits": "fc"}


def test_shapes_of_a_batch_of_rectangles() -> None:
    graph = graph_of("input.batch=4", "resolution=[192, 256]")
    shapes = {op.name: op.type.shape for op in graph.ops}
    assert shapes["input"] == (4, 192, 256, 3)
    assert shapes["stem"] == (4, 96, 128, 32)
    assert shapes["block16.project"] == (4, 6, 8, 320)
    assert (shapes["pool"], shapes["fc"]) == ((4, 1280), (4, 1000))
    assert graph.input.source.row == "input: {batch: 4, resolution: [192, 256], mean: 127.5, scale: 127.5}"


def test_each_side_has_its_own_padding() -> None:
    stem = graph_of("resolution=[224, 97]").op("stem")
    assert isinstance(stem, Convolution)
    assert (stem.padding, stem.type.shape) == (Padding(0, 1, 1, 1), (1, 112, 49, 32))


@pytest.mark.parametrize(
    ("resolution", "convention", "padding", "extent"),
    [
        (224, "same", Padding(0, 0, 1, 1), 112),
        (97, "same", Padding(1, 1, 1, 1), 49),
        (224, "symmetric", Padding(1, 1, 1, 1), 112),
        (97, "symmetric", Padding(1, 1, 1, 1), 49),
    ],
)
def test_padding_of_the_stem(resolution: int, convention: str, padding: Padding, extent: int) -> None:
    stem = graph_of(f"resolution={resolution}", f"padding={convention}").op("stem")
    assert isinstance(stem, Convolution)
    assert (stem.padding, stem.type.shape[1]) == (padding, extent)


def test_a_kernel_of_one_pads_nothing_and_stride_one_pads_both_sides() -> None:
    for convention in ("same", "symmetric"):
        graph = graph_of(f"padding={convention}")
        paddings = {op.name: op.padding for op in graph.ops if isinstance(op, Convolution)}
        assert paddings["block1.expand"] == paddings["head"] == Padding()
        assert paddings["block2.dw"] == Padding(1, 1, 1, 1)


def test_weights_are_those_of_the_trained_network() -> None:
    shapes = parameter_shapes(load_spec(PAPER))
    assert shapes["stem.weight"] == (32, 3, 3, 3)
    assert shapes["block0.dw.weight"] == (32, 1, 3, 3)
    assert shapes["block3.expand.weight"] == (144, 24, 1, 1)
    assert shapes["block3.project.var"] == (32,)
    assert shapes["head.weight"] == (1280, 320, 1, 1)
    assert (shapes["fc.weight"], shapes["fc.bias"]) == ((1000, 1280), (1000,))
    assert "block0.expand.weight" not in shapes
    trained = sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith((".mean", ".var")))
    assert trained == PARAMETERS


def test_an_expansion_factor_of_one_expands_nothing() -> None:
    graph = graph_of("bottlenecks[1].t=1")
    assert not [
        op.name for op in graph.ops if isinstance(op, Expand) and op.name.startswith(("block0", "block1.", "block2."))
    ]
    assert graph.op("block1.dw").type.shape[3] == 16


def test_ops_carry_their_row() -> None:
    spec = load_spec(PAPER)
    graph = build_graph(spec, ones(spec))
    source = graph.op("block2.dw.relu6").source
    assert (source.row, source.repeat, source.line) == ("{t: 6, c: 24, n: 2, s: 2}", 1, spec.bottlenecks[1].source.line)
    assert graph.op("head.bn").source.row == "head: {c: 1280}"
    assert graph.op("fc").source.row == "classes: 1000"
    assert graph.op("input").source.row == "input: {batch: 1, resolution: 224, mean: 127.5, scale: 127.5}"


def test_weights_that_do_not_fit_are_all_named() -> None:
    spec = load_spec(PAPER)
    weights = ones(spec)
    del weights["stem.beta"]
    weights["block3.dw.weight"] = np.ones((144, 3, 3, 1), np.float32)
    weights["fc.bias"] = np.ones(999, np.float32)
    with pytest.raises(GraphError, match=r"(?s)stem\.beta is not there.*block3\.dw\.weight is .*bias is \(999,\)"):
        build_graph(spec, weights)
