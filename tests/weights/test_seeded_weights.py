"""Seeded weights: the same everywhere, and activations that stay alive through every width and both paddings."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from command_line import SPECS

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array, Project, ReLU6
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph, parameter_shapes
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights
from mnv2c.weights.seeded import seeded_weights


def seeded_image(resolution: int) -> Array:
    return np.random.default_rng(0).uniform(-1, 1, (1, resolution, resolution, 3)).astype(np.float32)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("width", ["0.35", "0.5", "0.75", "1.0", "1.3", "1.4"])
def test_seeded_weights_keep_activations_alive(width: str, padding: str) -> None:
    spec = load_spec(SPECS / f"mnv2_{width}.yaml", [f"padding={padding}", "resolution=96"])
    weights, origin = load_weights(None, spec, 0)
    assert str(origin) == "seeded initialisation, seed 0"
    graph = build_graph(spec, weights)
    edges = Reference(export_onnx(graph), observe=True).run(seeded_image(96))
    for op in graph.ops:
        if isinstance(op, ReLU6):
            assert 0.1 < float((edges[op.name] <= 0).mean()) < 0.5, op.name
            assert 0.0002 < float((edges[op.name] >= 6).mean()) < 0.2, op.name
        elif isinstance(op, Project):
            assert 0.5 < edges[f"{op.name}.bn"].std() < 3, op.name
    assert 1 < edges["logits"].std() < 5


def test_seeded_logits_depend_on_the_image() -> None:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["resolution=96"])
    reference = Reference(export_onnx(build_graph(spec, seeded_weights(spec, 0))))
    image = seeded_image(96)
    difference = reference.run(image)["logits"] - reference.run(-image)["logits"]
    assert difference.std() > 0.2


def test_seeded_weights_are_the_same_everywhere() -> None:
    """The digest was made on x86-64 with NumPy 2.4; another machine or NumPy must make the same."""
    weights = seeded_weights(load_spec(SPECS / "mnv2_0.35.yaml"), 0)
    digest = hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in weights.values())).hexdigest()
    assert digest == "10e0909d80516873034486daf79934c22162c7344d64083eac16f1051f23d969"


def test_seeded_tensors_differ() -> None:
    spec = load_spec(SPECS / "mnv2_0.35.yaml")
    zero, one = seeded_weights(spec, 0), seeded_weights(spec, 1)
    assert zero.keys() == parameter_shapes(spec).keys()
    values = [array for weights in (zero, one) for array in weights.values()]
    assert len({array.tobytes() for array in values}) == len(values)


def test_seeded_statistics_are_those_of_a_trained_network() -> None:
    weights = seeded_weights(load_spec(SPECS / "mnv2_1.0.yaml"), 0)
    assert all(np.isfinite(array).all() for array in weights.values())
    least = {name.rpartition(".")[2]: 1.0 for name in weights}
    for name, array in weights.items():
        kind = name.rpartition(".")[2]
        least[kind] = min(least[kind], float(array.min()))
    assert least["var"] > 1e-4
    assert least["gamma"] > 0


def test_negative_seed() -> None:
    with pytest.raises(WeightsError, match="must be 0 or more"):
        seeded_weights(load_spec(SPECS / "mnv2_0.35.yaml"), -1)
