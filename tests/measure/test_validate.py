"""``validate`` and ``run`` on a small library: right where it is right, and wrong where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import mnv2c, succeed, succeed_json
from onnx import numpy_helper
from photograph import photograph
from PIL import Image
from small_library import CLASSES, RESOLUTION, copy_of, damage_reference

import mnv2c as package
from mnv2c.measure.images import seeded_image
from mnv2c.measure.validate import gap, validate


def test_a_good_library_passes(small_library: Path) -> None:
    result = succeed_json("validate", small_library, "--inputs", "3")
    assert result["inputs"] == 3
    assert result["max_abs_error"] <= 1e-4
    assert result["top1_agreement"] == 1.0
    assert result["top5_agreement"] == 1.0
    assert result["cosine"] > 0.999999


def test_the_text_says_passed(small_library: Path) -> None:
    text = succeed("validate", small_library, "--inputs", "1", "--layers")
    assert "passed: 1 inputs" in text
    assert "first layer that diverges: none" in text


def test_every_layer_is_compared(small_library: Path) -> None:
    layers = succeed_json("validate", small_library, "--inputs", "1", "--layers")["layers"]
    edges = {layer["name"]: layer["edge"] for layer in layers}
    assert edges["stem"] == "stem.relu6"
    assert edges["block1.project"] == "block1.project.bn"
    assert edges["block2.project"] == "block2.add"
    assert edges["fc"] == "fc"


def test_images_are_compared(small_library: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    photograph(tmp_path / "b.jpg")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert succeed_json("validate", small_library, "--images", tmp_path)["inputs"] == 2


@pytest.mark.parametrize("weight", ["block5.dw.weight", "fc.bias"])
def test_the_first_wrong_layer_is_found(small_library: Path, tmp_path: Path, weight: str) -> None:
    library = copy_of(small_library, tmp_path)
    damage_reference(library, weight)
    done = mnv2c("validate", library, "--inputs", "1", "--layers")
    assert done.returncode == 1
    assert "FAILED: 1 inputs" in done.stdout
    assert f"first layer that diverges: {weight.rpartition('.')[0]}\n" in done.stdout


def test_the_tolerance_decides(small_library: Path) -> None:
    assert mnv2c("validate", small_library, "--inputs", "1", "--tolerance", "1e-12").returncode == 1


def test_nan_never_passes(small_library: Path, tmp_path: Path) -> None:
    library = copy_of(small_library, tmp_path)
    model = onnx.load(library / "model.onnx")
    (bias,) = [one for one in model.graph.initializer if one.name == "fc.bias"]
    bias.CopyFrom(numpy_helper.from_array(np.full(CLASSES, np.nan, np.float32), "fc.bias"))
    onnx.save(model, library / "model.onnx")
    assert not validate(library, [("image", seeded_image(0, (RESOLUTION, RESOLUTION, 3)))]).passed


def test_the_gap_is_that_of_the_classes_that_changed_places() -> None:
    wanted = np.array([1.0, 5.0, 5.25, 2.0])
    assert gap(np.array([1.0, 5.25, 5.0, 2.0]), wanted, count=1) == 0.25
    assert gap(np.array([1.0, 5.25, 5.0, 2.0]), wanted, count=3) == 0.25
    assert gap(np.array([2.0, 5.0, 5.25, 1.0]), wanted, count=2) == 0.0
    assert gap(np.array([9.0, 5.0, 5.25, 2.0]), wanted, count=1) == 4.25


def test_run_prints_the_best_classes_with_their_labels(small_library: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"thing {number}\n" for number in range(CLASSES)), encoding="utf-8")
    image = photograph(tmp_path / "a.png")
    result = succeed_json("run", small_library, image, "--labels", labels, "--top", "3")
    (entry,) = result["images"]
    assert entry["path"] == str(image)
    assert len(entry["top"]) == 3
    best = entry["top"][0]
    assert best["label"] == f"thing {best['class']}"
    assert best["label"] in succeed("run", small_library, image, "--labels", labels, "--top", "1")
    pixels = np.asarray(Image.open(image).resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR))
    with package.load(small_library) as net:
        assert int(net.run_rgb(pixels).argmax()) == best["class"]


def test_run_turns_photographs_upright(small_library: Path, tmp_path: Path) -> None:
    upright = photograph(tmp_path / "upright.png")
    with Image.open(upright) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # taken with the camera turned: to be turned by 90 degrees clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    first, second = succeed_json("run", small_library, upright, tmp_path / "turned.png")["images"]
    assert first["top"] == second["top"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_run_takes_every_kind_of_image(small_library: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    with Image.open(photograph(tmp_path / "a.png")) as image:
        image.convert(mode).save(path)
    assert len(succeed_json("run", small_library, path)["images"][0]["top"]) == 5
