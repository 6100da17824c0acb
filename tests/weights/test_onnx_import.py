"""ONNX files as exporters write them, imported: by structure, to the last bit where the file has our numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from command_line import SPECS
from shared_data import TRAINED, needs_shared_data

from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights
from mnv2c.weights.importing import import_model


@needs_shared_data
def test_our_own_export_comes_back_bit_for_bit(tmp_path: Path) -> None:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["classes=1001"])
    weights, _ = load_weights(TRAINED, spec, 0)
    path = tmp_path / "trained.onnx"
    onnx.save(export_onnx(build_graph(spec, weights)), path)
    imported = import_model(path, spec.name)
    assert imported.spec == spec
    assert imported.weights.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(imported.weights[name], value, err_msg=name)
