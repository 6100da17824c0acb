"""Runs a program for another machine in QEMU with a plugin of ours that looks on.

What comes in: an executable, what to feed it, the plugin's name and settings. What goes out: what the plugin wrote.
Every failure is a ToolError.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from mnv2c import processes
from mnv2c.errors import ToolError
from mnv2c.scratch import Scratch
from mnv2c.toolchain import find_zig, link_program

_HOST = "x86_64-linux-gnu.2.28"
_SECONDS = 600


def emulate(
    qemu: str, command: Sequence[str], plugin: str, *, settings: Mapping[str, str] | None = None, feed: bytes = b""
) -> str:
    """Runs ``command`` under ``qemu`` with ``feed`` on its stdin, to the end.

    ``plugin`` is the name of a C file beside this one; it finds its ``settings`` in the environment, and there in
    MNV2C_OUTPUT the file that it writes.
    """
    try:
        with Scratch() as directory:
            library, output = _compile(directory, plugin, _interface_of(qemu)), directory / "output"
            (directory / "feed").write_bytes(feed)
            with (directory / "feed").open("rb") as file:  # a pipe would come in pieces of any size
                done = processes.run(
                    (qemu, "-plugin", str(library), *command),
                    env={**os.environ, **(settings or {}), "MNV2C_OUTPUT": str(output)},
                    feed=file,
                    seconds=_SECONDS,
                )
            if done.returncode != 0 or not output.is_file():
                reason = done.stderr.strip().split("\n")[-1]
                raise ToolError(f"{qemu} with the plugin {plugin} failed (status {done.returncode}): {reason}")
            return output.read_text(encoding="ascii")
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{qemu} did not end within {_SECONDS} s") from error
    except OSError as error:
        raise ToolError(f"cannot emulate a program in {tempfile.gettempdir()}: {error.strerror}") from error


def _interface_of(qemu: str) -> int:
    """The version of the plugin interface: 1 up to QEMU 8, 2 from 9 on."""
    done = processes.run((qemu, "--version"))
    version = re.search(r"version (\d+)\.", done.stdout)
    if version is None:
        raise ToolError(f"{qemu} --version does not say its version, so it is not QEMU's user emulator")
    return 2 if int(version[1]) >= 9 else 1


def _compile(directory: Path, plugin: str, interface: int) -> Path:
    source = resources.files("mnv2c.cost") / f"{plugin}.c"
    (directory / f"{plugin}.c").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    toolchain = find_zig(_HOST)
    flags = ("-shared", "-fPIC", *toolchain.shared_flags, f"-DPLUGIN_VERSION={interface}")
    link_program(toolchain, directory, [f"{plugin}.c"], output=f"{plugin}.so", static=False, flags=flags)
    return directory / f"{plugin}.so"
