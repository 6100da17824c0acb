"""A real library, as small and quick to build as one gets, for tests of everything that reads a build directory."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from changed_build import replace_file
from command_line import SPECS, succeed
from onnx import numpy_helper

SMALL = (str(SPECS / "mnv2_0.35.yaml"), "--set", "resolution=96", "--set", "classes=1001", "--seed", "1")
"""0.35 at 96 with a background class, on seeded weights."""

RESOLUTION, CLASSES = 96, 1001


@pytest.fixture(scope="session")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: see ``copy_of``."""
    return _built(tmp_path_factory, "native")


@pytest.fixture(scope="session")
def small_arm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for every 64-bit Arm board."""
    return _built(tmp_path_factory, "arm")


@pytest.fixture(scope="session")
def small_armv7_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for 32-bit Arm."""
    return _built(tmp_path_factory, "armv7")


def _built(tmp_path_factory: pytest.TempPathFactory, target: str) -> Path:
    """Built once, by whichever of pytest-xdist's processes wants it first."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # that of all of them
    library = place / f"small-{target}"
    with (place / f"small-{target}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            succeed("build", *SMALL, "--target", target, "--out", library)
    return library


def copy_of(library: Path, directory: Path) -> Path:
    """A library that a test may damage."""
    return Path(shutil.copytree(library, directory / "library"))


def damage_reference(library: Path, weight: str) -> None:
    """Another value in the reference alone: then the library is wrong from that layer on."""
    model = onnx.load(library / "model.onnx")
    (initializer,) = [one for one in model.graph.initializer if one.name == weight]
    changed = numpy_helper.to_array(initializer) + np.float32(0.5)
    initializer.CopyFrom(numpy_helper.from_array(changed, weight))
    replace_file(library, "model.onnx", model.SerializeToString())
