"""A wheel of a library: what is in it, and that pip, Python and numpy are all it takes."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from changed_build import changed_manifest
from command_line import succeed, succeed_json
from no_skips import WITHOUT_ARM_PYTHON
from numpy.typing import NDArray
from programs import call, need
from small_library import RESOLUTION, copy_of

import mnv2c
from mnv2c.deploy.opening import open_network
from mnv2c.measure.images import seeded_image

ARM_PYTHON = os.environ.get("MNV2C_ARM_PYTHON", "")
FRAME = seeded_image(0, (150, 200, 3))
PIXELS = seeded_image(1, (RESOLUTION, RESOLUTION, 3))
X = np.random.default_rng(0).normal(size=(RESOLUTION, RESOLUTION, 3)).astype(np.float32)

RUNS = """
import sys
import numpy as np
import mnv2_0_35
with mnv2_0_35.load(threads=2) as net:
    given = np.load("given.npz")
    assert (net.threads, net.input_shape[0]) == (2, 1)
    print(net.instruction_set)
    found = {"frame": net.run_image(given["frame"], "bgr"), "rgb": net.run_rgb(given["pixels"])}
    np.savez("logits.npz", x=net.run(given["x"]), **found, **net.outputs(given["x"]))
try:
    net.run(given["x"])
except mnv2_0_35.NetworkError as error:
    print(error)
try:
    mnv2_0_35.load(instruction_set="v9")
except mnv2_0_35.NetworkError as error:
    print(error)
assert not [name for name in sys.modules if name.startswith(("mnv2c", "tvm"))]
"""


@pytest.fixture(scope="module")
def wheel(small_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    succeed("wheel", small_library, "--out", directory / "made")
    (path,) = (directory / "made").iterdir()
    return path


def test_pip_installs_it_beside_numpy_alone(wheel: Path, small_library: Path, tmp_path: Path) -> None:
    """Without site-packages: what is imported is the wheel and a copy of numpy."""
    packages = tmp_path / "packages"
    call(sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", packages, wheel, cwd=tmp_path)
    for file in metadata.files("numpy") or []:
        if (top := file.parts[0]).startswith("numpy") and not (packages / top).exists():
            (packages / top).symlink_to(Path(str(metadata.distribution("numpy").locate_file(top))))
    with mnv2c.load(small_library, threads=2) as net:
        wanted = {"rgb": net.run_rgb(PIXELS), "x": net.run(X), "frame": net.run_image(FRAME, "bgr"), **net.outputs(X)}
        name = net.instruction_set
    found = run_wheel([sys.executable], [packages], tmp_path, name)
    assert set(found) == set(wanted)
    for name, logits in wanted.items():
        np.testing.assert_array_equal(found[name], logits, err_msg=name)


def run_wheel(
    python: Sequence[str | Path], packages: Sequence[Path], folder: Path, instruction_set: str
) -> Mapping[str, NDArray[np.float32]]:
    """What ``RUNS`` finds with the kernels that it must take, without site-packages."""
    np.savez(folder / "given.npz", pixels=PIXELS, x=X, frame=FRAME)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, packages))}
    command = [*python, "-S", "-c", RUNS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        instruction_set,
        "the network is closed",
        "the library was not built for this instruction set",
    ]
    with np.load(folder / "logits.npz") as logits:
        return dict(logits)


@pytest.fixture(scope="module")
def arm_packages(small_arm_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the wheel of the library for 64-bit Arm, as on a board with Debian 12."""
    folder = tmp_path_factory.mktemp("arm")
    wheel = Path(succeed_json("wheel", small_arm_library, "--out", folder / "made")["path"])
    there = ("--platform", "manylinux_2_36_aarch64", "--platform", "manylinux_2_28_aarch64", "--only-binary", ":all:")
    command = ("install", "--no-index", "--no-deps", *there, "--target", folder / "packages", wheel)
    call(sys.executable, "-m", "pip", *command, cwd=folder)
    return folder / "packages"


@pytest.mark.skipif(not ARM_PYTHON, reason=WITHOUT_ARM_PYTHON)
@pytest.mark.parametrize(
    ("cpu", "instruction_set"), [("cortex-a53", "a53"), ("cortex-a72", "a72"), ("cortex-a76", "a76"), ("max", "a76")]
)
def test_on_a_64_bit_arm_machine(
    cpu: str, instruction_set: str, arm_packages: Path, small_arm_library: Path, small_library: Path, tmp_path: Path
) -> None:
    """Under qemu, in a Python of such a machine: bit for bit what the library computes without Python."""
    python = (need("qemu-aarch64"), "-cpu", cpu, "-L", ARM_PYTHON, f"{ARM_PYTHON}/usr/bin/python3")
    found = run_wheel(python, [arm_packages, Path(ARM_PYTHON) / "packages"], tmp_path, instruction_set)
    with open_network(small_arm_library, f"qemu:{cpu}", threads=2) as net:
        wanted = {"rgb": net.run_rgb(PIXELS), "x": net.run(X), **net.outputs(X)}
    with mnv2c.load(small_library) as here:
        np.testing.assert_allclose(found["frame"], here.run_image(FRAME, "bgr"), atol=1e-4)
    assert set(found) == {*wanted, "frame"}
    for name, logits in wanted.items():
        np.testing.assert_array_equal(found[name], logits, err_msg=name)


def test_the_same_library_gives_the_same_bytes(wheel: Path, small_library: Path, tmp_path: Path) -> None:
    result = succeed_json("wheel", small_library, "--out", tmp_path)
    again = Path(result["path"])
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()
    assert result["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_it_lies_beside_the_build(small_library: Path) -> None:
    printed = succeed("wheel", small_library.name, cwd=small_library.parent)
    path = small_library.parent / printed.split("  ")[0]
    assert f"pip install {path.name}" in printed
    path.unlink()


@pytest.mark.parametrize(
    ("fixture", "platform", "machine"),
    [
        ("small_library", "manylinux_2_28_x86_64", "X86-64"),
        ("small_arm_library", "manylinux_2_28_aarch64", "AArch64"),
        ("small_armv7_library", "manylinux_2_28_armv7l", "ARM"),
    ],
)
def test_what_is_in_it(
    fixture: str, platform: str, machine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As pip reads it: the tag in its name and in WHEEL, every file's hash in RECORD; the library as it was built."""
    library: Path = request.getfixturevalue(fixture)
    path = Path(succeed_json("wheel", library, "--out", tmp_path)["path"])
    shared = library / "lib/libmnv2_0_35.so"
    version = f"{mnv2c.__version__}+sha{hashlib.sha256(shared.read_bytes()).hexdigest()[:8]}"
    assert path.name == f"mnv2_0_35-{version}-py3-none-{platform}.whl"
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        files = {name: file.read(name) for name in file.namelist()}
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in file.infolist()} == {0o100644}
    about = f"mnv2_0_35-{version}.dist-info"
    assert set(files) == {f"mnv2_0_35/{name}" for name in ("__init__.py", "binding.py", shared.name)} | {
        f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD")
    }
    assert files[f"mnv2_0_35/{shared.name}"] == shared.read_bytes()
    assert f"Tag: py3-none-{platform}\n" in files[f"{about}/WHEEL"].decode()
    assert f"Name: mnv2_0_35\nVersion: {version}\n" in files[f"{about}/METADATA"].decode()
    assert "Requires-Dist: numpy\n" in files[f"{about}/METADATA"].decode()
    rows = {row[0]: row[1:] for row in csv.reader(files[f"{about}/RECORD"].decode().splitlines())}
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert rows.pop(name) == (["", ""] if name.endswith("RECORD") else [f"sha256={digest}", str(len(content))])
    assert rows == {}
    (line,) = (line for line in call("readelf", "-h", shared).splitlines() if "Machine:" in line)
    assert line.endswith(machine)


def test_its_code_is_of_python_3_9(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        for name in ("mnv2_0_35/__init__.py", "mnv2_0_35/binding.py"):
            ast.parse(file.read(name), feature_version=(3, 9))


def test_a_compiler_that_asks_for_a_newer_c_library(small_library: Path, tmp_path: Path) -> None:
    """The tag is of what the library needs, not of what it was meant to."""
    library = copy_of(small_library, tmp_path)
    shared, manifest = library / "lib/libmnv2_0_35.so", library / "manifest.json"
    shared.write_bytes(shared.read_bytes() + b"\0GLIBC_2.34\0")
    after = hashlib.sha256(shared.read_bytes()).hexdigest()
    name = "lib/libmnv2_0_35.so"
    content = changed_manifest(manifest.read_bytes(), lambda m: m["files"].update({name: after}))
    manifest.write_bytes(content)
    assert succeed_json("wheel", library)["tag"] == "py3-none-manylinux_2_34_x86_64"
