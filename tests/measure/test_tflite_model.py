"""The LiteRT model that ``bench --against litert`` times is the reference, and XNNPACK runs all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from command_line import SPECS

from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Graph
from mnv2c.measure.tflite_model import write_tflite
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights

interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="needs LiteRT: pip install 'mnv2c[bench]'")


def graph_of(*overrides: str) -> Graph:
    spec = load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=96", *overrides])
    return build_graph(spec, load_weights(None, spec, 1)[0])


def model_of(*overrides: str) -> Any:
    return export_onnx(graph_of(*overrides))


def check(model: Any) -> None:
    shape = [extent.dim_value for extent in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    interpreter = interpreters.Interpreter(model_content=write_tflite(model), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    details = interpreter.get_output_details()
    for output, wanted in zip(details, Reference(model).run(x).values(), strict=True):
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(interpreter.get_tensor(output["index"]), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_it_computes_what_the_reference_computes(padding: str) -> None:
    check(model_of(f"padding={padding}"))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_a_batch_of_rectangles(padding: str) -> None:
    check(model_of(f"padding={padding}", "input.batch=3", "input.resolution=[64, 96]"))


def test_several_outputs_in_their_order() -> None:
    graph = graph_of()
    check(export_onnx(replace(graph, outputs={"map": "head.relu6", "bottleneck": "block4.add", **graph.outputs})))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_xnnpack_runs_every_operator(padding: str) -> None:
    interpreter = interpreters.Interpreter(model_content=write_tflite(model_of(f"padding={padding}")))
    interpreter.allocate_tensors()
    operators = interpreter._get_ops_details()
    (delegate,) = [one for one in operators if one["op_name"] == "DELEGATE"]
    ours = [one for one in operators if one["op_name"] != "DELEGATE"]
    assert set(delegate["outputs"]) == set(ours[-1]["outputs"]) == {interpreter.get_output_details()[0]["index"]}
    read, made = ({index for one in ours for index in one[side]} for side in ("inputs", "outputs"))
    assert set(delegate["inputs"]) == read - made


def test_only_symmetric_padding_needs_operators_of_its_own() -> None:
    kinds = {}
    for padding in ("same", "symmetric"):
        interpreter = interpreters.Interpreter(model_content=write_tflite(model_of(f"padding={padding}")))
        kinds[padding] = [one["op_name"] for one in interpreter._get_ops_details()]
    assert "PAD" not in kinds["same"]
    assert kinds["symmetric"].count("PAD") == 5  # where the stride is 2


def test_what_has_no_translation_is_refused() -> None:
    model = model_of()
    model.graph.node[-2].op_type = "MatMul"
    with pytest.raises(LibraryError, match="fc, of kind MatMul"):
        write_tflite(model)
