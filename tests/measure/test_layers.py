"""``validate --layers``: every layer has its edge in the reference, those that only copy included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import succeed, succeed_json

import mnv2c
from mnv2c.deploy.manifest import read_reference
from mnv2c.measure.layers import LayerComparer

SHORTCUT = """\
name: shortcut
width_multiplier: 1.0
classes: 16
input: {resolution: 32}
padding: same
batchnorm_epsilon: 1.0e-3
stem: {c: 8, s: 2}
bottlenecks:
  - {t: 1, c: 8, n: 2, s: 1}
head: {c: 32}
"""
"""Its blocks keep what they read for the shortcut, so that no convolution can write it into a border."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shortcut")
    (folder / "shortcut.yaml").write_text(SHORTCUT, encoding="utf-8")
    succeed("build", folder / "shortcut.yaml", "--target", "native", "--out", folder / "library")
    return folder / "library"


def test_a_border_of_its_own_equals_what_it_surrounds(library: Path) -> None:
    result = succeed_json("validate", library, "--inputs", "2", "--layers")
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["block0.dw.pad"]["edge"] == "stem.relu6"
    assert layers["block1.dw.pad"]["edge"] == "block0.add"
    assert layers["block1.project"]["edge"] == "block1.add"
    assert result["first_diverging_layer"] is None


def test_a_wrong_copy_diverges(library: Path) -> None:
    comparer = LayerComparer(read_reference(library), "fp32", tolerance=None)
    with mnv2c.load(library) as net:
        x = np.zeros(net.input_shape, np.float32)
        layers = {layer.name: layer for layer in net.layers(x)}
    pad = layers["block1.dw.pad"]
    comparer.add(x, [pad])
    assert not comparer.compared[0].diverges(1e-4)
    wrong = pad.array.copy()
    wrong[0, -1, 3, 0] += 1.0
    comparer.add(x, [replace(pad, array=wrong)])
    assert comparer.compared[0].diverges(1e-4)


def test_nan_diverges(library: Path) -> None:
    comparer = LayerComparer(read_reference(library), "fp32", tolerance=None)
    with mnv2c.load(library) as net:
        x = np.zeros(net.input_shape, np.float32)
        stem = net.layers(x)[0]
    comparer.add(x, [replace(stem, array=np.full_like(stem.array, np.nan))])
    assert comparer.compared[0].diverges(1e-4)
