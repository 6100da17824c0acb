"""ONNX files in every form that exporters write: what is found is the network, to the last bit where it is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import SPECS
from folded_weights import fold
from onnx_writer import Form, dequantised, write
from shared_data import TRAINED, needs_shared_data

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec, read_spec
from mnv2c.spec.yaml_writer import write_spec
from mnv2c.weights import load_weights
from mnv2c.weights.importing import Imported, describe, import_model
from mnv2c.weights.seeded import seeded_weights

SMALL = ("width_multiplier=0.35", "resolution=32", "classes=10")
HEADS = {
    "one": "classes: 10\n",
    "two": "classifier:\n  - {c: 20, activation: relu}\n  - {c: 10}\n",
    "none": "classifier: []\n",
}
Weights = dict[str, Array]


def spec_of(*overrides: str) -> Spec:
    return load_spec(SPECS / "mnv2_1.0.yaml", [*SMALL, *overrides])


def with_head(folder: Path, head: str, *overrides: str) -> Spec:
    path = folder / "head.yaml"
    path.write_text(write_spec(spec_of(*overrides)).replace("classes: 10\n", HEADS[head]), encoding="utf-8")
    return load_spec(path)


def imported(
    folder: Path, spec: Spec, weights: Weights, form: Form, *overrides: str, softmax: bool = False
) -> Imported:
    path = folder / "model.onnx"
    onnx.save(write(build_graph(spec, weights), form), path)
    return import_model(path, spec.name, overrides=overrides, softmax=softmax)


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(
    "form",
    [
        Form(),
        Form(layout="NHWC", dynamic=True),
        Form(opset=7, relu6="clip attributes", mean="average", flatten="flatten"),
        Form(opset=9, relu6="clip attributes", padding="node", mean="global"),
        Form(relu6="constants", mean="reduce", flatten="reshape", dynamic=True),
        Form(relu6="min max", mean="reduce flat", flatten="none"),
        Form(relu6="relu min", padding="node", flatten="squeeze"),
        Form(opset=18, mean="reduce", flatten="dynamic", dense="matmul"),
        Form(dense="gemm untransposed"),
        Form(dense="convolution", flatten="squeeze"),
        Form(dense="convolution", mean="reduce", flatten="reshape", layout="NHWC"),
        Form(opset=21, mean="reduce", flatten="reshape"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("head", ["one", "two"])
def test_every_form_is_the_same_network(tmp_path: Path, form: Form, padding: str, head: str) -> None:
    spec = with_head(tmp_path, head, f"padding={padding}")
    weights = seeded_weights(spec, 1)
    found = imported(tmp_path, spec, weights, form)
    assert replace(found.spec, input=spec.input) == spec
    assert_equal(found.weights, weights)


@pytest.mark.parametrize("head", ["one", "none"])
def test_folded_weights_are_taken_as_they_are(tmp_path: Path, head: str) -> None:
    spec = with_head(tmp_path, head)
    weights = fold(seeded_weights(spec, 1), spec.batchnorm_epsilon)
    found = imported(tmp_path, spec, weights, Form())
    assert_equal(found.weights, weights)
    assert describe(found)[0]["batchnorm"] == "folded into the convolutions"


@pytest.mark.parametrize(
    ("form", "tolerance"),
    [
        (Form(norm="mul add"), 1e-5),
        (Form(norm="with bias"), 1e-5),
        (Form(padding="auto"), 0),
        (Form(activations_quantised=True), 0),
    ],
    ids=repr,
)
def test_what_is_computed_otherwise_computes_the_same(tmp_path: Path, form: Form, tolerance: float) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    found = imported(tmp_path, spec, weights, form)
    assert_same_logits(found, spec, weights, tolerance)


def assert_same_logits(found: Imported, spec: Spec, weights: Weights, tolerance: float) -> None:
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    ours, theirs = (
        Reference(export_onnx(build_graph(one, values))).run(x)["logits"]
        for one, values in ((found.spec, found.weights), (spec, weights))
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_8_bits_are_dequantised_and_said(tmp_path: Path) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    found = imported(tmp_path, spec, weights, Form(weights="int8"))
    assert_equal(found.weights, dequantised(weights))
    assert "quantised" in describe(found)[0]["changed"]


def test_half_precision_weights(tmp_path: Path) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    rounded = {n: v.astype(np.float16).astype(np.float32) if v.ndim > 1 else v for n, v in weights.items()}
    assert_equal(imported(tmp_path, spec, weights, Form(weights="float16")).weights, rounded)


def test_data_beside_the_model(tmp_path: Path) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    model = write(build_graph(spec, weights), Form())
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    assert_equal(import_model(tmp_path / "model.onnx", "net").weights, weights)


def test_an_export_with_softmax_keeps_it_on_request(tmp_path: Path) -> None:
    spec = with_head(tmp_path, "two")
    weights = seeded_weights(spec, 1)
    with_softmax = replace(spec, classifier=(spec.classifier[0], replace(spec.classifier[1], activation="softmax")))
    left_out = imported(tmp_path, with_softmax, weights, Form())
    assert left_out.spec.classifier == spec.classifier
    assert "its softmax is left out" in describe(left_out)[0]["classifier"]
    assert imported(tmp_path, with_softmax, weights, Form(), softmax=True).spec.classifier == with_softmax.classifier


def test_preprocessing_inside_the_file_is_known(tmp_path: Path) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    found = imported(tmp_path, spec, weights, Form(layout="NHWC", pixels=(127.5, 127.5)))
    assert (found.spec.input.mean, found.spec.input.scale) == ((127.5,) * 3, (127.5,) * 3)
    facts, unknown = describe(found)
    assert "127.5" in facts["preprocessing"]
    assert not any("preprocessing" in line for line in unknown)
    other = imported(tmp_path, spec, weights, Form(pixels=(0.0, 255.0)))
    assert (other.spec.input.mean, other.spec.input.scale) == ((0.0,) * 3, (255.0,) * 3)


def test_what_the_file_does_not_say_is_said_with_the_option(tmp_path: Path) -> None:
    spec = spec_of("resolution=224")
    weights = seeded_weights(spec, 1)
    found = imported(tmp_path, spec, weights, Form(resolution_known=False), "resolution=32", "mean=[1, 2, 3]")
    assert (found.spec.input.height, found.spec.input.mean) == (32, (1, 2, 3))
    _, unknown = describe(found)
    assert any("--set resolution=N" in line for line in unknown)
    assert any("--set" in line and "mean" in line for line in unknown)


def test_padding_that_the_file_has_cannot_be_overridden(tmp_path: Path) -> None:
    spec = spec_of()
    with pytest.raises(WeightsError, match="its zeros are those of padding same"):
        imported(tmp_path, spec, seeded_weights(spec, 1), Form(), "padding=symmetric")


@pytest.mark.parametrize(
    "overrides", [("channel_divisor=1", "width_multiplier=0.37"), ("width_multiplier=1.4",), ("bottlenecks[2].c=40",)]
)
def test_any_table_comes_back_equivalent(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    spec = spec_of(*overrides)
    weights = seeded_weights(spec, 1)
    found = imported(tmp_path, spec, weights, Form())
    assert_equal(found.weights, weights)
    shapes = [[op.type for op in build_graph(one, weights).ops] for one in (found.spec, spec)]
    assert shapes[0] == shapes[1]


@needs_shared_data
def test_our_own_export_comes_back_bit_for_bit(tmp_path: Path) -> None:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["classes=1001"])
    weights, _ = load_weights(TRAINED, spec, 0)
    path = tmp_path / "trained.onnx"
    onnx.save(export_onnx(build_graph(spec, weights)), path)
    found = import_model(path, spec.name)
    assert found.spec == spec
    assert_equal(found.weights, weights)


def test_the_files_written_are_read_as_the_same(tmp_path: Path) -> None:
    spec = with_head(tmp_path, "two", "padding=symmetric", "batchnorm_epsilon=1e-5")
    found = imported(tmp_path, spec, seeded_weights(spec, 1), Form())
    (tmp_path / "net.yaml").write_text(found.yaml(), encoding="utf-8")
    (tmp_path / "net.npz").write_bytes(found.npz())
    again = load_spec(tmp_path / "net.yaml")
    assert again == found.spec
    assert_equal(load_weights(tmp_path / "net.npz", again, 0)[0], found.weights)
    assert found.npz() == found.npz()


@pytest.mark.parametrize("name", ["yes", "null", "mnv2_1.0", "a-b.c"])
def test_any_name_is_read_back(name: str) -> None:
    spec = replace(spec_of(), name=name)
    assert read_spec(write_spec(spec), "x.yaml") == spec


def test_build_takes_the_model_itself_where_it_fits(tmp_path: Path) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    path = tmp_path / "model.onnx"
    onnx.save(write(build_graph(spec, weights), Form()), path)
    found, origin = load_weights(path, spec, 0)
    assert_equal(found, weights)
    assert origin.sha256
    with pytest.raises(WeightsError, match=r"--set classes=10"):
        load_weights(path, spec_of("classes=11"), 0)
    with pytest.raises(WeightsError, match=r"--set padding=same"):
        load_weights(path, spec_of("padding=symmetric"), 0)
    with pytest.raises(WeightsError, match="strides"):
        load_weights(path, spec_of("bottlenecks[1].s=1"), 0)
    onnx.save(write(build_graph(spec, weights), Form(pixels=(0.0, 255.0))), path)
    with pytest.raises(WeightsError, match=r"mean=0"):
        load_weights(path, spec, 0)
