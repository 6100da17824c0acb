"""A whole library for GPUs, with a stand-in for the driver that computes: built, validated, misused. No GPU."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import mnv2c, succeed, succeed_json
from emulated import ORDERS, stand_in
from gpu_kernels import kernels_of
from programs import call
from small_library import SMALL

from mnv2c.measure.validate import TOLERANCES
from mnv2c.precision import Precision

SETTINGS = [value for flag, value in itertools.pairwise(SMALL) if flag == "--set"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cuda") / "library"
    succeed("build", *SMALL, "--target", "cuda:sm_90", "--out", directory)
    return directory


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return stand_in(kernels_of(SMALL[0], SETTINGS), tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize("order", ORDERS)
def test_the_library_is_right_in_any_order_of_threads(library: Path, driver: Mapping[str, str], order: int) -> None:
    finished = mnv2c("validate", library, environment={**driver, "STAND_IN_ORDER": str(order)})
    assert finished.returncode == 0, finished.stderr
    assert "instruction set sm_90" in finished.stdout


def test_every_layer_is_right(library: Path, driver: Mapping[str, str]) -> None:
    finished = mnv2c("validate", library, "--layers", environment=driver)
    assert finished.returncode == 0, finished.stderr


IMAGES = """
import sys
import numpy as np
import mnv2c
from mnv2c.measure.images import seeded_image
with mnv2c.load(sys.argv[1]) as net:
    pixels = seeded_image(0, net.input_shape[1:])
    print(np.array_equal(net.run_image(pixels[..., ::-1], "bgr"), net.run_rgb(pixels)))
    try:
        net.run_image(pixels[:0], "rgb")
    except mnv2c.errors.LibraryError as error:
        print(error)
"""


def test_images_as_cameras_deliver_them(library: Path, driver: Mapping[str, str]) -> None:
    same, refused = call(sys.executable, "-c", IMAGES, library, env=dict(driver)).splitlines()
    assert same == "True"
    assert refused.endswith(
        "an image's width or height is out of range, or odd in a format where two pixels share colour"
    )


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_other_precisions_are_right_within_their_tolerance(precision: Precision, tmp_path: Path) -> None:
    library = tmp_path / "library"
    built = succeed("build", *SMALL, "--target", "cuda:sm_90", "--precision", precision, "--out", library)
    assert f", {precision}, in " in built
    environment = stand_in(kernels_of(SMALL[0], SETTINGS, precision), tmp_path)
    finished = mnv2c("validate", library, "--layers", "--json", environment=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads(finished.stdout)
    assert (found["precision"], found["first_diverging_layer"]) == (precision, None)
    assert found["allowed"]["logits"] == TOLERANCES[precision]
    assert TOLERANCES["fp32"] < found["max_abs_error"] < TOLERANCES[precision]  # it does round
    assert f", {precision}, estimated" in succeed("cost", library)


def test_a_precision_that_the_target_does_not_have_is_refused(tmp_path: Path) -> None:
    for target, precision, message in (
        ("x86", "fp16", "target x86: kernels for CPUs compute in fp32, not in fp16"),
        ("cuda:sm_75", "tf32", "target cuda:sm_75: tensor cores take tf32 from sm_80 on; this one's take fp16"),
    ):
        finished = mnv2c("build", *SMALL, "--target", target, "--precision", precision, "--out", tmp_path / "library")
        assert finished.returncode == 1
        assert message in finished.stderr
        finished = mnv2c("tune", SMALL[0], "--target", target, "--precision", precision)
        assert finished.returncode == 1
        assert message in finished.stderr
    assert not list(tmp_path.iterdir())


def test_the_doctor_finds_the_gpu(driver: Mapping[str, str]) -> None:
    for settings, words in (
        (driver, "a stand-in, sm_90, driver for CUDA 12.9"),
        ({**driver, "STAND_IN_DEVICES": "0"}, "no NVIDIA GPU: cuInit failed with CUresult 100"),
        ({}, "no NVIDIA driver: libcuda.so.1 cannot be loaded"),
    ):
        (line,) = [line for line in mnv2c("doctor", environment=settings).stdout.splitlines() if "NVIDIA GPU" in line]
        assert line.endswith(words)


def test_peers_that_are_missing_are_named(library: Path, driver: Mapping[str, str], tmp_path: Path) -> None:
    for package in ("torch", "onnxruntime"):
        (tmp_path / package).mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('torch')\n", encoding="utf-8")
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "def get_available_providers():\n    return ['CPUExecutionProvider']\n", encoding="utf-8"
    )
    for peer, status, message in (
        ("torch", 1, "torch is not installed: pip install torch"),
        ("onnxruntime", 1, "onnxruntime: the package that is installed is for CPUs: pip install onnxruntime-gpu"),
        ("openvino", 2, "unknown engine 'openvino': there are onnxruntime, torch"),
    ):
        environment = {**driver, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        finished = mnv2c("bench", library, "--against", peer, environment=environment)
        assert (finished.returncode, finished.stdout) == (status, "")
        assert finished.stderr.splitlines()[-1].endswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"STAND_IN_DEVICES": "0"}, "no NVIDIA GPU"),
        ({"STAND_IN_VERSION": "11080"}, "the NVIDIA driver is too old"),
        ({"STAND_IN_CAPABILITY": "70"}, "the library has no code for this GPU"),
        ({"STAND_IN_CAPABILITY": "100"}, "the library has no code for this GPU"),
        ({"STAND_IN_FAIL": "cuMemAlloc_v2 2 2"}, "out of GPU memory"),
        ({"STAND_IN_FAIL": "cuModuleLoadData 300 1"}, "cuModuleLoadData failed with CUresult 300"),
        ({"STAND_IN_FAIL": "cuGraphLaunch 719 2"}, "the CUDA context is lost"),
    ],
)
def test_a_failing_driver_is_told_in_one_line(
    library: Path, driver: Mapping[str, str], settings: Mapping[str, str], message: str
) -> None:
    finished = mnv2c("validate", library, environment={**driver, **settings})
    assert finished.returncode != 0
    (line,) = finished.stderr.strip().splitlines()[-1:]
    assert message in line


def test_a_program_that_cc_links_says_that_there_is_no_driver(
    library: Path, driver: Mapping[str, str], tmp_path: Path
) -> None:
    program = compiled(library, library / "examples" / "main.c", tmp_path)
    image = tmp_path / "image.rgb"
    image.write_bytes(os.urandom(96 * 96 * 3))
    without = subprocess.run([program, image], capture_output=True, text=True, check=False)
    assert without.returncode != 0
    assert "no NVIDIA driver" in without.stderr
    with_driver = subprocess.run([program, image], capture_output=True, text=True, env=dict(driver), check=False)
    assert with_driver.returncode == 0, with_driver.stderr
    assert len(with_driver.stdout.splitlines()) == 5


def test_streams_graphs_and_threads(library: Path, driver: Mapping[str, str], tmp_path: Path) -> None:
    program = compiled(library, Path(__file__).with_name("streams.c"), tmp_path)
    assert call(program, env=dict(driver)) == "streams, graphs and threads: all as they should\n"


FORKED = """
import os, sys
import numpy as np
import mnv2c
pixels = np.zeros((96, 96, 3), np.uint8)
net = mnv2c.load(sys.argv[1])
before = net.run_rgb(pixels)
if os.fork() == 0:
    uses = [lambda: net.run_rgb(pixels), lambda: net.run_image(pixels, "rgb"), lambda: mnv2c.load(sys.argv[1])]
    for use in uses:
        try:
            use()
        except mnv2c.errors.LibraryError as error:
            print(error, flush=True)
    net.close()
    sys.exit()
print(os.wait()[1], np.array_equal(net.run_rgb(pixels), before), flush=True)
"""


def test_a_child_of_fork_is_told_that_the_driver_is_its_parents(library: Path, driver: Mapping[str, str]) -> None:
    *told, parent = call(sys.executable, "-c", FORKED, library, env=dict(driver)).splitlines()
    assert len(told) == 3
    assert all("fork before the first context is created" in line for line in told)
    assert parent == "0 True"


def test_arrays_of_other_packages_are_read_and_written_in_place(library: Path, driver: Mapping[str, str]) -> None:
    program = Path(__file__).with_name("device_arrays_program.py")
    output = call(sys.executable, program, library, env={**driver, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert output == "arrays of both protocols: all as they should\n"


def test_a_kernel_that_does_not_wait_for_the_one_before_it_is_caught(library: Path, tmp_path: Path) -> None:
    kernels = kernels_of(SMALL[0], SETTINGS)
    hasty = [replace(kernel, source=kernel.source.replace("WAIT();", "")) for kernel in kernels]
    finished = mnv2c("validate", library, environment=stand_in([*kernels[:3], *hasty[3:]], tmp_path))
    assert finished.returncode == -signal.SIGSEGV


def test_what_it_takes_of_a_gpu_is_told(library: Path) -> None:
    told = succeed_json("cost", library, "--core", "h100")
    assert told["instruction_set"] == "sm_90"
    assert len(told["layers"]) == 37
    for layer in told["layers"]:
        assert layer["resident"] >= 1
        assert layer["block"]["spilled_bytes"] == 0
        assert layer["seconds"] >= 1e-6
    assert "37 launches" in succeed("cost", library)
    for arguments, words in {
        ("--core", "h10"): "unknown GPU 'h10': did you mean h100?",
        ("--core", "t4"): "no code for sm_75 in the library; it has sm_90",
        ("--core", "t4", "--instruction-set", "sm_90"): "t4 runs code for sm_75, not for sm_90",
        ("--instruction-set", "sm_12"): "no code is kept for sm_12",
    }.items():
        finished = mnv2c("cost", library, *arguments)
        assert finished.returncode == 1
        assert words in finished.stderr


def compiled(library: Path, source: Path, directory: Path) -> Path:
    """A program, the library in it."""
    (static,) = (library / "lib").glob("*.a")
    program = directory / source.stem
    call("cc", "-Wall", "-Werror", "-I", library / "include", source, static, "-pthread", "-lm", "-ldl", "-o", program)
    return program
