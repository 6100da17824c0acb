"""What ``show`` counts agrees with what the paper, its repository and torchvision publish."""

from __future__ import annotations

import json

import pytest
from command_line import SPECS
from folded_weights import fold
from published import COUNTS, OTHERS, PARAMETERS, PARAMETERS_OF_RESNET_50

from mnv2c.ir.graph import Graph
from mnv2c.measure.report import format_table, summarize, to_json
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights


def graph_of(width: str, *overrides: str) -> Graph:
    spec = load_spec(SPECS / f"mnv2_{width}.yaml", overrides)
    return build_graph(spec, load_weights(None, spec, 0)[0])


@pytest.mark.parametrize(("width", "resolution", "macs", "weights"), COUNTS)
def test_published_counts(width: str, resolution: int, macs: int, weights: float) -> None:
    """Published MACs are whole millions rounded down (1.0 at 224 has 300.78), weights are rounded to nearest."""
    totals = summarize(graph_of(width, f"resolution={resolution}", "classes=1001")).totals
    assert totals.macs // 1_000_000 == macs
    assert round(totals.weights / 1e6, 2) == weights


@pytest.mark.parametrize(("name", "macs", "parameters"), OTHERS)
def test_published_counts_of_other_networks(name: str, macs: int, parameters: float) -> None:
    spec = load_spec(name)
    totals = summarize(build_graph(spec, load_weights(None, spec, 0)[0])).totals
    assert abs(totals.macs / 1e6 - macs) < 1
    assert round(totals.parameters / 1e6, 1) == parameters
    assert name != "resnet_50" or totals.parameters == PARAMETERS_OF_RESNET_50


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_parameters_of_torchvision(padding: str) -> None:
    totals = summarize(graph_of("1.0", "classes=1000", f"padding={padding}")).totals
    assert totals.parameters == PARAMETERS
    assert totals.macs == 300_774_272


def test_layers() -> None:
    summary = summarize(graph_of("1.0"))
    layers = {layer.name: layer for layer in summary.layers}
    assert len(layers) == 1 + 16 * 3 + 2 + 10 + 1 + 1 + 1  # stem, blocks, shortcuts, head, pool, fc
    stem, expand, dw = layers["stem"], layers["block3.expand"], layers["block3.dw"]
    assert (stem.op, stem.shape, stem.weights, stem.macs) == ("Conv", (1, 112, 112, 32), 864, 864 * 112 * 112)
    assert (expand.op, expand.weights, expand.parameters) == ("Expand", 24 * 144, 24 * 144 + 2 * 144)
    assert (dw.op, dw.shape, dw.macs) == ("Depthwise", (1, 28, 28, 144), 9 * 144 * 28 * 28)
    assert dw.activation_bytes == 28 * 28 * 144 * 4
    assert (dw.row, dw.repeat) == ("{t: 6, c: 32, n: 3, s: 2}", 0)
    assert layers["block4.add"].repeat == 1
    assert layers["block4.add"].parameters == 0
    assert (layers["fc"].weights, layers["fc"].parameters) == (1_280_000, 1_281_000)
    assert (layers["pool"].shape, layers["pool"].macs) == ((1, 1280), 0)


def test_a_batch_multiplies_the_work_and_a_rectangle_is_its_sides() -> None:
    one, four = (summarize(graph_of("0.35", "resolution=[64, 96]", f"input.batch={batch}")) for batch in (1, 4))
    assert four.totals.macs == 4 * one.totals.macs
    assert (four.totals.weights, four.totals.parameters) == (one.totals.weights, one.totals.parameters)
    stem, fc = four.layers[0], four.layers[-1]
    assert (stem.shape, stem.macs) == ((4, 32, 48, 16), 4 * 32 * 48 * stem.weights)
    assert (fc.shape, fc.macs, fc.activation_bytes) == ((4, 1000), 4 * 1_280_000, 4 * 4 * 1000)


def test_a_folded_layer_counts_its_bias() -> None:
    spec = load_spec(SPECS / "mnv2_0.35.yaml")
    weights = fold(load_weights(None, spec, 0)[0], spec.batchnorm_epsilon)
    del weights["fc.bias"]
    layers = {layer.name: layer for layer in summarize(build_graph(spec, weights)).layers}
    assert (layers["stem"].weights, layers["stem"].parameters) == (16 * 27, 16 * 27 + 16)
    assert layers["fc"].parameters == layers["fc"].weights == 1_280_000


def test_json_is_what_other_programs_read() -> None:
    graph = graph_of("0.35")
    read = json.loads(json.dumps(to_json(summarize(graph, arena_bytes=4096))))
    assert read["totals"]["arena_bytes"] == 4096
    for count in ("parameters", "weights", "macs"):
        assert read["totals"][count] == sum(layer[count] for layer in read["layers"]) > 1e6
    assert read["layers"][0]["shape"] == [1, 112, 112, 16]
    assert to_json(summarize(graph))["totals"]["arena_bytes"] is None


def test_a_column_for_bands() -> None:
    summary = summarize(graph_of("0.35"), bands={"block1.expand": 1, "block1.dw": 14})
    lines = format_table(summary).splitlines()
    assert lines[2].split()[6:8] == ["bytes", "band"]
    found = {line.split()[0]: line.split()[7] for line in lines if line.startswith(("block1.expand", "block1.dw"))}
    assert found == {"block1.expand": "1", "block1.dw": "14"}
    assert [layer["band"] for layer in to_json(summary)["layers"][:6]] == [None, None, None, 1, 14, None]
    assert "band" not in format_table(summarize(graph_of("0.35")))


def test_table() -> None:
    lines = format_table(summarize(graph_of("1.0", "classes=1001"), arena_bytes=7_225_344)).splitlines()
    assert lines[0] == "mnv2_1.0: 3.47 M weights, 300.8 M multiply-adds, arena 7,225,344 bytes"
    assert lines[4].split() == [
        "stem", "Conv", "1x112x112x32", "928", "864", "10,838,016", "1,605,632", "stem:", "{c:", "32,", "s:", "2}",
    ]  # fmt: skip
    assert lines[-1].split() == ["total", "3,506,153", "3,471,040", "300,775,552"]
    beside = [line for line in lines if "{t: 6, c: 24, n: 2, s: 2}" in line]
    assert [line.split()[0] for line in beside] == ["block1.expand", "block2.expand"]
    assert "arena" not in format_table(summarize(graph_of("0.35")))
