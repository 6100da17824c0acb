"""NaN and infinity in the input: what the header says of them, in every instruction set that runs here or in qemu."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import succeed
from mini_spec import MINI

from mnv2c.deploy.network import read_build
from mnv2c.deploy.opening import open_network
from mnv2c.targets import ARM, ARMV7, X86, instruction_sets_here

HERE = [isa.name for isa in X86.instruction_sets if isa in instruction_sets_here()]
ACTIVATED = ("stem", "block0.dw", "head")  # each has a ReLU6
CASES = [
    *((X86.name, None, name) for name in HERE),
    *((target.name, "qemu", isa.name) for target in (ARM, ARMV7) for isa in target.instruction_sets),
]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By target."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "mini.yaml").write_text(MINI, encoding="utf-8")
    targets = dict.fromkeys(target for target, _, _ in CASES)
    for target in targets:
        succeed("build", "mini.yaml", "--target", target, "--untuned", "--out", target, cwd=folder)
    return {target: folder / target for target in targets}


@pytest.mark.parametrize(("target", "runner", "instruction_set"), CASES)
def test_what_the_header_says(
    libraries: dict[str, Path], target: str, runner: str | None, instruction_set: str
) -> None:
    keeps = target == ARMV7.name
    text = " ".join(read_build(libraries[target]).header.read_text(encoding="utf-8").replace("\n *", "").split())
    assert "a ReLU6 makes numbers of NaN, but on 32-bit Arm, where it keeps them. Later runs are as ever." in text
    with open_network(libraries[target], runner, instruction_set=instruction_set) as net:
        image = np.random.default_rng(0).normal(size=net.input_shape).astype(np.float32)
        before = net.run(image)
        assert np.isfinite(before).all()
        for value in (np.nan, np.inf, -np.inf):
            one, every = image.copy(), np.full_like(image, value)
            one[0, 5, 6, 1] = value
            for x in (one, every):
                layers = {layer.name: layer.array for layer in net.layers(x)}
                for name in ACTIVATED:
                    numbers = layers[name][~np.isnan(layers[name])]
                    assert ((numbers >= 0) & (numbers <= 6)).all()
                    assert keeps or numbers.size == layers[name].size
                assert keeps or np.isfinite(net.run(x)).all()
            assert np.array_equal(net.run(image), before)
        assert np.isnan(net.run(np.full_like(image, np.nan))).all() == keeps
