"""An ssh server on this machine's loopback, with keys of its own, and an ``ssh`` that knows them."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

_SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True)
class Loopback:
    """``runner`` is what ``--runner`` takes; ``temporary`` the directory for temporary files over there;
    ``environment`` has the ``ssh`` that may log in."""

    port: int
    runner: str
    temporary: Path
    environment: dict[str, str]


def free_port() -> int:
    """Nobody listens there."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def loopback(
    folder: Path, settings: Mapping[str, str] = MappingProxyType({}), *, forced: str = ""
) -> Iterator[Loopback]:
    """Programs over there have ``settings`` in their environment; where a command is ``forced``, it runs in place of
    whatever is asked for. Skips the test where here is no ssh server."""
    if not Path(_SSHD).is_file() or shutil.which("ssh") is None:
        pytest.skip("no ssh server here: apt install openssh-server")
    port = free_port()
    _write_configuration(folder, port, {"TMPDIR": str(folder / "temporary"), **settings}, forced)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it gives up its rights
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([_SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _await(port, folder / "log")
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        runner = f"ssh:{getpass.getuser()}@127.0.0.1:{port}"
        yield Loopback(port, runner, folder / "temporary", {"PATH": path})
    finally:
        server.terminate()
        server.wait()


def _write_configuration(folder: Path, port: int, settings: Mapping[str, str], forced: str) -> None:
    environment = " ".join(f"{name}={value}" for name, value in settings.items())
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'user.pub'}\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nSetEnv {environment}\n"
        + (f"ForceCommand {forced}\n" if forced else "")
    )
    (folder / "temporary").mkdir()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"IdentityFile {folder / 'user'}\nIdentitiesOnly yes\nUserKnownHostsFile {folder / 'known_hosts'}\n"
    )
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "config"} "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)


def _await(port: int, log: Path) -> None:
    for _ in range(600):
        with closing(socket.socket()) as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.skip(f"the ssh server does not start here: {log.read_text().strip()}")
