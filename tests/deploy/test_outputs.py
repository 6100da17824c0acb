"""Several outputs and a batch, by name: the library in this process, and in a program that is asked through pipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_program import CHANNELS, CLASSES, HEIGHT, WIDTH, build_with_two_outputs, reference
from tiny_program import image as images_of

import mnv2c
from mnv2c.deploy.network import RunnableNetwork, read_build
from mnv2c.deploy.peer import Peer, RemoteNetwork
from mnv2c.deploy.runner import link_runner
from mnv2c.errors import LibraryError

SHAPE = (2, HEIGHT, WIDTH, CHANNELS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with_two_outputs(tmp_path_factory.mktemp("two"))


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
    return images_of(seed, batch=2)


def check(outputs: dict[str, NDArray[np.float32]], x: NDArray[np.float32]) -> None:
    assert list(outputs) == ["map", "logits"]
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}
    wanted = reference(x)
    np.testing.assert_allclose(outputs["map"], wanted["block1.mirror"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], wanted["classifier"], rtol=0, atol=1e-5)


def test_every_output_by_name(net: RunnableNetwork) -> None:
    assert net.input_shape == SHAPE
    assert net.output_shapes == {"map": SHAPE, "logits": (2, CLASSES)}
    for seed in range(3):
        check(net.outputs(images(seed)), images(seed))
        outputs, nanoseconds = net.time(images(seed))
        check(outputs, images(seed))
        assert nanoseconds > 0


def test_every_output_of_bytes(net: RunnableNetwork) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    check(net.outputs(pixels), (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5))


def test_outputs_are_the_caller_s(net: RunnableNetwork) -> None:
    first = net.outputs(images(0))
    net.outputs(images(1))
    check(first, images(0))
    first["map"][:] = 0


def test_layers(net: RunnableNetwork) -> None:
    """One inside its border, one in the caller's memory, one of rank 2."""
    layers, wanted = net.layers(images(1)), reference(images(1))
    assert [(layer.name, layer.macs) for layer in layers] == [
        ("stem", 2 * HEIGHT * WIDTH * CHANNELS),
        ("block1.mirror", 0),
        ("classifier", 0),
    ]
    for layer in layers:
        assert 0 < layer.nanoseconds < 60e9
        np.testing.assert_allclose(layer.array.reshape(wanted[layer.name].shape), wanted[layer.name], atol=1e-5)


def test_run_is_for_one_output(net: RunnableNetwork) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    for method, call in {
        "run": lambda: net.run(images(0)),
        "run_rgb": lambda: net.run_rgb(pixels),
    }.items():
        with pytest.raises(
            LibraryError, match=rf"{method} is for a network with one output.*\(map, logits\): use outputs"
        ):
            call()


@pytest.mark.parametrize("shape", [SHAPE[1:], (1, *SHAPE[1:]), (3, *SHAPE[1:])])
def test_the_whole_batch_is_asked_for(net: RunnableNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(LibraryError, match=r"expected an array of shape \(2, 40, 6, 3\), got"):
        net.outputs(np.zeros(shape, np.float32))


def test_a_kernel_that_refuses(net: RunnableNetwork) -> None:
    with pytest.raises(LibraryError, match="a kernel refused to run"):
        net.outputs(np.full(SHAPE, 1e9, np.float32))
    check(net.outputs(images(2)), images(2))
