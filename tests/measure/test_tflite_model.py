"""The LiteRT model that ``bench --against litert`` times is the reference, and XNNPACK runs all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from command_line import SPECS

from mnv2c.errors import LibraryError
from mnv2c.measure.tflite_model import write_tflite
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights

interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="needs LiteRT: pip install 'mnv2c[bench]'")


def model_of(*overrides: str) -> Any:
    spec = load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=96", *overrides])
    return export_onnx(build_graph(spec, load_weights(None, spec, 1)[0]))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_it_computes_what_the_reference_computes(padding: str) -> None:
    model = model_of(f"padding={padding}")
    x = np.random.default_rng(0).standard_normal((1, 96, 96, 3)).astype(np.float32)
    interpreter = interpreters.Interpreter(model_content=write_tflite(model), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    (logits,) = interpreter.get_output_details()
    wanted = Reference(model).run(x)["logits"]
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(interpreter.get_tensor(logits["index"]), wanted, rtol=0, atol=1e-4)


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
