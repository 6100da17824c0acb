"""Blocks in bands compute, bit for bit, what they compute of whole maps: on every processor, with any threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import succeed_json
from programs import need

import mnv2c
from mnv2c.deploy.manifest import normalise
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.deploy.opening import open_network
from mnv2c.driver import build
from mnv2c.spec.table import load_spec
from mnv2c.targets import Bands, target_named

TABLE = """\
name: by_rows
width_multiplier: 1.0
classes: 16
input: {resolution: 96}
padding: same
batchnorm_epsilon: 1.0e-3
stem: {c: 16, s: 2}
bottlenecks:
  - {t: 1, c: 8, n: 1, s: 1}
  - {t: 6, c: 16, n: 2, s: 2}
  - {t: 1, c: 24, n: 2, s: 1}
  - {t: 3, c: 20, n: 1, s: 2}
head: {c: 32}
"""
"""With a shortcut and without, both strides, and blocks without an expansion, one of them behind a pad."""

CASES: dict[str, tuple[str, Bands, tuple[str, ...]]] = {
    "by row, on every instruction set": ("x86", 1, ("resolution=97", "padding=symmetric", "batch=2")),
    "two rows": ("native", 2, ("resolution=131", "padding=same")),
    "three rows": ("native", 3, ("resolution=[96, 131]", "stem.s=1", "channel_divisor=1", "bottlenecks[1].c=13")),
}
THREADS = (1, 2, 4)
EMULATED = {"arm": "qemu-aarch64-static", "armv7": "qemu-arm-static"}


def libraries(directory: Path, target: str, bands: Bands, changes: Sequence[str]) -> tuple[Path, Path]:
    """One with whole maps, and one in bands."""
    (directory / "by_rows.yaml").write_text(TABLE, encoding="utf-8")
    for name, rows in (("whole", "off"), ("bands", bands)):
        built = build(
            load_spec(directory / "by_rows.yaml", changes),
            target=target_named(target),
            bands=rows,
            weights_path=None,
            seed=3,
            report=lambda line: None,
        )
        built.write(directory / name)
    return directory / "whole", directory / "bands"


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As ``libraries``, for one of ``CASES``."""
    return libraries(tmp_path_factory.mktemp("libraries"), *CASES[request.param])


def images(net: RunnableNetwork) -> list[np.ndarray]:
    pixels = np.random.default_rng(4).integers(0, 256, net.input_shape, np.uint8)
    return [pixels, normalise(net.directory, pixels)]


def test_bands_change_no_bit(both: tuple[Path, Path]) -> None:
    whole, in_bands = both
    with mnv2c.load(whole) as net:
        runnable = net.instruction_sets[net.instruction_sets.index(net.instruction_set) :]
        pixels, x = images(net)
    for name in runnable:
        with mnv2c.load(whole, instruction_set=name) as net:
            expected = [net.run_rgb(pixels), net.run(x)]
        for threads in THREADS:
            with mnv2c.load(in_bands, instruction_set=name, threads=threads) as net:
                for _ in range(3):  # what an earlier run, or another layer, left in scratch changes nothing
                    assert np.array_equal(net.run_rgb(pixels), expected[0])
                    assert np.array_equal(net.run(x), expected[1])


def test_an_observer_sees_every_layer(both: tuple[Path, Path]) -> None:
    """The same values of the same layers, and afterwards the network runs as before."""
    whole, in_bands = both
    for threads in (1, 3):
        with mnv2c.load(whole) as net, mnv2c.load(in_bands, threads=threads) as other:
            for given in images(net):
                logits = other.outputs(given)["logits"]
                expected, found = net.layers(given), other.layers(given)
                assert [layer.name for layer in found] == [layer.name for layer in expected]
                for one, another in zip(expected, found, strict=True):
                    assert np.array_equal(one.array, another.array), one.name
                    assert (one.macs, another.nanoseconds > 0) == (another.macs, True)
                assert np.array_equal(other.outputs(given)["logits"], logits)
    assert succeed_json("validate", in_bands, "--layers", "--inputs", "2")["first_diverging_layer"] is None


@pytest.mark.parametrize("target", EMULATED)
def test_bands_change_no_bit_on_boards(tmp_path: Path, target: str) -> None:
    need(EMULATED[target])
    _, bands, changes = CASES["by row, on every instruction set"]
    whole, in_bands = libraries(tmp_path, target, bands, changes)
    with open_network(whole, "qemu") as net:
        given = images(net)
        expected, layers = [net.run_rgb(given[0]), net.run(given[1])], net.layers(given[0])
    for threads in THREADS:
        with open_network(in_bands, "qemu", threads=threads) as net:
            assert np.array_equal(net.run_rgb(given[0]), expected[0])
            assert np.array_equal(net.run(given[1]), expected[1])
    with open_network(in_bands, "qemu", threads=2) as net:
        found = net.layers(given[0])
    assert all(np.array_equal(one.array, other.array) for one, other in zip(layers, found, strict=True))


def test_a_build_says_what_runs_in_bands(tmp_path: Path) -> None:
    """In the driver, in the manifest, in its arena; as ``show`` says."""
    (tmp_path / "by_rows.yaml").write_text(TABLE, encoding="utf-8")
    arguments = (tmp_path / "by_rows.yaml", "--target", "arm", "--bands", "2", "--set", "resolution=32")
    result = succeed_json("build", *arguments, "--untuned", "--out", tmp_path / "library")
    shown = succeed_json("show", *arguments)
    bands = {layer["name"]: layer["band"] for layer in result["manifest"]["layers"] if layer["name"][-4:] != ".pad"}
    assert bands == {layer["name"]: layer["band"] for layer in shown["layers"] if layer["op"] != "Add"}
    assert (bands["stem"], bands["block1.project"], bands["head"]) == (2, 2, None)
    assert result["manifest"]["arena_bytes"] == shown["totals"]["arena_bytes"]
    driver = (tmp_path / "library/src/by_rows.c").read_text(encoding="utf-8")
    assert "/* in 4 bands of 2 rows:\n     *     block1.expand: 1x1 convolution, 16x16x8 -> 16x16x48, ReLU6\n" in driver
