"""``validate`` allows a deep network what float32 leaves open in it, and still finds one wrong weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from changed_build import replace_file
from command_line import mnv2c, succeed, succeed_json
from onnx import numpy_helper
from small_library import copy_of

from mnv2c.deploy.manifest import read_reference
from mnv2c.measure.noise import Noise
from mnv2c.precision import PRECISIONS
from mnv2c.reference.evaluator import Reference

ROWS = 60
DEEP = f"""\
name: deep
width_multiplier: 1.0
classes: 100
input: {{resolution: 64}}
padding: same
batchnorm_epsilon: 1.0e-3
stem: {{c: 16, s: 2}}
bottlenecks:
{"".join(f"  - {{t: 6, c: {24 - row % 2 * 8}, n: 1, s: {2 if row == 5 else 1}}}{chr(10)}" for row in range(ROWS))}\
head: {{c: 64}}
"""
"""No block has a shortcut: what is off in the first is off by more in the last."""


@pytest.fixture(scope="module")
def deep_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    (folder / "deep.yaml").write_text(DEEP, encoding="utf-8")
    succeed("build", folder / "deep.yaml", "--target", "native", "--out", folder / "library")
    return folder / "library"


def test_a_deep_network_that_is_right_passes(deep_library: Path) -> None:
    result = succeed_json("validate", deep_library, "--layers")
    assert result["tolerance"] == 1e-4
    assert 1e-3 < result["max_abs_error"] <= result["allowed"]["logits"] < 1e-2
    assert result["first_diverging_layer"] is None
    assert "the last bit of the weights" in succeed("validate", deep_library, "--inputs", "2")


def test_a_tolerance_that_is_given_is_kept(deep_library: Path) -> None:
    done = mnv2c("validate", deep_library, "--inputs", "2", "--layers", "--tolerance", "1e-4")
    assert done.returncode == 1
    assert "(at most 0.0001), " in done.stdout
    assert "first layer that diverges: none" not in done.stdout


@pytest.mark.parametrize("layer", ["stem", "block0.expand", "block30.dw", "block30.project", "head", "fc"])
def test_one_wrong_weight_fails(deep_library: Path, tmp_path: Path, layer: str) -> None:
    """The weight of middling size with the other sign, in the reference: then the library is the one that is wrong."""
    library = copy_of(deep_library, tmp_path)
    model = onnx.load(library / "model.onnx")
    (initializer,) = [one for one in model.graph.initializer if one.name == f"{layer}.weight"]
    weight = numpy_helper.to_array(initializer).copy()
    weight.flat[np.argsort(np.abs(weight), axis=None)[weight.size // 2]] *= -1
    initializer.CopyFrom(numpy_helper.from_array(weight, initializer.name))
    replace_file(library, "model.onnx", model.SerializeToString())
    done = mnv2c("validate", library, "--layers", "--inputs", "2")
    assert done.returncode == 1
    assert f"first layer that diverges: {layer}\n" in done.stdout


def test_what_is_allowed_of_a_network_of_the_usual_depth(small_library: Path) -> None:
    result = succeed_json("validate", small_library)
    assert result["allowed"] == {"logits": 1e-4}


def test_the_last_bit_of_a_coarser_precision_is_worth_more(small_library: Path) -> None:
    """Of ten bits behind the first in place of 23: what it changes grows about as much."""
    model = read_reference(small_library)
    x = np.random.default_rng(3).standard_normal((1, 96, 96, 3)).astype(np.float32)
    wanted = Reference(model).run(x)
    found = {}
    for precision in PRECISIONS:
        noise = Noise(model, precision)
        noise.add(x, wanted)
        found[precision] = noise.of("logits")
    assert found["tf32"] == found["fp16"]
    assert 2**11 < found["fp16"] / found["fp32"] < 2**15
