"""Which blocks run in bands, what that does to the arena, and what the driver says of it. How they run is elsewhere."""

from __future__ import annotations

import dataclasses

import pytest
from command_line import SPECS

from mnv2c.codegen.bands import Block, blocks_in_bands, calls_in_bands, steps_in_bands
from mnv2c.codegen.memory import Step, least_arena_bytes, plan_memory
from mnv2c.driver import kernel_calls, workloads
from mnv2c.ir.graph import Graph
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.targets import ARM, ARMV7, PI3, PI4, PI5, TARGETS, X86, Bands, in_bands
from mnv2c.weights.seeded import seeded_weights

MB = 1 << 20


def graph_of(width: str, *changes: str) -> Graph:
    spec = load_spec(SPECS / f"mnv2_{width}.yaml", changes)
    return run_pipeline(build_graph(spec, seeded_weights(spec, 0)))


def arena(graph: Graph, bands: Bands, l2_bytes: int = MB) -> int:
    steps = {op.name: Step.of_op(op) for op in graph.ops[1:]}
    planned = steps_in_bands(steps, blocks_in_bands(graph, bands, l2_bytes))
    callers = {graph.input.name, *graph.outputs.values()}
    found = plan_memory(planned, callers).arena_bytes
    assert found <= 1.08 * least_arena_bytes(planned, callers)
    return found


def test_by_themselves_those_that_no_l2_holds() -> None:
    """Blocks 0 to 3 of the paper's network where the L2 is 1 MB, 0 to 6 where it is half of that."""
    blocks = blocks_in_bands(graph_of("1.0"), "auto", MB)
    assert blocks == (
        Block(("stem", "block0.dw", "block0.project"), 1),
        *(Block((f"block{n}.expand", f"block{n}.dw", f"block{n}.project"), 1) for n in (1, 2, 3)),
    )
    assert len(blocks_in_bands(graph_of("1.0"), "auto", MB // 2)) == 7
    assert blocks_in_bands(graph_of("1.0"), "off", 0) == ()
    assert blocks_in_bands(graph_of("1.0", "resolution=96"), "auto", MB) == ()
    assert len(blocks_in_bands(graph_of("1.0", "resolution=96", "batch=2"), "auto", MB)) == 1, "a batch is one map"


def test_boards_run_in_bands_where_nothing_is_said() -> None:
    assert {target.name for target in TARGETS if target.bands == "auto"} == {
        "arm", "pi3", "pizero2", "pi4", "pi5", "armv7",
    }  # fmt: skip
    assert in_bands(X86, None) == X86
    assert in_bands(X86, 4).bands == 4
    assert in_bands(ARM, "off").bands == "off"
    assert PI4.l2_bytes == MB
    assert {target.l2_bytes for target in (ARM, PI3, PI5, ARMV7)} == {MB // 2}, "of arm's cores, what each has"


@pytest.mark.parametrize(("rows", "found"), [(1, {1}), (4, {1, 4, 2}), (7, {7}), (1000, {112, 56, 28, 14, 7})])
def test_a_number_of_rows_is_for_every_block(rows: int, found: set[int]) -> None:
    """Or the largest below it that divides the rows, so that all bands are alike."""
    blocks = blocks_in_bands(graph_of("1.0"), rows, MB)
    assert len(blocks) == 17
    assert {block.rows for block in blocks} == found


def test_an_arena_without_expanded_maps() -> None:
    """The paper's network at 224: what block 1 reads and what it writes, and not 6.1 MB."""
    graph = graph_of("1.0")
    assert arena(graph, "off") == 4 * (113 * 113 * 96 + 56 * 56 * 96)
    assert arena(graph, "auto") < 1.5e6
    assert arena(graph, 1) == 4 * (112 * 112 * 16 + 56 * 56 * 24)


@pytest.mark.parametrize("width", ["0.35", "0.5", "0.75", "1.3", "1.4"])
def test_arenas_of_other_widths(width: str) -> None:
    graph = graph_of(width)
    assert arena(graph, "auto") < arena(graph, "off") * 0.6
    assert arena(graph, 1) < arena(graph, "off") / 4


def test_what_somebody_else_reads_exists() -> None:
    graph = graph_of("0.35", "resolution=96")
    edge = "block3.expand"
    kept = dataclasses.replace(graph, outputs={**graph.outputs, "edge": edge})
    by_dw = {block.layers[-2]: block.layers for block in blocks_in_bands(kept, 1, MB)}
    assert by_dw["block3.dw"] == ("block3.dw", "block3.project")
    assert by_dw["block4.dw"] == ("block4.expand", "block4.dw", "block4.project")
    kept = dataclasses.replace(graph, outputs={**graph.outputs, "edge": "block3.dw"})
    assert "block3.dw" not in {block.layers[-2] for block in blocks_in_bands(kept, 1, MB)}


def test_without_an_expansion_the_rest_of_the_block() -> None:
    """Where the projection is to write zeros around its map, as block 0's is here, the block stays whole."""
    layers = [block.layers for block in blocks_in_bands(graph_of("0.35", "bottlenecks[1].t=1"), 1, MB)]
    assert layers[:3] == [
        ("block1.dw", "block1.project"),
        ("block2.dw", "block2.project"),
        ("block3.expand", "block3.dw", "block3.project"),
    ]


def test_workloads_are_those_of_bands_where_the_target_has_them() -> None:
    """Also for tuning: a build takes them."""
    spec = load_spec(SPECS / "mnv2_1.0.yaml")
    tuned = dict(workloads(spec, in_bands(X86, "auto")))
    graph = graph_of("1.0")
    blocks = blocks_in_bands(graph, "auto", X86.l2_bytes)
    calls = calls_in_bands(kernel_calls(graph, "cpu"), blocks)
    assert [call.workload for call in calls] == [tuned[call.layer] for call in calls]
    names = [tuned[layer].name for block in blocks[:2] for layer in block.layers]
    assert names == [
        "stem_112x112_32_stride2_from_224x224_band1_relu6_padding0_0_1_1",
        "depthwise_112x112_32_stride1_from_3x114_band1_relu6_ring",
        "pointwise_112x112_32_16_band1",
        "pointwise_112x112_16_96_band1_relu6",
        "depthwise_56x56_96_stride2_from_3x113_band1_relu6_ring",
        "pointwise_56x56_96_24_band1",
    ]
