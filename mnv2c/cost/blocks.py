"""Counts how often each block of instructions runs: a program for another machine, in QEMU, with a plugin.

What comes in: an executable and what to feed it. What goes out: ``Block`` values. Every failure is a ToolError.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mnv2c.errors import ToolError
from mnv2c.toolchain import find_zig, link_program

_HOST = "x86_64-linux-gnu.2.28"
_SECONDS = 600


@dataclass(frozen=True)
class Block:
    """``instructions`` in a row from ``address`` on, run ``count`` times. Two blocks may overlap."""

    address: int
    instructions: int
    count: int


def count_blocks(qemu: str, command: Sequence[str], *, feed: bytes = b"") -> list[Block]:
    """Runs ``command`` under ``qemu`` with ``feed`` on its stdin, to the end."""
    try:
        with tempfile.TemporaryDirectory(prefix="mnv2c-") as name:
            directory = Path(name)
            plugin = _compile_plugin(directory, _interface_of(qemu))
            (directory / "feed").write_bytes(feed)
            with (directory / "feed").open("rb") as file:  # a pipe would come in pieces of any size
                done = subprocess.run(
                    (qemu, "-plugin", str(plugin), *command),
                    env=os.environ | {"MNV2C_BLOCKS": str(directory / "blocks")},
                    stdin=file,
                    capture_output=True,
                    timeout=_SECONDS,
                    check=False,
                )
            if done.returncode != 0 or not (directory / "blocks").is_file():
                reason = done.stderr.decode(errors="replace").strip().split("\n")[-1]
                raise ToolError(f"{qemu} with the counting plugin failed (status {done.returncode}): {reason}")
            return _read(directory / "blocks")
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{qemu} did not end within {_SECONDS} s") from error
    except OSError as error:
        raise ToolError(f"cannot count instructions in {tempfile.gettempdir()}: {error.strerror}") from error


def _interface_of(qemu: str) -> int:
    """The version of the plugin interface: 1 up to QEMU 8, 2 from 9 on."""
    done = subprocess.run((qemu, "--version"), capture_output=True, text=True, check=False)
    version = re.search(r"version (\d+)\.", done.stdout)
    if version is None:
        raise ToolError(f"{qemu} --version does not say its version, so it is not QEMU's user emulator")
    return 2 if int(version[1]) >= 9 else 1


def _compile_plugin(directory: Path, interface: int) -> Path:
    source = (resources.files("mnv2c.cost") / "count_blocks.c").read_text(encoding="utf-8")
    (directory / "count_blocks.c").write_text(source, encoding="utf-8")
    toolchain = find_zig(_HOST)
    flags = ("-shared", "-fPIC", *toolchain.shared_flags, f"-DPLUGIN_VERSION={interface}")
    link_program(toolchain, directory, ["count_blocks.c"], output="count_blocks.so", static=False, flags=flags)
    return directory / "count_blocks.so"


def _read(path: Path) -> list[Block]:
    """QEMU may translate a block twice: its counts are added."""
    total: Counter[tuple[int, int]] = Counter()
    for line in path.read_text(encoding="ascii").splitlines():
        address, instructions, count = line.split()
        total[int(address, 16), int(instructions)] += int(count)
    return [Block(address, instructions, count) for (address, instructions), count in sorted(total.items())]
