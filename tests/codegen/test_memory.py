"""The memory plan: nothing that is alive is overwritten, and no byte more than the live edges need."""

from __future__ import annotations

import itertools

import pytest
from command_line import SPECS
from hypothesis import given, settings
from property.strategies import specs

from mnv2c.backends.relax import kernel_calls
from mnv2c.codegen.memory import MemoryPlan, Step, least_arena_bytes, plan_memory
from mnv2c.codegen.program import ALIGNMENT
from mnv2c.ir.graph import Graph
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.weights.seeded import seeded_weights

WIDTHS = ("0.35", "0.5", "0.75", "1.0", "1.3", "1.4")


def _graph(spec: Spec) -> Graph:
    return run_pipeline(build_graph(spec, seeded_weights(spec, 0)))


def _plan(graph: Graph) -> MemoryPlan:
    return plan_memory(*_steps(graph))


def _steps(graph: Graph) -> tuple[list[Step], set[str]]:
    return [Step.of_op(op) for op in graph.ops[1:]], {graph.input.name, *graph.outputs.values()}


def _alive(graph: Graph, edge: str) -> range:
    numbers = {op.name: number for number, op in enumerate(graph.ops)}
    return range(numbers[edge], max(numbers[user.name] for user in graph.users(edge)) + 1)


def _check(graph: Graph, plan: MemoryPlan) -> None:
    assert set(plan.offsets) == {op.name for op in graph.ops} - {graph.input.name, *graph.outputs.values()}
    for edge, offset in plan.offsets.items():
        assert offset % ALIGNMENT == 0
        assert 0 <= offset <= plan.arena_bytes - graph.op(edge).type.nbytes
    for one, other in itertools.combinations(plan.offsets, 2):
        if set(_alive(graph, one)) & set(_alive(graph, other)):
            first, second = sorted((one, other), key=lambda edge: plan.offsets[edge])
            assert plan.offsets[first] + graph.op(first).type.nbytes <= plan.offsets[second], (first, second)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("resolution", [224, 192, 160, 128, 96])
def test_the_arena_is_as_small_as_the_live_edges_allow(width: str, resolution: int) -> None:
    graph = _graph(load_spec(SPECS / f"mnv2_{width}.yaml", [f"resolution={resolution}"]))
    plan = _plan(graph)
    _check(graph, plan)
    assert plan.arena_bytes == least_arena_bytes(*_steps(graph))


def test_the_arena_of_the_paper_is_the_two_largest_edges_alive_at_once() -> None:
    """block1: its expanded map (its border counted) while the depthwise convolution reads it and writes its own."""
    graph = _graph(load_spec(SPECS / "mnv2_1.0.yaml"))
    assert _plan(graph).arena_bytes == 4 * (113 * 113 * 96 + 56 * 56 * 96)


@given(specs())
@settings(max_examples=100, deadline=None)
def test_no_two_live_edges_overlap(spec: Spec) -> None:
    graph = _graph(spec)
    _check(graph, _plan(graph))


def test_the_steps_of_kernel_calls_are_those_of_the_graph() -> None:
    graph = _graph(load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=[64, 96]", "batch=2"]))
    assert [Step.of_call(call) for call in kernel_calls(graph)] == _steps(graph)[0]
