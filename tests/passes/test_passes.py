"""The passes: what each rewrites, what it must leave alone, and that the numbers stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from command_line import SPECS

from mnv2c.errors import GraphError
from mnv2c.ir.graph import Add, BatchNorm, Convolution, Dense, Depthwise, Graph, Op, Pad, Padding, Project, ReLU6
from mnv2c.ir.interpreter import interpret
from mnv2c.ir.verifier import constant_names, verify
from mnv2c.passes import (
    Pass,
    add_bias,
    fold_batchnorm,
    fuse_activation,
    fuse_add,
    fuse_pad,
    pad_convolution,
    run_pipeline,
)
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights.seeded import seeded_weights

TABLE = "bottlenecks=[{t: 1, c: 8, n: 1, s: 1}, {t: 2, c: 8, n: 3, s: 2}]"


def tiny() -> Graph:
    spec = load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=12", "classes=5", TABLE, "head.c=24"])
    return build_graph(spec, seeded_weights(spec, 0))


def names(graph: Graph, kind: type[Op]) -> list[str]:
    return [op.name for op in graph.ops if isinstance(op, kind)]


def cut(graph: Graph, output: str) -> Graph:
    """The graph up to the edge ``output``, with the constants that are left."""
    ops = graph.ops[: [op.name for op in graph.ops].index(output) + 1]
    read = {name for op in ops for name in constant_names(op)}
    constants = {name: value for name, value in graph.constants.items() if name in read}
    part = replace(graph, ops=ops, outputs={"y": output}, constants=constants)
    verify(part)
    return part


def with_second_reader(graph: Graph, edge: str, last: str) -> Graph:
    """The graph up to ``last``, whose output is then added to ``edge``, which so has one reader more."""
    part = cut(graph, last)
    sum_ = Add(name="sum", inputs=(last, edge), type=part.op(last).type, source=part.op(last).source)
    both = replace(part, ops=(*part.ops, sum_), outputs={"y": "sum"})
    verify(both)
    return both


def assert_same_numbers(before: Graph, after: Graph) -> None:
    verify(after)
    x = np.random.default_rng(1).uniform(-1, 1, before.input.type.shape).astype(np.float32)
    expected, measured = interpret(before, x), interpret(after, x)
    assert list(measured) == list(expected)
    for name, values in expected.items():
        assert np.ptp(values) > 1e-2, "dead: this tests nothing"
        np.testing.assert_allclose(measured[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_fold_batchnorm_leaves_weight_and_bias() -> None:
    graph = tiny()
    folded = fold_batchnorm(graph)
    assert names(folded, BatchNorm) == []
    assert folded.op("stem.relu6").inputs == ("stem",)
    assert folded.op("block2.add").inputs == ("block2.project", "block1.project")
    convolutions = names(folded, Convolution)
    assert set(folded.constants) == {
        *(f"{name}.{part}" for name in convolutions for part in ("weight", "bias")),
        "fc.weight",
        "fc.bias",
    }
    assert_same_numbers(graph, folded)


def test_fold_batchnorm_computes_in_float64() -> None:
    graph = tiny()
    gamma, beta, mean, var = (
        graph.constants[f"head.{part}"].astype(np.float64) for part in ("gamma", "beta", "mean", "var")
    )
    folded = fold_batchnorm(graph)
    scale = gamma / np.sqrt(var + 1e-3)
    weight = (graph.constants["head.weight"].astype(np.float64) * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(folded.constants["head.weight"], weight)
    np.testing.assert_array_equal(folded.constants["head.bias"], (beta - mean * scale).astype(np.float32))


def test_fold_batchnorm_refuses_what_no_float_holds() -> None:
    graph = tiny()
    large = {name: graph.constants[name] * np.float32(1e30) for name in ("stem.weight", "stem.gamma")}
    constants = {**graph.constants, **large}
    with pytest.raises(GraphError, match=r"^stem: with its BatchNorm folded into it a weight is beyond float32"):
        fold_batchnorm(replace(graph, constants=constants))


def test_fuse_activation_moves_every_relu6() -> None:
    folded = fold_batchnorm(tiny())
    fused = fuse_activation(folded)
    assert names(fused, ReLU6) == []
    activated = {op.name for op in fused.ops if isinstance(op, Convolution) and op.activation == "relu6"}
    assert activated == {name for name in names(fused, Convolution) if not name.endswith(".project")}
    assert fused.op("block0.dw").inputs == ("stem",)
    assert_same_numbers(folded, fused)


def test_fuse_activation_leaves_a_projection_linear() -> None:
    folded = cut(fold_batchnorm(tiny()), "block0.project")
    last = folded.ops[-1]
    relu6 = ReLU6(name="clipped", inputs=(last.name,), type=last.type, source=last.source)
    clipped = replace(folded, ops=(*folded.ops, relu6), outputs={"y": "clipped"})
    assert names(fuse_activation(clipped), ReLU6) == ["clipped"]
    assert_same_numbers(clipped, fuse_activation(clipped))


def test_fuse_add_gives_projections_their_residual() -> None:
    folded = fold_batchnorm(tiny())
    fused = fuse_add(folded)
    assert names(fused, Add) == []
    assert fused.op("block2.project").inputs == ("block2.dw.relu6", "block1.project")
    assert fused.op("block3.project").inputs == ("block3.dw.relu6", "block2.project")
    assert fused.op("head").inputs == ("block3.project",)
    assert_same_numbers(folded, fused)


def test_fuse_add_takes_the_residual_from_either_side() -> None:
    folded = fold_batchnorm(tiny())
    turned = replace(
        folded,
        ops=tuple(replace(op, inputs=op.inputs[::-1]) if isinstance(op, Add) else op for op in folded.ops),
    )
    fused = fuse_add(turned)
    assert fused.op("block3.project").inputs == ("block3.dw.relu6", "block2.project")
    assert_same_numbers(turned, fused)


def test_fuse_add_leaves_a_strided_shortcut_alone() -> None:
    """No kernel of that adds anything: the sum goes into the 1x1 behind the block's 3x3, on whichever side it is."""
    spec = load_spec("resnet_50", ["bottlenecks=[{residual: {c: 32, n: 1, s: 2}}]", "resolution=16", "classes=3"])
    graph = build_graph(spec, seeded_weights(spec, 0))
    add = graph.op("block0.add")
    swapped = tuple(replace(op, inputs=add.inputs[::-1]) if op is add else op for op in graph.ops)
    for ops in (graph.ops, swapped):
        fused = fuse_add(fold_batchnorm(replace(graph, ops=ops)))
        assert fused.op("block0.enlarge").inputs == ("block0.conv.relu", "block0.shortcut")
        assert len(fused.op("block0.shortcut").inputs) == 1


def test_fuse_add_of_two_projections_fuses_one() -> None:
    """Neither has another reader, and the residual is made after the projection that takes it."""
    graph = cut(fold_batchnorm(tiny()), "block0.project")
    last = graph.op("block0.project")
    assert isinstance(last, Project)
    twin = replace(last, name="twin", weight="twin.weight", bias="twin.bias")
    add = Add(name="sum", inputs=(last.name, "twin"), type=last.type, source=last.source)
    constants = {
        **graph.constants,
        "twin.weight": 2 * graph.constants["block0.project.weight"],
        "twin.bias": graph.constants["block0.project.bias"],
    }
    both = replace(graph, ops=(*graph.ops, twin, add), constants=constants, outputs={"y": "sum"})
    fused = fuse_add(both)
    assert [op.name for op in fused.ops[-2:]] == ["twin", "block0.project"]
    assert fused.outputs == {"y": "block0.project"}
    assert_same_numbers(both, fused)


def test_fuse_add_leaves_a_doubled_projection_alone() -> None:
    graph = cut(fold_batchnorm(tiny()), "block0.project")
    last = graph.ops[-1]
    add = Add(name="sum", inputs=(last.name, last.name), type=last.type, source=last.source)
    doubled = replace(graph, ops=(*graph.ops, add), outputs={"y": "sum"})
    assert names(fuse_add(doubled), Add) == ["sum"]
    assert_same_numbers(doubled, fuse_add(doubled))


@pytest.mark.parametrize(
    ("rewrite", "before", "edge", "last"),
    [
        (fold_batchnorm, (), "stem", "stem.relu6"),
        (fuse_activation, (fold_batchnorm,), "stem", "stem.relu6"),
        (fuse_add, (fold_batchnorm,), "block2.project", "block2.add"),
    ],
    ids=["fold_batchnorm", "fuse_activation", "fuse_add"],
)
def test_an_edge_with_a_second_reader_stays(rewrite: Pass, before: tuple[Pass, ...], edge: str, last: str) -> None:
    graph = with_second_reader(run_pipeline(tiny(), before), edge, last)
    after = rewrite(graph)
    assert after.op(edge) == graph.op(edge)
    assert len(after.users(edge)) == 2
    assert_same_numbers(graph, after)


def test_fold_batchnorm_leaves_a_norm_after_the_activation() -> None:
    """The norm of an activated convolution is not affine in its sums."""
    graph = tiny()
    stem = graph.op("stem")
    assert isinstance(stem, Convolution)
    activated = replace(stem, activation="relu6")
    early = replace(graph, ops=tuple(activated if op is stem else op for op in graph.ops))
    assert "stem.bn" in names(fold_batchnorm(early), BatchNorm)
    assert_same_numbers(early, fold_batchnorm(early))


def test_fuse_add_gives_a_projection_one_residual() -> None:
    fused = cut(run_pipeline(tiny()), "block2.project")
    last = fused.ops[-1]
    add = Add(name="sum", inputs=(last.name, "block1.project"), type=last.type, source=last.source)
    twice = replace(fused, ops=(*fused.ops, add), outputs={"y": "sum"})
    assert fuse_add(twice).ops == twice.ops


@pytest.mark.parametrize(
    ("rewrite", "before", "edge"),
    [
        (fold_batchnorm, (), "head"),
        (fuse_activation, (fold_batchnorm,), "head"),
        (fuse_add, (fold_batchnorm,), "block2.project"),
        (fuse_pad, (fold_batchnorm, fuse_activation, pad_convolution), "block1.expand"),
    ],
    ids=["fold_batchnorm", "fuse_activation", "fuse_add", "fuse_pad"],
)
def test_an_edge_that_is_the_output_stays(rewrite: Pass, before: tuple[Pass, ...], edge: str) -> None:
    graph = replace(run_pipeline(tiny(), before), outputs={"y": edge})
    after = rewrite(graph)
    assert after.outputs == {"y": edge}
    assert after.op(edge) == graph.op(edge)


def test_an_op_that_makes_the_output_may_be_merged() -> None:
    graph = cut(tiny(), "stem.relu6")
    merged = run_pipeline(graph)
    assert merged.outputs == {"y": "stem"}
    assert_same_numbers(graph, merged)


def test_two_outputs_pass_through_the_pipeline() -> None:
    """The map before the pool is what the caller gets, and what the pool reads."""
    graph = replace(tiny(), outputs={"logits": "fc", "features": "head.relu6"})
    final = run_pipeline(graph)
    assert final.outputs == {"logits": "fc", "features": "head"}
    assert final.op("pool").inputs == ("head",)
    assert_same_numbers(graph, final)


def test_fuse_pad_leaves_a_map_that_is_an_output() -> None:
    """The depthwise convolution reads it with a border, the caller without."""
    graph = replace(tiny(), outputs={"logits": "fc", "expanded": "block1.expand.relu6"})
    final = run_pipeline(graph)
    assert names(final, Pad) == ["block1.dw.pad"]
    assert final.outputs["expanded"] == "block1.expand"
    assert_same_numbers(graph, final)


def test_fuse_pad_leaves_a_pad_that_is_an_output() -> None:
    """No output has a border: its kernel writes what the caller gets as it is."""
    before = cut(run_pipeline(tiny(), (fold_batchnorm, fuse_activation, fuse_add, pad_convolution)), "block0.dw.pad")
    assert fuse_pad(before) == before


def test_passes_do_nothing_the_second_time_and_never_change_their_input() -> None:
    graph = tiny()
    ops, values = graph.ops, {name: value.copy() for name, value in graph.constants.items()}
    once = run_pipeline(graph)
    twice = run_pipeline(once)
    assert twice.ops == once.ops
    assert graph.ops == ops
    assert set(graph.constants) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(graph.constants[name], value)


def test_pad_convolution_moves_the_padding_into_a_pad() -> None:
    before = run_pipeline(tiny(), (fold_batchnorm, fuse_activation, fuse_add))
    after = pad_convolution(before)
    padding = {op.name: op.padding for op in before.ops if isinstance(op, Depthwise)}
    assert len(padding) == 4
    for name, zeros in padding.items():
        depthwise, pad = after.op(name), after.op(f"{name}.pad")
        assert isinstance(depthwise, Depthwise)
        assert isinstance(pad, Pad)
        assert (depthwise.inputs, depthwise.padding) == ((pad.name,), Padding())
        assert (pad.inputs, pad.border) == (before.op(name).inputs, zeros)
    assert_same_numbers(before, after)


def test_pad_convolution_leaves_a_convolution_without_padding_alone() -> None:
    padded = run_pipeline(tiny(), (fold_batchnorm, pad_convolution))
    assert pad_convolution(padded) == padded


def test_pad_convolution_leaves_the_padding_of_other_convolutions() -> None:
    before = fold_batchnorm(tiny())
    stem = before.op("stem")
    assert isinstance(stem, Convolution)
    assert stem.padding != Padding()
    after = pad_convolution(before)
    assert after.op("stem") == stem
    assert names(after, Pad) == [f"block{number}.dw.pad" for number in range(4)]


def test_fuse_pad_gives_the_convolution_a_border() -> None:
    before = run_pipeline(tiny(), (fold_batchnorm, fuse_activation, fuse_add, pad_convolution))
    after = fuse_pad(before)
    assert names(after, Pad) == []
    pads = [op for op in before.ops if isinstance(op, Pad)]
    assert [pad.inputs for pad in pads] == [("stem",), ("block1.expand",), ("block2.expand",), ("block3.expand",)]
    for pad in pads:
        (producer,), depthwise = pad.inputs, pad.name.removesuffix(".pad")
        conv = before.op(producer)
        assert isinstance(conv, Convolution)
        assert after.op(producer) == replace(conv, border=pad.border, type=pad.type)
        assert after.op(depthwise) == replace(before.op(depthwise), inputs=(producer,))
    assert_same_numbers(before, after)


def test_fuse_pad_leaves_a_map_that_has_another_reader() -> None:
    """Expansion factor 1 with a shortcut: the stem's map is padded for one reader and added by another."""
    table = "bottlenecks=[{t: 1, c: 32, n: 2, s: 1}]"
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["resolution=32", "classes=5", table])
    before = run_pipeline(build_graph(spec, seeded_weights(spec, 0)), (fold_batchnorm, fuse_activation, fuse_add))
    after = fuse_pad(pad_convolution(before))
    assert names(after, Pad) == ["block0.dw.pad", "block1.dw.pad"]
    assert_same_numbers(before, after)


def test_fuse_pad_leaves_a_projection_with_a_shortcut() -> None:
    table = "bottlenecks=[{t: 1, c: 32, n: 1, s: 1}, {t: 1, c: 16, n: 1, s: 2}]"
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["resolution=32", "classes=5", table])
    before = run_pipeline(build_graph(spec, seeded_weights(spec, 0)), (fold_batchnorm, fuse_activation, fuse_add))
    assert len(before.op("block0.project").inputs) == 2, "this tests nothing"
    after = fuse_pad(pad_convolution(before))
    assert "block1.dw.pad" in names(after, Pad)
    assert_same_numbers(before, after)


def test_fuse_pad_leaves_a_depthwise_convolution() -> None:
    graph = cut(run_pipeline(tiny(), (fold_batchnorm, fuse_activation, fuse_add)), "block0.dw")
    type_ = graph.op("block0.dw").type
    padded = replace(type_, shape=(1, type_.shape[1] + 1, type_.shape[2] + 1, type_.shape[3]))
    pad = Pad(
        name="pad", inputs=("block0.dw",), type=padded, source=graph.op("block0.dw").source, border=Padding(0, 0, 1, 1)
    )
    before = replace(graph, ops=(*graph.ops, pad), outputs={"y": "pad"})
    verify(before)
    assert fuse_pad(before) == before


def test_fuse_pad_leaves_the_input() -> None:
    """The image is no convolution's map."""
    image = tiny().input
    padded = replace(image.type, shape=(1, 14, 14, 3))
    pad = Pad(name="pad", inputs=(image.name,), type=padded, source=image.source, border=Padding(1, 1, 1, 1))
    before = replace(tiny(), ops=(image, pad), constants={}, outputs={"y": "pad"})
    verify(before)
    assert fuse_pad(before) == before


def test_fuse_pad_leaves_a_convolution_that_has_a_border() -> None:
    """Two Pads in a row: the first is fused, and stays with the convolution when the pass runs again."""
    graph = run_pipeline(tiny(), (fold_batchnorm, fuse_activation, fuse_add, pad_convolution))
    before = cut(graph, "block0.dw.pad")
    last = before.op("block0.dw.pad")
    type_ = replace(last.type, shape=(1, last.type.shape[1] + 2, last.type.shape[2] + 2, last.type.shape[3]))
    again = Pad(name="pad", inputs=(last.name,), type=type_, source=last.source, border=Padding(1, 1, 1, 1))
    twice = replace(before, ops=(*before.ops, again), outputs={"y": "pad"})
    once = fuse_pad(twice)
    assert names(once, Pad) == ["pad"]
    assert fuse_pad(once) == once
    assert_same_numbers(twice, fuse_pad(once))


def test_add_bias_gives_zeros_to_a_classifier_that_has_no_bias() -> None:
    whole = fold_batchnorm(tiny())
    fc = whole.op("fc")
    assert isinstance(fc, Dense)
    constants = {name: value for name, value in whole.constants.items() if name != fc.bias}
    bare = replace(whole, ops=(*whole.ops[:-1], replace(fc, bias=None)), constants=constants)
    verify(bare)
    after = add_bias(bare)
    assert after.ops == whole.ops
    np.testing.assert_array_equal(after.constants["fc.bias"], np.zeros(5, np.float32))
    assert_same_numbers(bare, after)


def test_add_bias_leaves_a_bias_that_is_there() -> None:
    graph = fold_batchnorm(tiny())
    after = add_bias(graph)
    assert after.ops == graph.ops
    assert all(after.constants[name] is value for name, value in graph.constants.items())


def test_add_bias_gives_zeros_to_a_convolution_that_kept_its_norm() -> None:
    graph = replace(tiny(), outputs={"y": "stem", "logits": "fc"})
    final = run_pipeline(graph)
    stem = final.op("stem")
    assert isinstance(stem, Convolution)
    assert (stem.bias, names(final, BatchNorm)) == ("stem.bias", ["stem.bn"])
    assert_same_numbers(graph, final)


def test_the_pipeline_shows_every_stage() -> None:
    stages: list[str] = []
    graph = tiny()
    final = run_pipeline(graph, observe=lambda stage, _: stages.append(stage))
    assert stages == [
        "00-frontend",
        "01-fold_batchnorm",
        "02-fuse_add",
        "03-fuse_activation",
        "04-pad_convolution",
        "05-fuse_pad",
        "06-add_bias",
    ]
    assert_same_numbers(graph, final)


def test_the_pipeline_verifies_after_each_pass() -> None:
    def drop_pool(graph: Graph) -> Graph:
        return replace(graph, ops=tuple(op for op in graph.ops if op.name != "pool"))

    with pytest.raises(GraphError, match="reads pool before it is defined"):
        run_pipeline(tiny(), (drop_pool,))
