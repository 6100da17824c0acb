"""Libraries for other machines, run from here: in qemu, and over ssh on a server of the test's own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Finished, mnv2c, succeed_json
from loopback import Loopback, free_port, loopback
from no_skips import WITHOUT_MOUNTS
from photograph import photograph
from small_library import SMALL

from mnv2c.deploy import ssh
from mnv2c.deploy.manifest import normalise
from mnv2c.deploy.network import RunnableNetwork, read_build
from mnv2c.deploy.opening import open_network
from mnv2c.deploy.peer import Ending, Peer, RemoteNetwork, runner_source
from mnv2c.deploy.ssh import Host
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("ssh")) as started:
        yield started


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


def test_over_ssh(small_library: Path, server: Loopback) -> None:
    arguments = ("--runner", server.runner, "--inputs", "2", "--layers")
    done = mnv2c("validate", small_library, *arguments, environment=server.environment)
    assert done.returncode == 0, done.stderr
    assert f"on {server.runner.removeprefix('ssh:').rpartition(':')[0]} (" in done.stdout
    assert "first layer that diverges: none" in done.stdout
    assert list(server.temporary.iterdir()) == []


def test_nothing_stays_there_when_the_connection_is_lost(
    small_library: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", server.environment["PATH"])
    net = open_network(small_library, server.runner)
    assert isinstance(net, RemoteNetwork)
    assert len(list(server.temporary.iterdir())) == 1
    net._peer._program.kill()
    with pytest.raises(LibraryError, match="the program was killed by SIGKILL"):
        net.run_rgb(pixels_for(net))
    net.close()
    await_nothing_in(server.temporary)


def test_a_program_that_is_stopped_there(
    small_library: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", server.environment["PATH"])
    with open_network(small_library, server.runner) as net:
        assert isinstance(net, RemoteNetwork)
        (program,) = programs_in(server.temporary)
        os.kill(program, signal.SIGSTOP)
        net._peer._patience = 0.5
        with pytest.raises(LibraryError, match=r"ssh to .*: no answer for 0 s: the program, the machine or"):
            net.run_rgb(pixels_for(net))
        os.kill(program, signal.SIGCONT)
    await_nothing_in(server.temporary)


def await_nothing_in(folder: Path) -> None:
    for _ in range(100):
        if not list(folder.iterdir()):
            break
        time.sleep(0.1)
    assert list(folder.iterdir()) == []


def programs_in(folder: Path) -> list[int]:
    """Those that run from it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):
            if entry.readlink().is_relative_to(folder):
                found.append(int(entry.parent.name))
    return found


def test_a_host_that_says_nothing(small_library: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes the connection, and nobody speaks."""
    monkeypatch.setenv("PATH", server.environment["PATH"])
    monkeypatch.setattr("mnv2c.deploy.ssh._SILENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        runner = f"ssh:127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LibraryError, match=r"ssh to 127\.0\.0\.1: no answer for 1 s: the program, the machine or"):
            open_network(small_library, runner)


def test_nothing_waits_longer_than_half_a_minute() -> None:
    connecting = ssh_option("ConnectTimeout")
    alive = ssh_option("ServerAliveInterval") * (ssh_option("ServerAliveCountMax") + 1)
    assert max(connecting, alive) <= ssh._SILENCE <= 30


def ssh_option(name: str) -> int:
    (value,) = [word.partition("=")[2] for word in ssh._OPTIONS if word.startswith(f"{name}=")]
    return int(value)


def test_a_full_disk_there(small_library: Path, tmp_path: Path) -> None:
    with loopback(tmp_path) as server:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", server.temporary], check=False).returncode:
            pytest.skip(WITHOUT_MOUNTS)
        try:
            done = mnv2c("validate", small_library, "--runner", server.runner, environment=server.environment)
        finally:
            subprocess.run(["umount", server.temporary], check=True)
    check_refused(done, "127.0.0.1: No space left for the library (", " MB) in its TMPDIR, by default /tmp: free some")


@pytest.mark.parametrize(
    ("library", "advice"),
    [("small_armv7_library", "build with --target arm"), ("small_arm_library", "for a 32-bit system build with")],
)
def test_a_host_that_cannot_start_it(library: str, advice: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """This machine, which says to be a 64-bit Arm board."""
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "uname").write_text("#!/bin/sh\necho aarch64\n")
    (tmp_path / "commands" / "uname").chmod(0o755)
    with loopback(tmp_path, {"PATH": f"{tmp_path / 'commands'}:/usr/bin:/bin"}) as server:
        arguments = ("--runner", server.runner, "--inputs", "1")
        done = mnv2c("validate", request.getfixturevalue(library), *arguments, environment=server.environment)
    check_refused(done, "@127.0.0.1 cannot start programs for a", "Exec format error", advice)


def test_bench_over_ssh(small_library: Path, server: Loopback) -> None:
    done = mnv2c("bench", small_library, "--runner", server.runner, "--rounds", "2", environment=server.environment)
    assert done.returncode == 0, done.stderr
    assert " on " in done.stdout.splitlines()[0]


def test_another_architecture_over_ssh(small_arm_library: Path, server: Loopback) -> None:
    done = mnv2c("validate", small_arm_library, "--runner", server.runner, environment=server.environment)
    check_refused(done, "built for aarch64 (aarch64-linux-gnu), but ", " is x86_64; build with --target x86")


def test_nobody_listens(small_library: Path, server: Loopback) -> None:
    runner = f"ssh:someone@127.0.0.1:{free_port()}"
    done = mnv2c("validate", small_library, "--runner", runner, environment=server.environment)
    check_refused(done, "ssh to someone@127.0.0.1: ", "Connection refused")


def test_a_host_that_does_not_know_us(small_library: Path, server: Loopback) -> None:
    runner = f"ssh:no-such-user@127.0.0.1:{server.port}"
    done = mnv2c("validate", small_library, "--runner", runner, environment=server.environment)
    check_refused(done, "Permission denied", "ssh-copy-id no-such-user@127.0.0.1")


def check_refused(done: Finished, *words: str) -> None:
    """One line, after those that say what is being done."""
    assert done.returncode == 1
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line.startswith("mnv2c: error: ")
    assert done.stderr.count("mnv2c: error: ") == 1, done.stderr
    assert all(word in line for word in words), line


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
    assert peer.receive_line() == b"half\n"
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


def test_names_of_hosts() -> None:
    assert Host.parse("pi@raspberrypi.local") == Host("pi@raspberrypi.local")
    assert Host.parse("board:2222") == Host("board", "2222")
    assert Host.parse("pi@[fe80::1]:22") == Host("pi@fe80::1", "22")
    for wrong in ("", "pi@", "-oProxyCommand=x", "a b", "host:port", "a@b@c"):
        with pytest.raises(LibraryError, match="give ssh:"):
            Host.parse(wrong)
