"""From a table to a validated library, as the issue's Shows ask: with trained weights and photographs where they are
there, and on seeded weights everywhere. Each command is a process of its own."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import SPECS, succeed_json
from onnx import numpy_helper
from PIL import Image, ImageOps
from shared_data import GOLDEN, PHOTOGRAPHS, SHARED_DATA, TRAINED, needs_shared_data

import mnv2c
from mnv2c.deploy.manifest import normalise

LABELS = SHARED_DATA / "imagenet_labels_1001.txt"
ORIGINALS = SHARED_DATA / "images" / "original"
TRAINED_BUILD = ("build", SPECS / "mnv2_1.0.yaml", "--set", "classes=1001", "--weights", TRAINED)


@pytest.fixture(scope="module")
def trained_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for every x86-64 machine, with the trained weights."""
    directory = tmp_path_factory.mktemp("trained") / "mnv2_1.0-x86"
    succeed_json(*TRAINED_BUILD, "--target", "x86", "--out", directory)
    return directory


def runnable(library: Path) -> list[str]:
    """The instruction sets of a library that this machine has."""
    names = json.loads((library / "manifest.json").read_text(encoding="utf-8"))["interface"]["instruction_sets"]
    with mnv2c.load(library) as net:
        found = list(itertools.dropwhile(lambda name: name != net.instruction_set, names))  # the best comes first
    assert found, "none would be validated"
    return found


@needs_shared_data
def test_photographs_on_every_instruction_set(trained_library: Path) -> None:
    names = runnable(trained_library)
    assert names
    for name in names:
        result = succeed_json("validate", trained_library, "--images", PHOTOGRAPHS, "--instruction-set", name)
        assert result["instruction_set"] == name
        assert result["inputs"] == 18
        assert result["max_abs_error"] <= 1e-4
        assert result["top5_agreement"] == 1.0


@needs_shared_data
@pytest.mark.parametrize(
    ("target", "cores"),
    [
        ("arm", {"cortex-a53": "a53", "cortex-a72": "a72", "cortex-a76": "a76"}),
        ("armv7", {"cortex-a7": "armv7"}),
    ],
)
def test_photographs_on_boards(target: str, cores: dict[str, str], tmp_path: Path) -> None:
    """In qemu, as fast as that is: four photographs on each core, by the kernels for it."""
    emulator = "qemu-arm-static" if target == "armv7" else "qemu-aarch64-static"
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not here: apt install qemu-user-static")
    succeed_json(*TRAINED_BUILD, "--target", target, "--out", tmp_path / target)
    images = sorted(PHOTOGRAPHS.iterdir())[:4]
    for core, name in cores.items():
        runner = ("--runner", f"qemu:{core}", "--threads", "2")
        result = succeed_json("validate", tmp_path / target, "--images", *images, *runner)
        assert (result["inputs"], result["instruction_set"]) == (4, name)
        assert result["max_abs_error"] <= 1e-4
        assert result["top5_agreement"] == 1.0


@needs_shared_data
def test_the_golden_logits(trained_library: Path) -> None:
    golden = np.load(GOLDEN)
    for name in runnable(trained_library):
        with mnv2c.load(trained_library, threads=2, instruction_set=name) as net:
            for photograph, wanted in zip(golden["names"], golden["fp32_logits"], strict=True):
                with Image.open(PHOTOGRAPHS / str(photograph)) as image:
                    pixels = np.asarray(image.convert("RGB"))
                for logits in (net.run_rgb(pixels), net.run(normalise(trained_library, pixels))):
                    assert np.abs(logits[0] - wanted).max() <= 1e-3, photograph


@needs_shared_data
def test_photographs_at_full_size(trained_library: Path) -> None:
    images = sorted(ORIGINALS.iterdir())
    for fit in ("crop", "stretch"):
        result = succeed_json("run", trained_library, *images, "--labels", LABELS, "--fit", fit)["images"]
        labels = {Path(entry["path"]).stem: entry["top"][0]["label"] for entry in result}
        assert "Egyptian cat" in labels["cat"]
        assert "macaw" in labels["parrot"]
        assert "hotdog" in labels["hot_dog"]
        assert "palace" in labels["china"]
    assert "military uniform" in labels["grace_hopper"]  # of which the middle shows too little


@needs_shared_data
def test_camera_frames_at_full_size(trained_library: Path) -> None:
    """Whatever their format, the classes are those that ``mnv2c run`` prints."""
    photographs = sorted(ORIGINALS.iterdir())
    printed = succeed_json("run", trained_library, *photographs)["images"]
    with mnv2c.load(trained_library) as net:
        for path, told in zip(photographs, printed, strict=True):
            with Image.open(path) as image:
                pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            logits = net.run_image(pixels, "rgb")
            classes = [entry["class"] for entry in told["top"]]
            assert np.argsort(-logits[0], kind="stable")[:5].tolist() == classes
            np.testing.assert_array_equal(net.run_image(np.flip(pixels, axis=2), "bgr"), logits)
            yuv = net.run_image(nv12(pixels), "nv12", matrix="bt601_full")
            assert int(yuv[0].argmax()) == classes[0]


def nv12(pixels: np.ndarray) -> np.ndarray:
    """JPEG's Y, U and V, of even height and width; U and V of every second pixel and row."""
    even = pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
    yuv = np.asarray(Image.fromarray(even).convert("YCbCr"))
    return np.concatenate([yuv[..., 0], yuv[::2, ::2, 1:].reshape(len(even) // 2, -1)])


@needs_shared_data
def test_symmetric_padding(tmp_path: Path) -> None:
    """The same weights, said to be trained with the other convention: other logits, still the reference's."""
    weights = dict(np.load(TRAINED))
    meta = json.loads(str(weights["__meta__"])) | {"padding": "symmetric"}
    np.savez(tmp_path / "symmetric.npz", **(weights | {"__meta__": np.array(json.dumps(meta))}))
    overrides = ("--set", "classes=1001", "--set", "padding=symmetric")
    arguments = ("build", SPECS / "mnv2_1.0.yaml", *overrides, "--weights", tmp_path / "symmetric.npz")
    succeed_json(*arguments, "--target", "native", "--out", tmp_path / "library")
    model = onnx.load(tmp_path / "library" / "model.onnx")
    (stem,) = [node for node in model.graph.node if node.name == "stem"]
    (pads,) = [list(attribute.ints) for attribute in stem.attribute if attribute.name == "pads"]
    assert pads == [1, 1, 1, 1]
    result = succeed_json("validate", tmp_path / "library", "--images", PHOTOGRAPHS)
    assert result["max_abs_error"] <= 1e-4
    assert result["top5_agreement"] == 1.0


@needs_shared_data
def test_two_trained_builds_are_the_same(tmp_path: Path) -> None:
    digests = {
        succeed_json(*TRAINED_BUILD, "--target", "native", "--out", tmp_path / name, cwd=tmp_path)["digest"]
        for name in ("one", "another")
    }
    assert len(digests) == 1
    names = sorted(str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*") if path.is_file())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "another" / name).read_bytes(), name


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_seeded_weights_on_every_instruction_set(tmp_path: Path, padding: str) -> None:
    library = tmp_path / "library"
    overrides = ("--set", "resolution=96", "--set", f"padding={padding}")
    built = succeed_json("build", SPECS / "mnv2_0.35.yaml", *overrides, "--target", "x86", "--out", library)
    assert built["manifest"]["weights"]["seed"] == 0
    for name in runnable(library):
        for threads in ("1", "2"):
            arguments = ("--instruction-set", name, "--threads", threads)
            result = succeed_json("validate", library, "--inputs", "4", *arguments)
            assert (result["instruction_set"], result["threads"]) == (name, int(threads))
            assert result["max_abs_error"] <= 1e-4
            assert result["top5_agreement"] == 1.0


def test_seeded_builds_differ_by_seed_alone(tmp_path: Path) -> None:
    arguments = ("build", SPECS / "mnv2_0.35.yaml", "--set", "resolution=32", "--target", "native")
    weights = []
    for seed in ("1", "2"):
        succeed_json(*arguments, "--seed", seed, "--out", tmp_path / seed)
        model = onnx.load(tmp_path / seed / "model.onnx")
        weights.append({one.name: numpy_helper.to_array(one) for one in model.graph.initializer})
    assert weights[0].keys() == weights[1].keys()
    assert not np.array_equal(weights[0]["stem.weight"], weights[1]["stem.weight"])
