"""Libraries for other machines, run from here in qemu, and the program that they are run by."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import check_refused, mnv2c, succeed_json
from photograph import photograph
from small_library import SMALL

from mnv2c.deploy.manifest import normalise
from mnv2c.deploy.network import RunnableNetwork, read_build
from mnv2c.deploy.opening import open_network
from mnv2c.deploy.peer import Ending, Peer, RemoteNetwork
from mnv2c.deploy.runner import runner_source
from mnv2c.errors import LibraryError, ToolError
from mnv2c.measure.images import seeded_image
from mnv2c.toolchain import find_cc, find_qemu


def need_qemu(architecture: str = "aarch64") -> None:
    try:
        find_qemu(architecture)
    except ToolError as error:
        pytest.skip(str(error))


def pixels_for(net: RunnableNetwork) -> Any:
    return seeded_image(0, net.input_shape[1:])


def test_the_program_compiles_without_a_warning(small_library: Path, tmp_path: Path) -> None:
    (tmp_path / "runner.c").write_text(runner_source(read_build(small_library).interface), encoding="utf-8")
    strict = (find_cc(), "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only")
    subprocess.run([*strict, "-I", small_library / "include", tmp_path / "runner.c"], check=True)


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_arm_runs_on_every_core(small_arm_library: Path, cpu: str) -> None:
    need_qemu()
    result = succeed_json("validate", small_arm_library, "--runner", f"qemu:{cpu}", "--inputs", "2")
    assert (result["runner"], result["processor"]) == (f"qemu:{cpu}", f"qemu ({cpu})")
    assert result["instruction_set"] == cpu.removeprefix("cortex-")
    assert result["max_abs_error"] <= 1e-4
    assert result["top5_agreement"] == 1.0


def test_armv7(small_armv7_library: Path) -> None:
    need_qemu("armv7l")
    result = succeed_json("validate", small_armv7_library, "--runner", "qemu:cortex-a7", "--inputs", "2", "--layers")
    assert result["instruction_set"] == "armv7"
    assert result["max_abs_error"] <= 1e-4
    assert result["top5_agreement"] == 1.0
    assert result["first_diverging_layer"] is None


def test_every_layer_is_compared(small_arm_library: Path) -> None:
    need_qemu()
    result = succeed_json("validate", small_arm_library, "--runner", "qemu", "--inputs", "1", "--layers")
    assert result["processor"] == "qemu"
    assert [layer["name"] for layer in result["layers"]][-2:] == ["pool", "fc"]
    assert result["first_diverging_layer"] is None


def test_threads_change_no_bit(small_arm_library: Path) -> None:
    need_qemu()
    logits = []
    for threads in (1, 2, 4):
        with open_network(small_arm_library, "qemu", threads=threads) as net:
            assert net.threads == threads
            logits.append(net.run_rgb(pixels_for(net)))
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


def test_floats_bytes_and_layers_are_one_run(small_arm_library: Path) -> None:
    need_qemu()
    with open_network(small_arm_library, "qemu") as net:
        pixels = pixels_for(net)
        x = normalise(small_arm_library, pixels)
        outputs, nanoseconds = net.time(x)
        logits = outputs["logits"]
        assert nanoseconds > 0
        assert np.array_equal(net.run(x), logits)
        np.testing.assert_allclose(net.run_rgb(pixels), logits, atol=1e-4)
        for image in (x, pixels):
            layers = net.layers(image)
            assert layers[0].array.shape == (1, 48, 48, 16)
            assert layers[0].macs == 48 * 48 * 16 * 27
            assert all(layer.nanoseconds > 0 for layer in layers)
            np.testing.assert_allclose(layers[-1].array.reshape(logits.shape), logits, atol=1e-4)
        with pytest.raises(LibraryError, match="expected an array of float32, got float64"):
            net.run(x.astype(np.float64))
        assert np.array_equal(net.run(x), logits)


def test_a_processor_that_lacks_the_instructions(tmp_path: Path) -> None:
    need_qemu()
    mnv2c("build", *SMALL, "--target", "pi5", "--out", tmp_path / "pi5")
    old = mnv2c("validate", tmp_path / "pi5", "--runner", "qemu:cortex-a53", "--instruction-set", "a76")
    check_refused(old, "this processor lacks the instruction set a76; the library has a76")
    check_refused(
        mnv2c("run", tmp_path / "pi5", photograph(tmp_path / "image.png"), "--runner", "qemu:cortex-a72"),
        "this processor has none of the library's instruction sets: a76",
    )
    assert succeed_json("validate", tmp_path / "pi5", "--runner", "qemu:cortex-a76", "--inputs", "1")["passed"]


def test_a_core_that_qemu_does_not_know(small_arm_library: Path) -> None:
    need_qemu()
    done = mnv2c("validate", small_arm_library, "--runner", "qemu:cortex-a99")
    check_refused(done, "--runner qemu:cortex-a99: qemu knows no such core", "-cpu help")


def test_run_in_qemu(small_library: Path, small_arm_library: Path, tmp_path: Path) -> None:
    need_qemu()
    image = photograph(tmp_path / "image.png")
    (there,) = succeed_json("run", small_arm_library, image, "--runner", "qemu", "--threads", "2")["images"]
    (here,) = succeed_json("run", small_library, image)["images"]
    assert [one["class"] for one in there["top"]] == [one["class"] for one in here["top"]]


def died(script: str) -> str:
    """What is said where a program ends in place of an answer."""
    peer = Peer(["sh", "-c", script], str)
    with pytest.raises(LibraryError) as caught:
        peer.receive(1)
    peer.close()
    return str(caught.value)


def test_a_program_that_dies_says_how() -> None:
    assert died("kill -ILL $$") == "the program was killed by SIGILL"
    assert died("echo one >&2; echo two >&2; exit 3") == "the program ended with status 3: two"
    assert str(Ending(128 + signal.SIGSEGV, "")) == "the program was killed by SIGSEGV"


def test_a_program_that_neither_reads_nor_writes() -> None:
    peer = Peer(["sleep", "60"], str, patience=0.2)
    with pytest.raises(LibraryError, match="no answer for 0 s"):
        peer.send(bytes(1_000_000))
    peer.close()
    peer = Peer(["sh", "-c", "echo half; sleep 60"], str, patience=0.2)
    assert peer.receive(5) == b"half\n"
    with pytest.raises(LibraryError, match="no answer for 0 s"):
        peer.receive(1)
    peer.close()


def test_a_program_that_is_gone_takes_no_request() -> None:
    peer = Peer(["sh", "-c", "exit 4"], str)
    with pytest.raises(LibraryError, match="the program ended with status 4"):
        peer.send(bytes(1_000_000))
    peer.close()


def test_something_else_than_the_program_answers(small_library: Path) -> None:
    peer = Peer(["sh", "-c", "echo Welcome to this wonderful machine.; cat >/dev/null"], str)
    with pytest.raises(LibraryError, match="something else than the program answers: b'Welcome"):
        RemoteNetwork(read_build(small_library), peer, processor="a board", threads=1, instruction_set=None)
