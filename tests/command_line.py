"""Runs the command line as a user does: a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mnv2c.shipped import SPECS

REPOSITORY = Path(__file__).resolve().parents[1]
"""The repository, if the tests are in it; then ``python -m`` finds the package here, else where it is installed."""

__all__ = ["REPOSITORY", "SPECS", "Finished", "check_refused", "mnv2c", "obey_permissions", "succeed", "succeed_json"]

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h
Finished = subprocess.CompletedProcess[str]


def mnv2c(
    *arguments: str | Path,
    cwd: Path = REPOSITORY,
    environment: Mapping[str, str] = MappingProxyType({}),
    python: tuple[str, ...] = (sys.executable, "-m", "mnv2c"),
    before: Callable[[], object] | None = None,
) -> Finished:
    """``before`` runs in the new process first: limits."""
    return subprocess.run(
        [*python, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )


def obey_permissions() -> None:
    """For ``before``: what only its owner may write, root may not write by being root (CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        if prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def succeed(*arguments: str | Path, cwd: Path = REPOSITORY) -> str:
    """What a command that must succeed prints on stdout."""
    done = mnv2c(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def succeed_json(*arguments: str | Path, cwd: Path = REPOSITORY) -> Any:
    """The same with ``--json``, read."""
    return json.loads(succeed(*arguments, "--json", cwd=cwd))


def check_refused(done: Finished, *words: str) -> None:
    """One line, after those that say what is being done."""
    assert done.returncode == 1
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line.startswith("mnv2c: error: ")
    assert done.stderr.count("mnv2c: error: ") == 1, done.stderr
    assert all(word in line for word in words), line
