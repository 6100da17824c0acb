"""Other programs that tests start: compilers, binutils, emulators."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def need(tool: str) -> str:
    """The path of a program; where this machine has none, the test is skipped."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not on this machine")
    return path


def call(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a program that must succeed prints on stdout; the test is skipped where it is not on this machine."""
    program = need(str(command[0]))
    environment = os.environ | (env or {})
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sanitizer_flags(sanitizer: str, directory: Path) -> tuple[str, ...]:
    """For a compiler that has it, which runs in ``directory`` here; else the test is skipped."""
    (directory / "probe.c").write_text("int main(void) { return 0; }\n")
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1")
    probe = subprocess.run([need("cc"), *flags, directory / "probe.c", "-o", directory / "probe"], check=False)
    if probe.returncode != 0 or subprocess.run([directory / "probe"], check=False).returncode != 0:
        pytest.skip(f"cc has no {sanitizer} sanitizer here")
    return flags
