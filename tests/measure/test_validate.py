"""``validate`` and ``run`` on a small library: right where it is right, and wrong where it is not."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from changed_build import replace_file
from command_line import mnv2c, succeed, succeed_json
from onnx import numpy_helper
from photograph import photograph
from PIL import Image
from small_library import CLASSES, RESOLUTION, copy_of, damage_reference

import mnv2c as package
from mnv2c.ir.graph import Array
from mnv2c.measure.images import Fit, Rgb, read_rgb, seeded_image
from mnv2c.measure.validate import compare, gap, validate
from mnv2c.measure.validation import Comparison, Validation, format_text, to_json


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
    replace_file(library, "model.onnx", model.SerializeToString())
    assert not validate(library, [("image", seeded_image(0, (RESOLUTION, RESOLUTION, 3)))]).passed


def test_no_image_is_kept(small_library: Path) -> None:
    alive: list[weakref.ref[Rgb]] = []
    most = 0

    def images() -> Iterator[tuple[str, Rgb]]:
        nonlocal most
        for index in range(12):
            image = seeded_image(index, (RESOLUTION, RESOLUTION, 3))
            alive.append(weakref.ref(image))
            yield f"image {index}", image
            del image
            most = max(most, sum(one() is not None for one in alive))

    assert validate(small_library, images(), layers=True).inputs == 12
    assert most <= 2


def test_the_worst_of_many_are_listed(small_library: Path) -> None:
    every = succeed_json("validate", small_library, "--inputs", "23")["comparisons"]
    assert [one["name"] for one in every] == [f"seeded input {index}" for index in range(23)]
    lines = succeed("validate", small_library, "--inputs", "23").splitlines()
    worst = sorted(every, key=lambda one: -one["max_abs_error"])[:20]
    assert [line[:15].strip() for line in lines[1:21]] == [one["name"] for one in worst]
    assert lines[21] == "the 20 worst of 23; --json has all"


def test_a_missing_image_is_found_at_once(small_library: Path, tmp_path: Path) -> None:
    done = mnv2c("validate", small_library, "--images", photograph(tmp_path / "a.png"), tmp_path / "b.png")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mnv2c: error: {tmp_path / 'b.png'}: no such image")


def test_progress_is_a_line_now_and_then(small_library: Path) -> None:
    done = mnv2c("validate", small_library, "--inputs", "60")
    lines = done.stderr.splitlines()
    assert lines[0].endswith("compare 1 of 60")
    assert len(lines) < 10


def test_progress_on_a_terminal_is_one_line(small_library: Path) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    arguments = [sys.executable, "-m", "mnv2c", "validate", str(small_library), "--inputs", "9"]
    environment = os.environ | {"TERM": "xterm"}
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True, text=True)
    shown = os.read(ours, 1 << 16).decode()
    for descriptor in (ours, theirs):
        os.close(descriptor)
    assert [re.sub(r"^\[.*\] ", "", line) for line in shown.split("\r\x1b[2K")] == [
        "",
        *(f"compare {number} of 9" for number in range(1, 10)),
        "",
    ]
    assert "passed: 9 inputs" in done.stdout


def outputs(rows: int, seed: int = 0) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    shapes = {"logits": (rows, 10), "map": (rows, 2, 3, 4), "embedding": (rows, 7)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def validation(*comparisons: Comparison, noise: float = 0.0) -> Validation:
    names = {"directory": "d", "runner": None, "processor": "p", "reference": "r", "instruction_set": "v4"}
    return Validation(
        **names, precision="fp32", threads=1, tolerance=1e-4, comparisons=comparisons, noise={"logits": noise}
    )


def test_every_output_of_every_image_is_compared() -> None:
    wanted = outputs(4)
    found = compare(["a", "b", "c"], (wanted, wanted), wanted)
    assert [(one.image, one.output) for one in found] == [(i, o) for i in "abc" for o in ("logits", "map", "embedding")]
    assert {one.output for one in found if one.top5_gap is not None} == {"logits"}
    assert validation(*found).passed
    assert validation(*found).inputs == 3
    assert to_json(validation(*found))["top5_agreement"] == 1.0


@pytest.mark.parametrize("output", ["logits", "map", "embedding"])
@pytest.mark.parametrize("run", [0, 1])
def test_one_wrong_value_in_any_output_fails(output: str, run: int) -> None:
    wanted = outputs(4)
    runs = (outputs(4), outputs(4))
    runs[run][output].reshape(4, -1)[1, 2] += 1e-3
    found = compare(["a", "b", "c"], runs, wanted)
    assert [(one.image, one.output) for one in found if one.max_abs_error > 1e-4] == [("b", output)]
    assert not validation(*found).passed
    assert f"b, {output} " in format_text(validation(*found))


def test_what_fills_up_a_batch_is_not_compared() -> None:
    wanted = outputs(4)
    run = outputs(4)
    run["logits"][3] += 1
    assert validation(*compare(["a", "b", "c"], (run, run), wanted)).passed


def test_ties_are_as_wide_as_errors_may_be() -> None:
    wanted = {"logits": np.array([[0.0, 3.0, 3.0003, 1.0, -1.0, -2.0]], np.float32)}
    run = {"logits": np.array([[0.0, 3.0002, 3.0001, 1.0, -1.0, -2.0]], np.float32)}
    found = compare(["a"], (run, run), wanted)
    assert not validation(*found).passed
    assert not validation(*found, noise=1e-4).passed
    assert validation(*found, noise=2e-4).passed
    assert to_json(validation(*found, noise=1e-4))["top1_agreement"] == 0.0
    assert to_json(validation(*found, noise=2e-4))["top1_agreement"] == 1.0


def test_without_logits_nothing_is_said_of_classes() -> None:
    wanted = {"map": outputs(1)["map"]}
    found = validation(*compare(["a"], (wanted, wanted), wanted))
    assert found.passed
    assert to_json(found)["top5_agreement"] is None
    assert "top-5 agreement" not in format_text(found)


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


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_run_fits_photographs(small_library: Path, tmp_path: Path, fit: Fit) -> None:
    image = photograph(tmp_path / "a.png")
    (entry,) = succeed_json("run", small_library, image, "--fit", fit)["images"]
    pixels = read_rgb(image, height=RESOLUTION, width=RESOLUTION, fit=fit)
    with package.load(small_library) as net:
        assert int(net.run_rgb(pixels).argmax()) == entry["top"][0]["class"]
    if fit == "crop":
        assert succeed_json("run", small_library, image)["images"] == [entry]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_run_takes_every_kind_of_image(small_library: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    with Image.open(photograph(tmp_path / "a.png")) as image:
        image.convert(mode).save(path)
    assert len(succeed_json("run", small_library, path)["images"][0]["top"]) == 5
