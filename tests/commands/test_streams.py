"""Streams that are closed or full, and text that a terminal would take for a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY, mnv2c
from mini_spec import MINI

MNV2C = f"{sys.executable} -m mnv2c"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=REPOSITORY,
        check=False,
    )


@pytest.mark.parametrize("arguments", ["--help", "--version", "build --help", "targets", "targets --json"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_an_error(arguments: str, unbuffered: str) -> None:
    done = shell(f"{MNV2C} {arguments} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr == "mnv2c: error: the result cannot be written to stdout: No space left on device\n"


def test_without_stdout_or_stderr_it_works_as_ever(tmp_path: Path) -> None:
    (tmp_path / "mini.yaml").write_text(MINI, encoding="utf-8")
    build = f"{MNV2C} build {tmp_path}/mini.yaml --target native --out {tmp_path}/built"
    done = shell(f"{build} >&-")
    assert (done.returncode, done.stdout) == (0, "")
    assert "error" not in done.stderr
    done = shell(f"{build} --json 2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["directory"] == f"{tmp_path}/built"


def test_what_a_terminal_would_obey_is_shown_as_its_code(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(MINI + '"\\e[2J\\e]0;title\\a": 1\n', encoding="utf-8")
    done = mnv2c("show", tmp_path / "evil.yaml")
    assert done.returncode == 1
    assert "unknown key `\\x1b[2J\\x1b]0;title\\x07`" in done.stderr
    assert "\x1b" not in done.stderr
    done = mnv2c("show", tmp_path / "no\x1b[31msuch.yaml")
    assert "no\\x1b[31msuch.yaml" in done.stderr
    assert "\x1b" not in done.stderr
    (tmp_path / "x86-64-v3").mkdir()
    (tmp_path / "x86-64-v3" / "a\x1b[2J.jsonl").write_text("{}\n", encoding="utf-8")
    done = mnv2c("records", "list", "--schedules", tmp_path)
    assert "a\\x1b[2J.jsonl:1: not a record" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_name_without_end_is_told_without_its_middle(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("? " + "a" * 60_000 + "\n: 1\n", encoding="utf-8")
    done = mnv2c("show", tmp_path / "long.yaml")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "unknown key" in line]
    assert len(line) < 1100
    assert line.endswith("a`")


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.yaml"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - no Path has it
        file.write(MINI)
    done = mnv2c("show", os.fsdecode(path), "--emit", "ir")
    assert done.returncode == 0, done.stderr
    assert "# \\xff.yaml:" in done.stdout


def test_letters_that_an_ascii_terminal_cannot_show(tmp_path: Path) -> None:
    (tmp_path / "häuser.yaml").write_text(MINI, encoding="utf-8")
    done = shell(f"{MNV2C} show {tmp_path}/h*user.yaml --emit ir", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "# h\\xe4user.yaml:" in done.stdout
