"""The text of the graph after every pass, compared with tests/golden, and of what no golden holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from command_line import SPECS

from mnv2c.ir.graph import Conv, Graph, Op, Pad, Padding, TensorType
from mnv2c.ir.printer import format_graph
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph, parameter_shapes
from mnv2c.spec.table import Spec, load_spec


def graph_of(spec: Spec) -> Graph:
    """No values are printed, so ones do for weights."""
    return build_graph(spec, {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(spec).items()})


def test_every_stage_of_the_paper_s_network(golden: Callable[[str, str], None]) -> None:
    graph = graph_of(load_spec(SPECS / "mnv2_1.0.yaml"))
    run_pipeline(graph, observe=lambda stage, observed: golden(f"mnv2_1.0.{stage}.ir", format_graph(observed)))


def test_narrow_and_symmetric_with_overrides(golden: Callable[[str, str], None]) -> None:
    changes = ["resolution=96", "padding=symmetric", "input.mean=[123.675, 116.28, 103.53]", "bottlenecks[1].c=40"]
    final = run_pipeline(graph_of(load_spec(SPECS / "mnv2_0.35.yaml", changes)))
    golden("mnv2_0.35_symmetric_96.ir", format_graph(final))


@pytest.mark.parametrize("name", ["mnv1_0.5", "resnet_50"])
def test_the_networks_it_is_compared_with(name: str, golden: Callable[[str, str], None]) -> None:
    graph = graph_of(load_spec(name))
    golden(f"{name}.00-frontend.ir", format_graph(graph))
    golden(f"{name}.ir", format_graph(run_pipeline(graph)))


def test_zeros_print_as_top_left_bottom_right() -> None:
    graph = graph_of(load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=96"]))
    stem, zeros = graph.op("stem"), Padding(1, 2, 3, 4)
    assert isinstance(stem, Conv)
    around = replace(stem, padding=Padding(5, 6, 7, 8), activation="relu6", border=zeros)
    pad = Pad(name="stem.pad", inputs=("stem",), type=TensorType((1, 52, 54, 16)), source=stem.source, border=zeros)
    assert text_of(graph, around) == (
        "stem = Conv(input, stem.weight[16x3x3x3]) stride=2 padding=5,6,7,8 activation=relu6 border=1,2,3,4"
        " : float32[1x48x48x16]"
    )
    assert text_of(graph, pad) == "stem.pad = Pad(stem) border=1,2,3,4 : float32[1x52x54x16]"
    assert text_of(graph, replace(pad, border=Padding())) == "stem.pad = Pad(stem) : float32[1x52x54x16]"


def text_of(graph: Graph, op: Op) -> str:
    """The line of ``op``, printed alone."""
    lines = format_graph(replace(graph, ops=(op,))).splitlines()
    (line,) = (line for line in lines if line.startswith(f"  {op.name} "))
    return line.strip()
