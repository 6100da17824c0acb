"""Classifiers of several layers, of none, and with a softmax inside: through every stage, on every kind of target."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from command_line import mnv2c, succeed, succeed_json
from emulated import stand_in
from gpu_kernels import kernels_of
from mini_spec import MINI
from no_skips import WITHOUT_RELAY
from photograph import photograph
from programs import call

import mnv2c as package
from mnv2c.backends import relax, relay
from mnv2c.backends.precision import marked
from mnv2c.backends.relay import environment
from mnv2c.errors import SpecError
from mnv2c.ir.graph import Dense, ReLU, Softmax
from mnv2c.passes import run_pipeline
from mnv2c.precision import Precision
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import DenseRow, load_spec
from mnv2c.weights.seeded import seeded_weights

TWO_LAYERS = "classifier:\n  - {c: 24, activation: relu}\n  - {c: 7, activation: softmax}\n"
THREE_LAYERS = "classifier:\n  - {c: 24, activation: relu}\n  - {c: 16, activation: relu6}\n  - {c: 7}\n"
NONE = "classifier: []\n"


def spec_with(folder: Path, classifier: str) -> Path:
    path = folder / "mini.yaml"
    path.write_text(MINI.replace("classes: 16\n", classifier), encoding="utf-8")
    return path


@pytest.fixture(params=[TWO_LAYERS, THREE_LAYERS, NONE], ids=["softmax", "three layers", "features"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return spec_with(tmp_path, request.param)


def test_a_classifier_of_one_row_is_what_classes_says(tmp_path: Path) -> None:
    assert load_spec(spec_with(tmp_path, "classifier: [{c: 16}]\n")) == load_spec(spec_with(tmp_path, "classes: 16\n"))


def test_what_the_rows_become(tmp_path: Path) -> None:
    spec = load_spec(spec_with(tmp_path, TWO_LAYERS), ["classifier[0].c=20"])
    assert spec.classifier == (DenseRow(20, "relu"), DenseRow(7, "softmax"))
    graph = build_graph(spec, seeded_weights(spec, 0))
    assert [type(op) for op in graph.ops[-4:]] == [Dense, ReLU, Dense, Softmax]
    assert graph.outputs == {"probabilities": "fc.softmax"}
    hidden, *_ = [op for op in run_pipeline(graph).ops if isinstance(op, Dense)]
    assert (hidden.name, hidden.activation) == ("hidden0", "relu")


@pytest.mark.parametrize(
    ("classifier", "words"),
    [
        ("classes: 16\nclassifier: []\n", "`classes` and `classifier` are two ways to say one thing"),
        ("", "the spec lacks `classes`"),
        ("classifier: [{c: 3, activation: softmax}, {c: 2}]\n", "`classifier[0].activation` must be relu or relu6"),
        ("classifier: [{c: 3, activation: relu7}]\n", "did you mean `relu"),
        ("classifier: [{activation: relu}]\n", "`classifier[0]` lacks `c`"),
        (f"classifier: [{', '.join(['{c: 3}'] * 9)}]\n", "0 to 8 items"),
    ],
)
def test_a_wrong_classifier_is_one_clear_mistake(tmp_path: Path, classifier: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)) as caught:
        load_spec(spec_with(tmp_path, classifier))
    assert len(caught.value.errors) == 1


@pytest.mark.parametrize(
    ("target", "runner"), [("native", ()), ("arm", ("--runner", "qemu")), ("armv7", ("--runner", "qemu"))]
)
def test_the_library_agrees_with_onnx(spec: Path, target: str, runner: tuple[str, ...], tmp_path: Path) -> None:
    succeed("build", spec, "--target", target, "--untuned", "--out", tmp_path / "library")
    result = succeed_json("validate", tmp_path / "library", "--inputs", "3", "--layers", *runner)
    assert result["passed"]
    assert result["first_diverging_layer"] is None


def test_what_has_classes_classifies(tmp_path: Path) -> None:
    """``run``, the example and Python say the same of probabilities."""
    library = tmp_path / "library"
    succeed("build", spec_with(tmp_path, TWO_LAYERS), "--target", "native", "--untuned", "--out", library)
    picture = photograph(tmp_path / "picture.png", size=(32, 32))
    (result,) = succeed_json("run", library, picture, "--top", "7")["images"]
    with package.load(library) as net:
        from PIL import Image

        pixels = np.asarray(Image.open(picture).convert("RGB"))
        (probabilities,) = net.run_rgb(pixels[None])
        outputs = net.outputs(pixels[None])
    assert list(outputs) == ["probabilities"]
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert {one["class"]: one["probability"] for one in result["top"]} == pytest.approx(
        dict(enumerate(map(float, probabilities)))
    )
    (tmp_path / "picture.rgb").write_bytes(pixels.tobytes())
    inputs = (f"-I{library}/include", library / "examples/main.c", library / "lib/libmini.a", "-pthread", "-lm")
    call("cc", "-O2", "-Wall", "-Wextra", "-Werror", *inputs, "-o", tmp_path / "classify")
    first, *_ = call(tmp_path / "classify", tmp_path / "picture.rgb").splitlines()
    number, share = first.split()
    assert int(number) == result["top"][0]["class"]
    assert float(share) == pytest.approx(result["top"][0]["probability"], abs=1e-4)


def test_features_have_no_classes(tmp_path: Path) -> None:
    library = tmp_path / "library"
    said = succeed("build", spec_with(tmp_path, NONE), "--target", "native", "--untuned", "--out", library)
    assert "mnv2c run" not in said
    assert not (library / "examples/main.c").exists()
    with package.load(library) as net:
        assert net.output_shapes == {"features": (1, 32)}
    assert "no classifier" in mnv2c("run", library, photograph(tmp_path / "picture.png")).stderr


def test_relay_finds_the_same_kernels(spec: Path) -> None:
    if not environment.is_installed():
        pytest.skip(WITHOUT_RELAY)
    table = load_spec(spec)
    graph = run_pipeline(build_graph(table, seeded_weights(table, 0)))
    assert relay.kernel_calls(graph) == relax.kernel_calls(graph)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu(tmp_path: Path, precision: Precision) -> None:
    path, library = spec_with(tmp_path, TWO_LAYERS), tmp_path / "library"
    succeed("build", path, "--target", "cuda:sm_90", "--precision", precision, "--untuned", "--out", library)
    driver = stand_in(kernels_of(str(path), precision=precision), tmp_path)
    done = mnv2c("validate", library, "--inputs", "2", environment=driver)
    assert done.returncode == 0, done.stdout + done.stderr


def test_on_a_gpu_sums_stay_fp32_behind_the_first_dense_layer(tmp_path: Path) -> None:
    table = load_spec(spec_with(tmp_path, TWO_LAYERS))
    graph = run_pipeline(build_graph(table, seeded_weights(table, 0)))
    calls = marked(relax.kernel_calls(graph), "fp16", graph.outputs.values())
    kinds = {call.layer: (call.workload.precision, call.workload.outputs[0].dtype) for call in calls}
    assert kinds["hidden0"] == ("fp16", "float32")
    assert kinds["fc"] == kinds["fc.softmax"] == ("fp32", "float32")
    types = {edge: call.workload.outputs[0] for call in calls for edge in call.outputs}
    for one in calls[1:]:
        assert [types[edge] for edge in one.inputs] == list(one.workload.inputs), one.layer
