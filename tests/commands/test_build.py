"""What ``build`` prints for people: commands that a shell runs as they stand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mnv2c.commands.build import _next
from mnv2c.deploy.native import _architecture_of
from mnv2c.deploy.network import read_build
from mnv2c.targets import Target, target_named


@pytest.mark.parametrize(("fixture", "name"), [("small_library", "native"), ("small_armv7_library", "armv7")])
def test_the_next_command_makes_a_program(
    fixture: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    target: Target = target_named(name)
    directory = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "it's a place")
    identifier = read_build(directory).interface.identifier
    validate, run, compile_ = _next(directory, target, identifier, classifies=True)
    assert validate.startswith(f"mnv2c validate '{tmp_path}")
    assert run.endswith("IMAGE.jpg --runner qemu" if name == "armv7" else "IMAGE.jpg")
    assert ("-mcpu=cortex_a7" in compile_) == (name == "armv7")
    subprocess.run(compile_, shell=True, check=True, cwd=tmp_path)
    assert _architecture_of(tmp_path / "classify") == target.architecture
