"""State dicts, Keras and TFLite files: what is found is the network, to the last bit where the file has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
from command_line import SPECS
from folded_weights import fold
from model_files import (
    KerasModel,
    Kind,
    Named,
    timm_names,
    torchvision_names,
    transformers_names,
    write_safetensors,
)
from shared_data import PHOTOGRAPHS, SHARED_DATA, needs_shared_data

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array
from mnv2c.measure.images import read_rgb
from mnv2c.measure.original import open_original
from mnv2c.measure.tflite_model import write_tflite
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import DenseRow, Spec, load_spec
from mnv2c.weights.importing import Imported, describe, import_model
from mnv2c.weights.seeded import seeded_weights

Weights = dict[str, Array]
TWO = (DenseRow(20, "relu"), DenseRow(10))


def spec_of(*overrides: str) -> Spec:
    return load_spec(SPECS / "mnv2_1.0.yaml", ["width_multiplier=0.35", "resolution=32", "classes=10", *overrides])


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def logits(spec: Spec, weights: Weights) -> Array:
    x = np.random.default_rng(0).normal(size=(1, spec.input.height, spec.input.width, 3)).astype(np.float32)
    (values,) = Reference(export_onnx(build_graph(spec, weights))).run(x).values()
    return values


@pytest.mark.parametrize("width", ["0.35", "0.5", "1.0", "1.4"])
@pytest.mark.parametrize("names", [torchvision_names, timm_names, transformers_names])
def test_state_dicts_of_three_libraries(tmp_path: Path, names: type, width: str) -> None:
    library = names.__name__.removesuffix("_names")
    same = library == "transformers"
    spec = spec_of(f"width_multiplier={width}", f"padding={'same' if same else 'symmetric'}")
    spec = replace(spec, batchnorm_epsilon=1e-3 if same else 1e-5)
    weights = seeded_weights(spec, 1)
    found = import_model(
        write_safetensors(tmp_path / "model.safetensors", names(weights)), spec.name, overrides=["resolution=32"]
    )
    assert replace(found.spec, input=spec.input) == spec
    assert_equal(found.weights, weights)
    facts, unknown = describe(found)
    assert library in facts["format"]
    assert [line.split(":")[0] for line in unknown] == [
        "strides", "padding", "BatchNorm's epsilon", "resolution", "preprocessing",
    ]  # fmt: skip


def test_prefixes_hidden_layers_and_folded_convolutions(tmp_path: Path) -> None:
    spec = replace(spec_of("padding=symmetric"), batchnorm_epsilon=1e-3, classifier=TWO)
    weights = fold(seeded_weights(spec, 1), spec.batchnorm_epsilon)
    path = write_safetensors(tmp_path / "model.safetensors", torchvision_names(weights, "module.backbone."))
    found = import_model(path, spec.name)
    assert found.spec.classifier == TWO
    assert_equal(found.weights, weights)
    assert any("activation between the dense layers" in line for line in describe(found)[1])


def test_what_stands_beside_transformers_weights(tmp_path: Path) -> None:
    spec = spec_of("padding=symmetric")
    write_safetensors(tmp_path / "model.safetensors", transformers_names(seeded_weights(spec, 1)))
    config = {"model_type": "mobilenet_v2", "tf_padding": False, "layer_norm_eps": 1e-4, "image_size": 96}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5], "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = import_model(tmp_path, "net")
    assert (found.spec.padding, found.spec.batchnorm_epsilon) == ("symmetric", 1e-4)
    assert found.spec.input == replace(spec.input, height=96, width=96, mean=(127.5,) * 3, scale=(63.75, 127.5, 127.5))
    assert [line.split(":")[0] for line in describe(found)[1]] == ["strides"]


def test_half_precision_state_dicts(tmp_path: Path) -> None:
    weights = seeded_weights(spec_of(), 1)
    halves: Named = {name: value.astype(np.float16) for name, value in torchvision_names(weights).items()}
    found = import_model(write_safetensors(tmp_path / "model.safetensors", halves), "net")
    assert_equal(found.weights, {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()})


@pytest.mark.parametrize("nested", ["functional", "sequential"])
@pytest.mark.parametrize("kind", ["keras 2", "keras 3"])
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_keras_models(tmp_path: Path, suffix: str, kind: Kind, nested: Literal["functional", "sequential"]) -> None:
    spec = replace(spec_of(), classifier=(DenseRow(20, "relu"), DenseRow(10, "softmax")))
    weights = seeded_weights(spec, 1)
    del weights["fc.bias"]
    model = KerasModel(spec, weights, kind=kind, nested=nested)
    path = getattr(model, f"write_{suffix}")(tmp_path / f"model.{suffix}")
    found = import_model(path, spec.name, softmax=True)
    assert found.spec == spec
    assert_equal(found.weights, weights)
    facts, unknown = describe(found)
    assert ("preprocessing" in facts) == (nested == "functional")
    assert bool(unknown) == (nested == "sequential")


def test_what_an_optimizer_keeps_is_left_alone(tmp_path: Path) -> None:
    """It would be too large to be read."""
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    path = KerasModel(spec, weights, nested="functional").write_h5(tmp_path / "model.h5")
    with h5py.File(path, "r+") as opened:
        opened.create_dataset("optimizer_weights/Adam/m/kernel", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    assert_equal(import_model(path, spec.name).weights, weights)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("classifier", [(DenseRow(10),), TWO, (DenseRow(20, "relu6"), DenseRow(10, "softmax")), ()])
def test_tflite_in_floats(tmp_path: Path, classifier: tuple[DenseRow, ...], padding: str) -> None:
    pytest.importorskip("ai_edge_litert")
    spec = replace(spec_of(f"padding={padding}"), classifier=classifier)
    weights = seeded_weights(spec, 1)
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(export_onnx(build_graph(spec, weights))))
    has_softmax = bool(classifier) and classifier[-1].activation == "softmax"
    found = import_model(path, spec.name, softmax=has_softmax)
    assert replace(found.spec, input=spec.input) == spec
    np.testing.assert_allclose(logits(found.spec, found.weights), logits(spec, weights), rtol=0, atol=2e-5)


@needs_shared_data
def test_the_8_bit_tflite_file_beside_litert() -> None:
    """Over the 18 photographs: the best class is the same."""
    pytest.importorskip("ai_edge_litert")
    path = SHARED_DATA / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    found = import_model(path, "mnv2")
    image = found.spec.input
    assert (found.spec.classifier, image.mean, image.scale) == ((DenseRow(1001),), (127.0,) * 3, (127.5,) * 3)
    assert "quantised" in describe(found)[0]["changed"]
    original = open_original(path, found.network, found.found, mean=image.mean, scale=image.scale)
    ours = Reference(export_onnx(build_graph(found.spec, found.weights)))
    same = 0
    photographs = sorted(PHOTOGRAPHS.glob("*.png"))
    for photograph in photographs:
        pixels = read_rgb(photograph, height=224, width=224, fit="crop")
        x = (pixels.astype(np.float32) - 127) / np.float32(127.5)
        same += ours.run(x[None])["logits"].argmax() == original.run(pixels).argmax()
    assert same == len(photographs)


def test_our_own_names_become_a_table(tmp_path: Path) -> None:
    spec = spec_of()
    weights = seeded_weights(spec, 1)
    meta = np.array(json.dumps({"padding": "tf_same", "bn_eps": 1e-3}))
    np.savez(tmp_path / "model.npz", **weights, __meta__=meta)  # type: ignore[arg-type]
    found: Imported = import_model(tmp_path / "model.npz", spec.name, overrides=["resolution=32"])
    assert found.spec == spec
    assert_equal(found.weights, weights)


def test_strides_cannot_be_known_of_another_table(tmp_path: Path) -> None:
    weights = seeded_weights(spec_of("bottlenecks[1].n=4", "bottlenecks[2].c=200"), 1)
    short = {name: value for name, value in weights.items() if not name.startswith("block18")}
    with pytest.raises(WeightsError):
        import_model(write_safetensors(tmp_path / "model.safetensors", torchvision_names(short)), "net")
