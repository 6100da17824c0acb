"""The Relax backend, run by TVM itself: the emitted module and the legalised one compute what the interpreter does."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from command_line import SPECS
from tvm import relax

from mnv2c.backends.relax.emit import emit, variable
from mnv2c.backends.relax.legalize import Legalized, legalize
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Array, Dense, Graph
from mnv2c.ir.interpreter import interpret
from mnv2c.kernels import Depthwise, Pad, Pointwise, Stem
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.weights.seeded import seeded_weights

TABLES = {
    "paper": ("width_multiplier=0.35", "resolution=32", "classes=10"),
    "odd, symmetric": ("width_multiplier=0.35", "resolution=45", "classes=7", "padding=symmetric"),
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


def _image(graph: Graph) -> Array:
    return np.random.default_rng(5).standard_normal(graph.input.type.shape).astype(np.float32)


def _run(module: tvm.IRModule, arguments: list[Array]) -> Array:
    executable = tvm.compile(relax.transform.LegalizeOps()(module), target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result: Array = machine["main"](*(tvm.runtime.tensor(value) for value in arguments)).numpy()
    return result


def test_tvm_runs_the_emitted_module(graph: Graph) -> None:
    image = _image(graph)
    logits = _run(emit(graph), [image, *graph.constants.values()])
    np.testing.assert_allclose(logits, interpret(graph, image)["logits"], rtol=0, atol=1e-4)


def test_tvm_runs_the_legalised_module(graph: Graph) -> None:
    legalized = legalize(emit(graph))
    image = _image(graph)
    logits = _run(legalized.module, [image, *_packed(graph, legalized)])
    np.testing.assert_allclose(logits, interpret(graph, image)["logits"], rtol=0, atol=1e-4)


def _packed(graph: Graph, legalized: Legalized) -> list[Array]:
    """The constants in the order of ``main``'s parameters, weights as the kernels want them."""
    (block,) = legalized.module["main"].body.blocks
    packed = {variable(name): value for name, value in graph.constants.items()}
    for binding in block.bindings[:-1]:
        workload = legalized.workloads[binding.value.args[0].name_hint]
        operands = list(binding.value.args[1])
        if len(operands) > 1:
            packed[operands[1].name] = workload.pack(packed[operands[1].name])
    return [packed[parameter.name] for parameter in legalized.module["main"].params[1:]]


def test_only_our_kernels_are_called() -> None:
    graph = run_pipeline(_frontend(_spec(TABLES["paper"])))
    legalized = legalize(emit(graph))
    (block,) = legalized.module["main"].body.blocks
    assert {binding.value.op.name for binding in block.bindings[:-1]} == {"relax.call_tir"}
    assert [binding.var.name for binding in block.bindings[:-1]] == [variable(op.name) for op in graph.ops[1:]]


def test_a_pad_is_a_kernel_only_where_its_input_has_another_reader() -> None:
    paper = legalize(emit(run_pipeline(_frontend(_spec(TABLES["paper"])))))
    assert not [workload for workload in paper.workloads.values() if isinstance(workload, Pad)]
    thin = legalize(emit(run_pipeline(_frontend(_spec(TABLES["expansion factor 1 with a shortcut"])))))
    assert [workload for workload in thin.workloads.values() if isinstance(workload, Pad)]


def test_the_families_of_the_paper() -> None:
    workloads = legalize(emit(run_pipeline(_frontend(_spec(TABLES["paper"]))))).workloads.values()
    assert sum(isinstance(workload, Stem) for workload in workloads) == 1
    assert all(
        workload.relu6 != workload.residual
        for workload in workloads
        if isinstance(workload, Pointwise) and workload.residual
    )
    assert all(
        workload.rows >= (workload.height - 1) * workload.stride + 3
        for workload in workloads
        if isinstance(workload, Depthwise)
    )


def test_a_graph_before_the_passes_is_refused() -> None:
    with pytest.raises(GraphError, match="fold"):
        emit(_frontend(_spec(TABLES["paper"])))


def test_a_computation_without_a_kernel_is_refused() -> None:
    x, y = (relax.Var(name, relax.TensorType((1, 4, 4, 8), "float32")) for name in "xy")
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y]):
        with builder.dataflow():
            total = builder.emit(relax.op.multiply(x, y), "total")
            output = builder.emit_output(total)
        builder.emit_func_output(output)
    with pytest.raises(GraphError, match=r"total: no kernel computes multiply"):
        legalize(builder.finalize())


def test_the_classifier_is_last(graph: Graph) -> None:
    assert isinstance(graph.ops[-1], Dense)
