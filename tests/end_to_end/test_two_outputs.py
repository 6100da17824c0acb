"""A network with two outputs, logits and the map before the pool: from C, from Python, from commands, against ONNX."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import SPECS, mnv2c, succeed_json
from numpy.typing import NDArray
from photograph import photograph
from programs import call, need
from small_library import copy_of, damage_reference

import mnv2c as package
from mnv2c.deploy.manifest import WeightsSource
from mnv2c.driver import Sources, build_network
from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Array
from mnv2c.measure.images import seeded_image
from mnv2c.reference.evaluator import Reference
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.targets import target_named
from mnv2c.weights.seeded import seeded_weights

IMAGES, CLASSES, FEATURES = (2, 64, 96, 3), 1000, (2, 2, 3, 1280)

PROGRAM = """\
#include <stdio.h>
#include "mnv2_0_35.h"
enum { IMAGES = MNV2_0_35_BATCH * MNV2_0_35_HEIGHT * MNV2_0_35_WIDTH * MNV2_0_35_CHANNELS };
static float input[IMAGES], logits[MNV2_0_35_LOGITS_SIZE], features[MNV2_0_35_FEATURES_SIZE];
static uint8_t rgb[IMAGES];
static int put(int status)
{
    fwrite(logits, sizeof logits, 1, stdout);
    fwrite(features, sizeof features, 1, stdout);
    return status;
}
int main(void)
{
    mnv2_0_35_options options = MNV2_0_35_OPTIONS_INIT;
    mnv2_0_35_context *context;
    options.threads = 2;
    if (fread(input, sizeof input, 1, stdin) != 1 || fread(rgb, sizeof rgb, 1, stdin) != 1) return 10;
    if (mnv2_0_35_create(&options, &context) != MNV2_0_35_OK) return 11;
    int failed = put(mnv2_0_35_run(context, input, logits, features));
    for (int i = 0; i < MNV2_0_35_FEATURES_SIZE; i++) features[i] = -1;
    failed |= put(mnv2_0_35_run_rgb(context, rgb, logits, features));
    mnv2_0_35_destroy(context);
    return failed;
}
"""


def build(directory: Path, target: str) -> Path:
    """Two images of 64 x 96 at once, of the narrowest network."""
    spec = load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=[64, 96]", "batch=2"])
    graph = dataclasses.replace(
        build_graph(spec, seeded_weights(spec, 7)), outputs={"logits": "fc", "features": "head.relu6"}
    )
    sources = Sources(spec=repr(spec), weights=WeightsSource("seeded", None, 7))
    build_network(graph, sources, target=target_named(target)).write(directory)
    return directory


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("two") / "library", "x86")


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.stack([seeded_image(index, IMAGES[1:]) for index in range(IMAGES[0])])


@pytest.fixture(scope="module")
def images(pixels: NDArray[np.uint8]) -> Array:
    return (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)


@pytest.fixture(scope="module")
def wanted(library: Path, images: Array) -> dict[str, Array]:
    """What ONNX computes; its file declares both outputs, NHWC as ours."""
    model = onnx.load(library / "model.onnx")
    shapes = {
        output.name: tuple(extent.dim_value for extent in output.type.tensor_type.shape.dim)
        for output in model.graph.output
    }
    assert shapes == {"logits": (IMAGES[0], CLASSES), "features": FEATURES}
    found = Reference(model).run(images)
    assert {name: value.shape for name, value in found.items()} == shapes
    assert not np.allclose(found["logits"][0], found["logits"][1]), "the two images can be told apart"
    return found


def check(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert list(found) == ["logits", "features"]
    for name, values in found.items():
        np.testing.assert_allclose(values, wanted[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("threads", [1, 3])
def test_from_python(
    library: Path, pixels: NDArray[np.uint8], images: Array, wanted: dict[str, Array], threads: int
) -> None:
    with package.load(library) as net:
        first = net.instruction_sets.index(net.instruction_set)
    for name in net.instruction_sets[first:]:
        with package.load(library, threads=threads, instruction_set=name) as net:
            assert net.output_shapes == {"logits": (IMAGES[0], CLASSES), "features": FEATURES}
            check(net.outputs(images), wanted)
            check(net.outputs(pixels), wanted)
            with pytest.raises(LibraryError, match=r"this one has 2 \(logits, features\): use outputs"):
                net.run(images)


@pytest.mark.parametrize("linked", ["lib/libmnv2_0_35.a", "lib/libmnv2_0_35.so"])
def test_from_a_c_program(
    library: Path, pixels: NDArray[np.uint8], images: Array, wanted: dict[str, Array], tmp_path: Path, linked: str
) -> None:
    need("cc")
    (tmp_path / "main.c").write_text(PROGRAM, encoding="utf-8")
    flags = ("-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{library / 'include'}", f"-Wl,-rpath,{library / 'lib'}")
    call("cc", *flags, tmp_path / "main.c", library / linked, "-pthread", "-lm", "-o", tmp_path / "main")
    done = subprocess.run(
        [tmp_path / "main"], input=images.tobytes() + pixels.tobytes(), capture_output=True, check=False
    )
    assert done.returncode == 0
    count = IMAGES[0] * CLASSES
    runs = np.frombuffer(done.stdout, np.float32).reshape(2, -1)
    for run in runs:
        check({"logits": run[:count].reshape(-1, CLASSES), "features": run[count:].reshape(FEATURES)}, wanted)


def test_the_example_classifies(
    library: Path, pixels: NDArray[np.uint8], wanted: dict[str, Array], tmp_path: Path
) -> None:
    """It has a buffer for each output; its image is the first of the batch."""
    sources = (library / "examples/main.c", library / "lib/libmnv2_0_35.a")
    call(need("cc"), f"-I{library / 'include'}", "-Werror", *sources, "-pthread", "-lm", "-o", tmp_path / "classify")
    (tmp_path / "image.rgb").write_bytes(pixels[0].tobytes())
    best = call(tmp_path / "classify", tmp_path / "image.rgb").split()
    assert int(best[0]) == int(wanted["logits"][0].argmax())


def test_validate_compares_both(library: Path, tmp_path: Path) -> None:
    result = succeed_json("validate", library, "--inputs", "3", "--layers")
    assert {one["output"] for one in result["comparisons"]} == {"logits", "features"}
    assert result["max_abs_error"] <= 1e-4
    assert result["first_diverging_layer"] is None
    (head,) = [layer for layer in result["layers"] if layer["name"] == "head"]
    assert head["edge"] == "head.relu6"
    wrong = copy_of(library, tmp_path)
    damage_reference(wrong, "fc.bias")
    done = mnv2c("validate", wrong, "--inputs", "2", "--json")
    assert done.returncode == 1
    off = {one["output"] for one in json.loads(done.stdout)["comparisons"] if one["max_abs_error"] > 1e-4}
    assert off == {"logits"}, "the map before the pool does not know of the classifier"


def test_run_prints_the_classes(library: Path, tmp_path: Path) -> None:
    (entry,) = succeed_json("run", library, photograph(tmp_path / "a.png"))["images"]
    assert len(entry["top"]) == 5


def test_on_a_board(tmp_path: Path) -> None:
    need("qemu-aarch64-static")
    library = build(tmp_path / "pi4", "pi4")
    result = succeed_json("validate", library, "--inputs", "2", "--runner", "qemu")
    assert result["max_abs_error"] <= 1e-4
    assert {one["output"] for one in result["comparisons"]} == {"logits", "features"}
