"""``mnv2c import``, and what follows it: from a trained model's file to a library that agrees with it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import SPECS, mnv2c, succeed, succeed_json
from onnx import numpy_helper
from onnx_writer import Form, write
from photograph import photograph

from mnv2c.measure.tflite_model import write_tflite
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.spec.yaml_writer import write_spec
from mnv2c.weights.seeded import seeded_weights

HEAD = "classifier:\n  - {c: 20, activation: relu}\n  - {c: 7, activation: softmax}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tuned.onnx``, fine-tuned: two dense layers, softmax, pixels normalised inside; the same as ``plain.tflite``."""
    for engine in ("onnxruntime", "ai_edge_litert"):
        pytest.importorskip(engine)
    made = tmp_path_factory.mktemp("models")
    spec = load_spec(SPECS / "mnv2_0.35.yaml", ["resolution=64", "classes=7"])
    (made / "spec.yaml").write_text(write_spec(spec).replace("classes: 7\n", HEAD), encoding="utf-8")
    spec = load_spec(made / "spec.yaml")
    graph = build_graph(spec, seeded_weights(spec, 3))
    onnx.save(write(graph, Form(layout="NHWC", pixels=(127.5, 127.5), dynamic=True)), made / "tuned.onnx")
    (made / "plain.tflite").write_bytes(write_tflite(export_onnx(graph)))
    photograph(made / "one.png", size=(90, 70))
    photograph(made / "two.png", size=(64, 64))
    return made


@pytest.mark.parametrize("softmax", [False, True])
def test_from_a_model_to_a_library_that_agrees_with_it(folder: Path, tmp_path: Path, softmax: bool) -> None:
    images = (folder / "one.png", folder / "two.png")
    options = ("--softmax",) if softmax else ()
    text = succeed("import", folder / "tuned.onnx", "-o", "net", "--check", *images, *options, cwd=tmp_path)
    assert "passed: 2 images against the original in onnxruntime" in text
    assert "difference of the probabilities" in text
    assert "preprocessing  x = (pixel - 127.5) / 127.5" in text
    command = text.splitlines()[-1].split()
    assert command == ["mnv2c", "build", "net.yaml", "--weights", "net.npz"]
    succeed(*command[1:], "--target", "native", "--untuned", "--out", "library", cwd=tmp_path)
    model = ("--original", folder / "tuned.onnx")
    result = succeed_json("validate", "library", "--images", *images, *model, cwd=tmp_path)
    assert result["passed"]
    assert result["original"]["passed"]
    assert result["original"]["largest_difference"] < 1e-5
    assert [one["output"] for one in result["comparisons"][:1]] == ["probabilities" if softmax else "logits"]


def test_what_was_recognised_as_json(folder: Path, tmp_path: Path) -> None:
    result = succeed_json("import", folder / "plain.tflite", "--check", folder / "one.png", cwd=tmp_path)
    assert (result["spec"], result["weights"]) == ("plain.yaml", "plain.npz")
    assert result["recognised"]["table"] == "the paper's, width multiplier 0.35, 17 blocks"
    assert "20 features with ReLU, 7 classes" in result["recognised"]["classifier"]
    assert [line.split(":")[0] for line in result["unknown"]] == ["preprocessing"]
    assert result["check"]["engine"].startswith("ai-edge-litert")
    assert result["check"]["passed"]
    assert (tmp_path / "plain.yaml").read_text(encoding="utf-8").startswith("# written by mnv2c import of plain.tflite")


@pytest.mark.parametrize(
    ("model", "out", "name"),
    [
        ("mnv2_1.4.tflite", None, "mnv2_1.4"),
        ("my model (2).tflite", None, "my_model_2_"),
        ("a.tflite", "net.v2", "net.v2"),
        ("memory.tflite", None, "memory_net"),
        ("mobilenet_gpu.tflite", None, "mobilenet_gpu_net"),
    ],
)
def test_what_the_files_are_called(folder: Path, tmp_path: Path, model: str, out: str | None, name: str) -> None:
    (tmp_path / model).write_bytes((folder / "plain.tflite").read_bytes())
    succeed("import", model, *(("-o", out) if out else ()), cwd=tmp_path)
    assert load_spec(tmp_path / f"{name}.yaml").name == name
    assert (tmp_path / f"{name}.npz").is_file()


def test_the_next_command_is_one_that_a_shell_takes(folder: Path, tmp_path: Path) -> None:
    text = succeed("import", folder / "plain.tflite", "-o", "it's a net", cwd=tmp_path)
    command = shlex.split(text.splitlines()[-1])
    assert command == ["mnv2c", "build", "it's a net.yaml", "--weights", "it's a net.npz"]
    assert load_spec(tmp_path / command[2]).name == "it_s_a_net"


def test_the_check_finds_an_import_that_is_wrong(folder: Path, tmp_path: Path) -> None:
    """Other preprocessing than the file's; and in ``validate`` another model than the library's."""
    model = ("import", folder / "tuned.onnx", "-o", "net")
    done = mnv2c(*model, "--set", "mean=0", "--check", folder / "one.png", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED: 1 image against the original" in done.stdout
    succeed(*model, cwd=tmp_path)
    files = ("net.yaml", "--weights", "net.npz")
    succeed("build", *files, "--target", "native", "--untuned", "--out", "library", cwd=tmp_path)
    other = onnx.load(folder / "tuned.onnx")
    (weight,) = [one for one in other.graph.initializer if one.name == "fc.weight"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(other, tmp_path / "other.onnx")
    done = mnv2c(
        "validate", "library", "--images", folder / "one.png", "--original", "other.onnx", "--json", cwd=tmp_path
    )
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["passed"]
    assert not result["original"]["passed"]


def test_build_takes_the_model_without_an_import(folder: Path, tmp_path: Path) -> None:
    spec = (folder / "spec.yaml", "--weights", folder / "plain.tflite")
    text = succeed("build", *spec, "--target", "native", "--untuned", "--out", "library", cwd=tmp_path)
    assert "weights   plain.tflite, sha256" in text
    done = mnv2c(
        "build", folder / "spec.yaml", "--set", "padding=symmetric", "--weights", folder / "plain.tflite", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "--set padding=same" in done.stderr


def test_original_is_for_libraries_that_run_here(folder: Path, small_library: Path) -> None:
    done = mnv2c("validate", small_library, "--original", folder / "tuned.onnx", "--runner", "qemu")
    assert done.returncode == 2
    assert "--original compares the library here" in done.stderr
