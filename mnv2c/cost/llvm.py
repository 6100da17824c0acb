"""LLVM's programs: finds and runs them. Every failure is a ToolError that says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mnv2c import processes
from mnv2c.errors import ToolError

_NEWEST, _OLDEST = 30, 15  # versions of LLVM in Debian's program names


def find_tool(tool: str) -> str:
    """The newest there is: Debian names them llvm-mca-19, distributions with one LLVM llvm-mca."""
    for name in [*(f"{tool}-{number}" for number in range(_NEWEST, _OLDEST - 1, -1)), tool]:
        if path := shutil.which(name):
            return path
    raise ToolError(f"{tool} is missing, which reads code and knows cores: apt install llvm-19")


def run_tool(command: Sequence[str], *, feed: str = "") -> str:
    """What it prints when it is given ``feed``."""
    try:
        done = processes.run(command, feed=feed.encode())
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("error")), f"status {done.returncode}"
        )
        raise ToolError(f"{Path(command[0]).name} failed: {reason}")
    return done.stdout
