"""Libraries run over ssh, on a server of the test's own, and what is said where that fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import check_refused, mnv2c
from loopback import Loopback, free_port, loopback
from no_skips import WITHOUT_MOUNTS
from small_library import RESOLUTION

from mnv2c.deploy import ssh
from mnv2c.deploy.opening import open_network
from mnv2c.deploy.peer import RemoteNetwork
from mnv2c.deploy.ssh import Host
from mnv2c.errors import LibraryError
from mnv2c.measure.images import seeded_image

PIXELS = seeded_image(0, (RESOLUTION, RESOLUTION, 3))
IMPATIENT = ("-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("ssh")) as started:
        yield started


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
        net.run_rgb(PIXELS)
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
            net.run_rgb(PIXELS)
        os.kill(program, signal.SIGCONT)
    await_nothing_in(server.temporary)


def await_nothing_in(folder: Path) -> None:
    for _ in range(600):
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


def test_a_host_that_falls_silent_after_its_banner(
    small_library: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh gives up before we do, and says nothing."""
    monkeypatch.setenv("PATH", server.environment["PATH"])
    monkeypatch.setattr(ssh, "_OPTIONS", IMPATIENT)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        speaker = pool.submit(say_banner, silent)
        with pytest.raises(
            LibraryError, match=r"^ssh to 127\.0\.0\.1: .*timed out.*; is the machine on, and its network"
        ):
            open_network(small_library, f"ssh:127.0.0.1:{silent.getsockname()[1]}")
        speaker.result().close()


def say_banner(listening: socket.socket) -> socket.socket:
    """All that an ssh server says before keys are exchanged."""
    connection, _ = listening.accept()
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    return connection


def test_a_machine_that_falls_silent(small_library: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ssh server answers no more, as where the power or the network is gone."""
    monkeypatch.setenv("PATH", server.environment["PATH"])
    monkeypatch.setattr(ssh, "_OPTIONS", IMPATIENT)
    with open_network(small_library, server.runner) as net:
        (program,) = programs_in(server.temporary)
        serving = server_of(program)
        os.kill(serving, signal.SIGSTOP)
        try:
            with pytest.raises(
                LibraryError, match=r"^ssh to .*timed out or was lost; is the machine on, and its network"
            ):
                net.run_rgb(PIXELS)
        finally:
            os.kill(serving, signal.SIGCONT)
    await_nothing_in(server.temporary)


def server_of(program: int) -> int:
    """The process of the ssh server that has this connection."""
    while not Path(f"/proc/{program}/comm").read_text().startswith("sshd"):
        program = int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])
    return program


def test_nothing_waits_longer_than_half_a_minute() -> None:
    connecting = ssh_option("ConnectTimeout")
    alive = ssh_option("ServerAliveInterval") * (ssh_option("ServerAliveCountMax") + 1)
    assert max(connecting, alive) <= ssh._SILENCE <= 30


def ssh_option(name: str) -> int:
    (value,) = [word.partition("=")[2] for word in ssh._OPTIONS if word.startswith(f"{name}=")]
    return int(value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "size=64k",
            ("No space left: the library (", " MB) does not fit in its TMPDIR, by default /tmp: free some, or"),
        ),
        ("ro", ("Read-only file system: nothing can be written in its TMPDIR, by default /tmp: ",)),
        ("noexec", ("Permission denied: no program may run from its TMPDIR, by default /tmp (mounted noexec?): ",)),
    ],
    ids=["full", "read-only", "noexec"],
)
def test_a_folder_there_that_takes_no_program(
    options: str, words: tuple[str, ...], small_library: Path, tmp_path: Path
) -> None:
    with loopback(tmp_path) as server:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", server.temporary], check=False).returncode:
            pytest.skip(WITHOUT_MOUNTS)
        try:
            done = mnv2c("validate", small_library, "--runner", server.runner, environment=server.environment)
        finally:
            subprocess.run(["umount", server.temporary], check=True)
    check_refused(done, "@127.0.0.1: ", *words, "export TMPDIR=FOLDER there")


def test_no_folder_there(small_library: Path, tmp_path: Path) -> None:
    with loopback(tmp_path, {"TMPDIR": str(tmp_path / "nowhere")}) as server:
        done = mnv2c("validate", small_library, "--runner", server.runner, environment=server.environment)
    check_refused(
        done, "@127.0.0.1: No such file or directory: nothing can be written in its TMPDIR, by default /tmp: "
    )


def test_a_disk_quota_there(small_library: Path, tmp_path: Path) -> None:
    """No file system has one here, so tar only says so."""
    commands = command_there(
        tmp_path, "tar", "cat >/dev/null; echo 'tar: x: Cannot write: Disk quota exceeded' >&2; exit 2"
    )
    with loopback(tmp_path, {"PATH": f"{commands}:/usr/bin:/bin"}) as server:
        done = mnv2c("validate", small_library, "--runner", server.runner, environment=server.environment)
    check_refused(
        done, "@127.0.0.1: Disk quota exceeded: the library (", " MB) does not fit in its TMPDIR, by default /tmp"
    )


def command_there(folder: Path, name: str, script: str) -> Path:
    """The folder of a command that does something else than this machine's of that name."""
    (folder / "commands").mkdir()
    (folder / "commands" / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / "commands" / name).chmod(0o755)
    return folder / "commands"


@pytest.mark.parametrize(
    ("library", "advice"),
    [("small_armv7_library", "build with --target arm"), ("small_arm_library", "for a 32-bit system build with")],
)
def test_a_host_that_cannot_start_it(library: str, advice: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """This machine, which says to be a 64-bit Arm board."""
    with loopback(tmp_path, {"PATH": f"{command_there(tmp_path, 'uname', 'echo aarch64')}:/usr/bin:/bin"}) as server:
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


def test_names_of_hosts() -> None:
    assert Host.parse("pi@raspberrypi.local") == Host("pi@raspberrypi.local")
    assert Host.parse("board:2222") == Host("board", "2222")
    assert Host.parse("pi@[fe80::1]:22") == Host("pi@fe80::1", "22")
    for wrong in ("", "pi@", "-oProxyCommand=x", "a b", "host:port", "a@b@c"):
        with pytest.raises(LibraryError, match="give ssh:"):
            Host.parse(wrong)
