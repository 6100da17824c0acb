"""Random small networks, batches, rectangles and odd channels among them, compiled for this machine, agree with ONNX:
floats and raw bytes, one thread and three; and any edge may be an output, or is refused by name."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.strategies import specs

import mnv2c
from mnv2c.codegen.library import Library
from mnv2c.deploy.manifest import WeightsSource
from mnv2c.driver import Sources, build_network
from mnv2c.errors import GraphError
from mnv2c.ir.graph import ACTIVATIONS, Add, BatchNorm, Graph
from mnv2c.passes import run_pipeline
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec
from mnv2c.targets import Bands, native_target
from mnv2c.weights.seeded import seeded_weights

BANDS = st.sampled_from(["off", 1, 2, 1000])


@given(specs(), BANDS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_a_random_network_agrees_with_onnx(spec: Spec, bands: Bands) -> None:
    check(spec, build_graph(spec, seeded_weights(spec, 1)), bands)


@given(specs(), st.data())
@settings(max_examples=24, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_edge_may_be_an_output_or_is_refused(spec: Spec, data: st.DataObject) -> None:
    """Refused where it cuts apart what one kernel computes: what stands behind it is then nobody's."""
    graph = build_graph(spec, seeded_weights(spec, 1))
    edge = data.draw(st.sampled_from([op.name for op in graph.ops[1:-1]]))
    graph = replace(graph, outputs={**graph.outputs, "edge": edge})
    left = [op.name for op in run_pipeline(graph).ops if isinstance(op, (Add, BatchNorm, *ACTIVATIONS))]
    if left:
        with pytest.raises(GraphError, match=rf"^{re.escape(left[0])}: no kernel computes"):
            library_of(spec, graph)
    else:
        check(spec, graph, data.draw(BANDS))


def library_of(spec: Spec, graph: Graph, bands: Bands = "off") -> Library:
    sources = Sources(repr(spec), WeightsSource("seeded", None, 1))
    return build_network(graph, sources, target=native_target(), bands=bands)


def check(spec: Spec, graph: Graph, bands: Bands) -> None:
    """Every output of its library is what ONNX computes."""
    shape = (spec.input.batch, spec.input.height, spec.input.width, 3)
    images = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    normalised = (images.astype(np.float32) - np.float32(spec.input.mean)) / np.float32(spec.input.scale)
    expected = Reference(export_onnx(graph)).run(normalised)
    with tempfile.TemporaryDirectory() as folder:
        library_of(spec, graph, bands).write(Path(folder) / "build")
        for threads in (1, 3):
            with mnv2c.load(Path(folder) / "build", threads=threads) as net:
                for given_images in (normalised, images):
                    found = net.outputs(given_images)
                    assert found.keys() == expected.keys()
                    for name, values in found.items():
                        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
