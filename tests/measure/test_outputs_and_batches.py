"""``validate``, ``bench`` and ``run`` on a library with two outputs that takes three rectangular images at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from changed_build import replace_file
from command_line import SPECS, mnv2c, succeed, succeed_json
from onnx import numpy_helper
from photograph import photograph
from small_library import copy_of

import mnv2c as package
from mnv2c.deploy.manifest import WeightsSource
from mnv2c.driver import Sources, build_network
from mnv2c.measure.engines import OTHERS
from mnv2c.measure.images import read_rgb
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.targets import native_target
from mnv2c.weights import load_weights

BATCH, HEIGHT, WIDTH = 3, 64, 96


@pytest.fixture(scope="module", params=["logits", "features"])
def library_of_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map before the pool beside the logits, as the second output or as the first."""
    overrides = [f"input.batch={BATCH}", f"input.resolution=[{HEIGHT}, {WIDTH}]", "classes=16"]
    spec = load_spec(SPECS / "mnv2_0.35.yaml", overrides)
    graph = build_graph(spec, load_weights(None, spec, 0)[0])
    both = graph.outputs | {"features": "head.relu6"}
    graph = replace(graph, outputs={request.param: both[request.param], **both})
    sources = Sources(spec=repr(spec), weights=WeightsSource("seeded", None, 0))
    directory = tmp_path_factory.mktemp("outputs") / "library"
    build_network(graph, sources, target=native_target()).write(directory)
    return directory


def test_every_output_is_validated(library_of_two: Path) -> None:
    result = succeed_json("validate", library_of_two, "--inputs", "4", "--layers")
    assert result["inputs"] == 4
    assert result["max_abs_error"] <= 1e-4
    assert result["allowed"] == {"logits": 1e-4, "features": 1e-4}
    assert result["top5_agreement"] == 1.0
    assert result["first_diverging_layer"] is None
    of_features = [one for one in result["comparisons"] if one["output"] == "features"]
    assert [one["name"] for one in of_features] == [f"seeded input {index}" for index in range(4)]
    assert {one["top5"] for one in of_features} == {None}
    text = succeed("validate", library_of_two, "--inputs", "1")
    assert "  features: max abs error" in text
    assert "  logits: max abs error" in text


def test_a_weight_that_only_one_output_sees(library_of_two: Path, tmp_path: Path) -> None:
    library = copy_of(library_of_two, tmp_path)
    model = onnx.load(library / "model.onnx")
    (bias,) = [one for one in model.graph.initializer if one.name == "fc.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), "fc.bias"))
    replace_file(library, "model.onnx", model.SerializeToString())
    done = mnv2c("validate", library, "--inputs", "2")
    assert done.returncode == 1
    errors = {
        line.split(":")[0].strip(): float(line.split()[4]) for line in done.stdout.splitlines() if ": max abs" in line
    }
    assert errors["features"] <= 1e-4 < errors["logits"]


def test_every_output_is_compared_before_it_is_timed(library_of_two: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the other engines: pip install 'mnv2c[bench]'")
    result = succeed_json("bench", library_of_two, "--rounds", "1", "--against", ",".join(OTHERS))
    assert all(0 <= engine["max_abs_difference"] < 1e-3 for engine in result["engines"].values())


def test_photographs_are_classified_whatever_the_batch(library_of_two: Path, tmp_path: Path) -> None:
    paths = [photograph(tmp_path / f"{width}.png", size=(width, 120)) for width in (100, 150, 200, 300)]
    found = succeed_json("run", library_of_two, *paths)["images"]
    assert [entry["path"] for entry in found] == list(map(str, paths))
    pixels = [read_rgb(path, height=HEIGHT, width=WIDTH, fit="crop") for path in paths]
    with package.load(library_of_two) as net:
        for entry, image in zip(found, pixels, strict=True):
            logits = net.outputs(np.stack([image] * BATCH))["logits"]
            assert entry["top"][0]["class"] == int(logits[0].argmax())
