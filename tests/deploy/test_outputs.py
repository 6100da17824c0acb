"""Several outputs and a batch, by name: the library in this process, and in a program that is asked through pipes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_program import baseline_target, tiny_manifest, tiny_program

import mnv2c
from mnv2c.codegen.library import Library
from mnv2c.deploy.manifest import Interface, Output
from mnv2c.deploy.network import RunnableNetwork, read_build
from mnv2c.deploy.peer import Peer, RemoteNetwork, link_runner
from mnv2c.errors import LibraryError
from mnv2c.runtime import source, under_prefix
from mnv2c.toolchain import archive, compile_c, find_toolchain, link_shared

SHAPE = (2, 4, 5, 3)
INTERFACE = Interface("two_1_0", ("v2",), SHAPE, (Output("sums", (2, 1)), Output("map", SHAPE)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``two_outputs.c`` as ``mnv2c build`` would write it."""
    place = tmp_path_factory.mktemp("two")
    sizes = dict(zip(("BATCH", "HEIGHT", "WIDTH", "CHANNELS"), SHAPE, strict=True))
    constants = "".join(f"#define MNV2C_{name} {value}\n" for name, value in sizes.items())
    text = source("mnv2c.h").replace("/* @constants@ */", constants)
    run = r"(int mnv2c_run(?:_rgb)?\(mnv2c_context \*context, const \w+ \*\w+).*?\);"
    text, count = re.subn(run, r"\1, float *sums, float *map);", text)
    assert count == 2
    header = under_prefix(text, "two_1_0")
    (place / "two_1_0.h").write_text(header)
    (place / "two.c").write_text((Path(__file__).parent / "two_outputs.c").read_text())
    toolchain = find_toolchain(baseline_target())
    objects = [compile_c(toolchain, place, "two.c", flags=("-I.", "-fvisibility=default"))]
    link_shared(toolchain, place, objects, output="libtwo_1_0.so")
    archive(toolchain, place, objects, output="libtwo_1_0.a")
    files = {f"lib/{name}": (place / name).read_bytes() for name in ("libtwo_1_0.so", "libtwo_1_0.a")}
    manifest = tiny_manifest(tiny_program(place, target=baseline_target()))
    files["include/two_1_0.h"] = header.encode()
    Library.of(files, replace(manifest, interface=INTERFACE)).write(place / "build")
    return place / "build"


@pytest.fixture(scope="module", params=["in this process", "through pipes"])
def net(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if request.param == "in this process":
        with mnv2c.load(built) as here:
            yield here
        return
    build = read_build(built)
    peer = Peer([str(link_runner(build, tmp_path_factory.mktemp("runner"), static=True)), "1"], str)
    with RemoteNetwork(build, peer, processor="here", threads=1, instruction_set=None) as remote:
        yield remote


def images(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def check(outputs: dict[str, NDArray[np.float32]], x: NDArray[Any]) -> None:
    assert list(outputs) == ["sums", "map"]
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(outputs["sums"], x.sum(axis=(1, 2, 3), dtype=np.float64).reshape(2, 1), atol=1e-3)
    np.testing.assert_array_equal(outputs["map"], x.astype(np.float32) + 1)


def test_every_output_by_name(net: RunnableNetwork) -> None:
    assert net.input_shape == SHAPE
    assert net.output_shapes == {"sums": (2, 1), "map": SHAPE}
    for seed in range(3):
        check(net.outputs(images(seed)), images(seed))
        outputs, nanoseconds = net.time(images(seed))
        check(outputs, images(seed))
        assert nanoseconds > 0


def test_every_output_of_bytes(net: RunnableNetwork) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    check(net.outputs(pixels), pixels)


def test_outputs_are_the_caller_s(net: RunnableNetwork) -> None:
    first = net.outputs(images(0))
    net.outputs(images(1))
    check(first, images(0))
    first["map"][:] = 0


def test_layers(net: RunnableNetwork) -> None:
    (layer,) = net.layers(images(1))
    assert (layer.name, layer.macs, layer.nanoseconds) == ("sums", 42, 7)
    np.testing.assert_array_equal(layer.array.reshape(2, 1), net.outputs(images(1))["sums"])


def test_run_is_for_one_output(net: RunnableNetwork) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    for method, call in {
        "run": lambda: net.run(images(0)),
        "run_rgb": lambda: net.run_rgb(pixels),
    }.items():
        with pytest.raises(
            LibraryError, match=rf"{method} is for a network with one output.*\(sums, map\): use outputs"
        ):
            call()


@pytest.mark.parametrize("shape", [SHAPE[1:], (1, *SHAPE[1:]), (3, *SHAPE[1:])])
def test_the_whole_batch_is_asked_for(net: RunnableNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(LibraryError, match=r"expected an array of shape \(2, 4, 5, 3\), got"):
        net.outputs(np.zeros(shape, np.float32))


def test_a_kernel_that_refuses(net: RunnableNetwork) -> None:
    with pytest.raises(LibraryError, match="a kernel refused to run"):
        net.outputs(np.full(SHAPE, 1e9, np.float32))
    check(net.outputs(images(2)), images(2))
