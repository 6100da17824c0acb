"""Readers of weights: everything wrong with a file in one message, and never a traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import SPECS
from folded_weights import fold
from shared_data import TRAINED, needs_shared_data

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array, BatchNorm, Convolution, Dense, Graph
from mnv2c.ir.interpreter import interpret
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights
from mnv2c.weights.fit import Trained, fit
from mnv2c.weights.npz import read_npz
from mnv2c.weights.seeded import seeded_weights

SMALL = ("width_multiplier=0.35", "resolution=32", "classes=10")
SHAPES = {
    "stem.weight": (8, 3, 3, 3),
    "stem.gamma": (8,),
    "stem.var": (8,),
    "fc.weight": (10, 8),
    "fc.bias": (10,),
}
Tensors = dict[str, np.ndarray]


def good() -> Tensors:
    random_numbers = np.random.default_rng(0)
    return {name: random_numbers.random(shape, dtype=np.float32) for name, shape in SHAPES.items()}


def save_tensors(path: Path, tensors: Tensors, *, save: Callable[..., None] = np.savez) -> None:
    save(path, **tensors)


def saved(folder: Path, tensors: Tensors) -> Path:
    path = folder / "weights.npz"
    save_tensors(path, tensors)
    return path


def read(path: Path, spec: Trained | None = None) -> dict[str, Array]:
    return fit(path, read_npz(path), SHAPES, spec=spec)


def message(path: Path, spec: Trained | None = None) -> str:
    with pytest.raises(WeightsError) as caught:
        read(path, spec)
    return str(caught.value)


def test_reads_what_was_written(tmp_path: Path) -> None:
    tensors = good()
    tensors["stem.weight"] = np.asfortranarray(tensors["stem.weight"])
    weights = read(saved(tmp_path, tensors))
    assert list(weights) == list(SHAPES)
    for name, array in weights.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensors[name])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_converts_other_floats(tmp_path: Path, dtype: str) -> None:
    tensors = {name: array.astype(dtype) for name, array in good().items()}
    weights = read(saved(tmp_path, tensors))
    assert weights.keys() == tensors.keys()
    for name, array in weights.items():
        assert array.dtype == np.dtype("=f4")
        np.testing.assert_array_equal(array, tensors[name].astype(np.float32))


def test_lists_every_fault_at_once(tmp_path: Path) -> None:
    tensors = good()
    tensors["stem.weight"][1, 2, 0, 1] = np.nan
    tensors["stem.var"][3] = -1e-9
    tensors["fc.weight"] = tensors["fc.weight"].astype(np.int8)
    tensors["fc.bias"] = np.zeros(11, np.float32)
    tensors["stem.gama"] = tensors.pop("stem.gamma")
    lines = message(saved(tmp_path, tensors)).splitlines()
    assert lines[0].endswith("6 faults:")
    assert [line.strip() for line in lines[1:]] == [
        "stem.gamma: missing, expected 8",
        "stem.gama: extra, no layer of the spec has it; did you mean stem.gamma?",
        "stem.weight: 1 of 216 values not finite in float32, the first at [1, 2, 0, 1]",
        "stem.var: 1 of 8 variances below zero, the first at [3]",
        "fc.weight: dtype int8, expected float32 (or float16 or float64, which are converted)",
        "fc.bias: shape 11, expected 10",
    ]


def test_overflow_in_float32_is_not_finite(tmp_path: Path) -> None:
    tensors = good()
    tensors["fc.bias"] = np.full(10, 1e39)
    assert "fc.bias: 10 of 10 values not finite in float32" in message(saved(tmp_path, tensors))


def test_other_number_of_classes_gets_the_override(tmp_path: Path) -> None:
    tensors = good() | {"fc.weight": np.zeros((11, 8), np.float32), "fc.bias": np.zeros(11, np.float32)}
    assert "--set classes=11" in message(saved(tmp_path, tensors))


def test_other_width_is_named(tmp_path: Path) -> None:
    tensors = {name: np.ones((16, *array.shape[1:]), np.float32) for name, array in good().items()}
    assert "another width multiplier" in message(saved(tmp_path, tensors))


def test_foreign_names_are_one_line(tmp_path: Path) -> None:
    text = message(saved(tmp_path, {"features.0.0.weight": np.zeros(3, np.float32)}))
    assert "it holds features.0.0.weight, the spec needs stem.weight" in text
    assert "\n" not in text


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    tensors = good() | {"fc.bias": np.array([None] * 10, dtype=object)}
    assert "fc.bias: cannot be read (Python objects, which would be a pickle)" in message(saved(tmp_path, tensors))


def seeded(tmp_path: Path, change: Callable[[dict[str, Array]], dict[str, Array]]) -> tuple[Graph, Graph]:
    """The graph of a small spec with seeded weights, and the graph with these ``change``d, read from a file."""
    spec = load_spec(SPECS / "mnv2_1.0.yaml", SMALL)
    weights = seeded_weights(spec, 0)
    path = tmp_path / "changed.npz"
    save_tensors(path, change(weights))
    return build_graph(spec, weights), build_graph(spec, load_weights(path, spec, 0)[0])


def logits(graph: Graph) -> Array:
    x = np.random.default_rng(0).uniform(-1, 1, graph.input.type.shape).astype(np.float32)
    return interpret(graph, x)["logits"]


@pytest.mark.parametrize("folded", ["", "block3.expand"], ids=["every layer", "one layer"])
def test_folded_weights_compute_the_same(tmp_path: Path, folded: str) -> None:
    """As most exporters write them: ``.weight`` and ``.bias``; a file may mix both forms."""
    whole, graph = seeded(tmp_path, lambda weights: fold(weights, 1e-3, layers=lambda layer: layer.startswith(folded)))
    norms = [op.inputs[0] for op in graph.ops if isinstance(op, BatchNorm)]
    convolutions = [op for op in graph.ops if isinstance(op, Convolution)]
    assert norms == [op.name for op in convolutions if op.bias is None]
    assert [op.name for op in convolutions if op.bias] == [op.name for op in convolutions if op.name.startswith(folded)]
    np.testing.assert_allclose(logits(graph), logits(whole), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits(run_pipeline(graph)), logits(whole), rtol=0, atol=1e-5)


def test_a_classifier_may_have_no_bias(tmp_path: Path) -> None:
    whole, graph = seeded(tmp_path, lambda weights: {name: weights[name] for name in weights if name != "fc.bias"})
    dense = graph.op("fc")
    assert isinstance(dense, Dense)
    assert dense.bias is None
    np.testing.assert_allclose(logits(graph), logits(whole) - whole.constants["fc.bias"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits(run_pipeline(graph)), logits(graph), rtol=0, atol=1e-5)


def refused(tmp_path: Path, change: Callable[[dict[str, Array]], dict[str, Array]]) -> list[str]:
    """The lines of the error."""
    with pytest.raises(WeightsError) as caught:
        seeded(tmp_path, change)
    return str(caught.value).splitlines()


def test_folded_weights_of_another_width_are_a_few_lines(tmp_path: Path) -> None:
    lines = refused(
        tmp_path,
        lambda weights: fold({name: np.repeat(value, 2, axis=0) for name, value in weights.items()}, 1e-3),
    )
    assert lines[0].endswith("these weights do not fit the spec, 106 faults:")
    assert lines[1].strip() == "stem.weight: shape 32x3x3x3, expected 16x3x3x3"
    assert lines[21].strip() == "and 86 more"
    assert len(lines) == 24, "heading, 20 faults, how many more, two hints"


def test_a_convolution_without_bias_and_batchnorm_is_told_both_forms(tmp_path: Path) -> None:
    def bare(weights: dict[str, Array]) -> dict[str, Array]:
        folded = fold(weights, 1e-3)
        return {name: folded[name] for name in folded if name != "block3.dw.bias"}

    lines = refused(tmp_path, bare)
    assert [line.strip() for line in lines[1:]] == [
        *(f"block3.dw.{part}: missing, expected 48" for part in ("gamma", "beta", "mean", "var")),
        "hint: beside its .weight a convolution has .gamma, .beta, .mean, .var, or where folded .bias alone",
    ]


def test_a_bias_beside_a_batchnorm_is_extra(tmp_path: Path) -> None:
    lines = refused(tmp_path, lambda weights: {**weights, "stem.bias": weights["stem.beta"]})
    assert [line.strip() for line in lines[1:]] == ["stem.bias: extra, the layer has a BatchNorm"]


def test_a_misspelt_bias_is_guessed(tmp_path: Path) -> None:
    def misspelt(weights: dict[str, Array]) -> dict[str, Array]:
        return {name.replace("fc.bias", "fc.bais"): value for name, value in weights.items()}

    assert refused(tmp_path, misspelt)[1].strip() == (
        "fc.bais: extra, no layer of the spec has it; did you mean fc.bias?"
    )


def test_epsilon_does_not_matter_to_folded_weights(tmp_path: Path) -> None:
    meta = {"__meta__": np.array(json.dumps({"bn_eps": 1e-5}))}
    seeded(tmp_path, lambda weights: fold(weights, 1e-3) | meta)
    assert "batchnorm_epsilon=1e-05" in refused(tmp_path, lambda weights: weights | meta)[1]


META: list[tuple[object, str]] = [
    ({"padding": "symmetric"}, "--set padding=symmetric"),
    ({"padding": "valid"}, "padding is 'valid', expected one of tf_same, same, symmetric"),
    ({"padding": ["same"]}, "padding is ['same'], expected one of"),
    ({"bn_eps": 1e-5}, "--set batchnorm_epsilon=1e-05"),
    ({"bn_eps": "small"}, "bn_eps is 'small', expected a number"),
    ([1], "must be a JSON object"),
]


@pytest.mark.parametrize(("meta", "expected"), META)
def test_meta_that_disagrees(tmp_path: Path, meta: object, expected: str) -> None:
    path = saved(tmp_path, good() | {"__meta__": np.array(json.dumps(meta))})
    text = message(path, Trained(padding="same", batchnorm_epsilon=1e-3))
    assert expected in text
    assert "1 fault:" in text


@pytest.mark.parametrize(
    ("meta", "expected"), [(np.array("{"), "not valid JSON"), (np.zeros(3), "must be one JSON text")]
)
def test_meta_that_is_no_json(tmp_path: Path, meta: np.ndarray, expected: str) -> None:
    assert expected in message(saved(tmp_path, good() | {"__meta__": meta}))


@pytest.mark.parametrize("meta", [{}, {"padding": "tf_same"}, {"padding": "same", "bn_eps": 0.0010000000475}])
def test_meta_that_agrees(tmp_path: Path, meta: object) -> None:
    path = saved(tmp_path, good() | {"__meta__": np.array(json.dumps(meta))})
    assert read(path, Trained(padding="same", batchnorm_epsilon=1e-3)).keys() == SHAPES.keys()


def write_text(path: Path) -> None:
    path.write_text("not weights")


def write_single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_truncated(path: Path) -> None:
    save_tensors(path, good())
    path.write_bytes(path.read_bytes()[:-100])


def write_empty_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


def write_nothing(path: Path) -> None:
    pass


UNREADABLE: list[tuple[Callable[[Path], object], str]] = [
    (write_nothing, "no such file"),
    (Path.touch, "empty (0 bytes)"),
    (Path.mkdir, "not a file"),
    (os.mkfifo, "not a file"),
    (write_text, "not an .npz archive, or truncated"),
    (write_single_array, "not an .npz archive"),
    (write_truncated, "truncated"),
    (write_empty_archive, "holds no tensors"),
]


@pytest.mark.parametrize(("write", "expected"), UNREADABLE, ids=[text for _, text in UNREADABLE])
def test_unreadable_files_are_one_line(tmp_path: Path, write: Callable[[Path], object], expected: str) -> None:
    path = tmp_path / "weights.npz"
    write(path)
    text = message(path)
    assert expected in text
    assert text.startswith(str(path))
    assert "\n" not in text


def test_names_no_file_can_have(tmp_path: Path) -> None:
    assert "File name too long" in message(tmp_path / ("x" * 300))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path, save: Callable[..., None]) -> None:
    """Any one byte overwritten: a WeightsError, or (in padding and dates) the same weights; never another exception."""
    path = tmp_path / "weights.npz"
    save_tensors(path, good(), save=save)
    whole = path.read_bytes()
    numbers = random.Random(0)
    for _ in range(300):
        position = numbers.randrange(len(whole))
        path.write_bytes(whole[:position] + bytes([numbers.randrange(256)]) + whole[position + 1 :])
        try:
            weights = read(path)
        except WeightsError:
            continue
        for name, array in good().items():
            np.testing.assert_array_equal(weights[name], array)


@needs_shared_data
def test_trained_weights_say_where_they_come_from() -> None:
    weights, origin = load_weights(TRAINED, load_spec(SPECS / "mnv2_1.0.yaml", ["classes=1001"]), 0)
    assert weights["fc.weight"].shape == (1001, 1280)
    digest = hashlib.sha256(TRAINED.read_bytes()).hexdigest()
    assert str(origin) == f"mnv2_1.0_224_imagenet.npz, sha256 {digest}"


@needs_shared_data
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("classes=1000", "--set classes=1001"),
        ("padding=symmetric", "--set padding=same"),
        ("width_multiplier=0.5", "width"),
    ],
)
def test_trained_weights_for_another_spec(override: str, expected: str) -> None:
    spec = load_spec(SPECS / "mnv2_1.0.yaml", ["classes=1001", override][override.startswith("classes") :])
    with pytest.raises(WeightsError, match=expected):
        load_weights(TRAINED, spec, 0)


def archive(directory: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(directory / "made.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name that is there already
                file.writestr(name, content)
    return directory / "made.npz"


def header(text: str) -> bytes:
    """Of an array, ``text`` where the dictionary stands."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    "content",
    [
        header(SHAPE % "(10**30,)"),
        header(SHAPE % f"({10**30},)"),
        header(SHAPE % "(-1,)"),
        header(SHAPE % "('a',)"),
        header(SHAPE % "(2,)") + b"12345678901234",
        header("{" * 300),
        header("  {'descr': '<f4'"),
        header("("),
        header("{'descr': [('a', '<f4')] * 9, 'fortran_order': False, 'shape': (1,)}"),
        b"\x93NUMPY\x07\x00",
        b"",
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    (found,) = read_npz(archive(tmp_path, [("stem.weight.npy", content)])).values()
    assert isinstance(found, str)
    assert found.startswith("cannot be read (")
    assert "\n" not in found


def test_a_tensor_that_is_there_twice(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones(3, np.float32))
    content = stream.getvalue()
    found = read_npz(archive(tmp_path, [("a.npy", content), ("b.npy", content), ("a.npy", content)]))
    assert found["a"] == "is in the archive 2 times"
    np.testing.assert_array_equal(found["b"], np.ones(3))


def test_an_archive_that_unfolds(tmp_path: Path) -> None:
    path = archive(tmp_path, [("x.npy", bytes(1 << 20)) for _ in range(1100)])
    with pytest.raises(WeightsError, match="holds 1100 MiB: these are no weights of ours"):
        read_npz(path)


def test_what_nobody_asked_for_is_not_read(tmp_path: Path) -> None:
    """256 MiB of zeros in a small file: names and shapes first, data afterwards."""
    path, zeros = tmp_path / "weights.npz", np.zeros(1 << 26, np.float32)
    texts = np.zeros((8,), "<U1000000")
    np.savez_compressed(path, **good() | {"fc.weight": zeros, "unknown": zeros, "stem.gamma": texts})
    tracemalloc.start()
    try:
        found = read_npz(path, lambda names: SHAPES)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 24
    assert isinstance(unknown := found["unknown"], np.ndarray)
    assert unknown.shape == zeros.shape
    with pytest.raises(WeightsError, match=r"(?s)stem\.gamma: dtype <U1000000.*fc\.weight: shape 67108864"):
        fit(path, found, SHAPES)


def test_a_meta_without_end(tmp_path: Path) -> None:
    assert "__meta__: cannot be read (a text of 8000000 bytes)" in message(
        saved(tmp_path, good() | {"__meta__": np.array("x" * 2_000_000)})
    )


def test_meta_that_is_nested_deeply(tmp_path: Path) -> None:
    tensors = good() | {"__meta__": np.array("[" * 100_000)}
    assert "__meta__: not valid JSON" in message(saved(tmp_path, tensors))
