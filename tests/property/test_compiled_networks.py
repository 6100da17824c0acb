"""Random small networks, batches, rectangles and odd channels among them, compiled for this machine, agree with ONNX:
floats and raw bytes, one thread and three."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from property.strategies import specs

import mnv2c
from mnv2c.driver import build
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec
from mnv2c.targets import native_target
from mnv2c.weights.seeded import seeded_weights


@given(specs())
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_a_random_network_agrees_with_onnx(spec: Spec) -> None:
    library = build(spec, target=native_target(), weights_path=None, seed=1, report=lambda line: None)
    reference = Reference(export_onnx(build_graph(spec, seeded_weights(spec, 1))))
    shape = (spec.input.batch, spec.input.height, spec.input.width, 3)
    images = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    normalised = (images.astype(np.float32) - np.float32(spec.input.mean)) / np.float32(spec.input.scale)
    expected = reference.run(normalised)["logits"]
    with tempfile.TemporaryDirectory() as folder:
        library.write(Path(folder) / "build")
        for threads in (1, 3):
            with mnv2c.load(Path(folder) / "build", threads=threads) as net:
                np.testing.assert_allclose(net.run(normalised), expected, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(net.run_rgb(images), expected, rtol=1e-4, atol=1e-4)
