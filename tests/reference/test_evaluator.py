"""The reference, run: what the engine says of a model that is none of ours."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from mini_spec import MINI

from mnv2c.errors import LibraryError
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import read_spec
from mnv2c.weights.seeded import seeded_weights


def test_a_model_that_cannot_be_loaded_is_told_and_nothing_else_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime would print that it tries once more, among what a command prints as JSON."""
    spec = read_spec(MINI, "mini.yaml")
    content = export_onnx(build_graph(spec, seeded_weights(spec, 0))).SerializeToString()
    model = onnx.ModelProto.FromString(content.replace(b"block0.dw.weight", b"block0.dw.weigh\xff", 1))
    with pytest.raises(LibraryError, match="it is no model of ours"):
        Reference(model).run(np.zeros((1, 32, 32, 3), np.float32))
    assert capfd.readouterr() == ("", "")
