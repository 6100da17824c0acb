"""Weights and trained models of every format: as the weights of a spec, and as what becomes one."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fuzz.limits import Fuzz, command
from fuzz.mutations import ESCAPES, changed_bytes, changed_onnx, changed_tree, json_bytes
from fuzz.npz import npy, npz
from mini_spec import MINI
from model_files import KerasModel, torchvision_names, write_safetensors
from onnx_writer import write

from mnv2c.measure.tflite_model import write_tflite
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.shipped import SPECS
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec, read_spec
from mnv2c.weights import load_weights
from mnv2c.weights.importing import import_model
from mnv2c.weights.seeded import seeded_weights

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

SMALL = read_spec(MINI, "mini.yaml")
SMALL_WEIGHTS = seeded_weights(SMALL, 1)
WHOLE = load_spec(SPECS / "mnv2_1.0.yaml", ["width_multiplier=0.05", "resolution=32", "classes=3", "head.c=8"])
"""The paper's table, as files that have tensors alone must have it."""
WHOLE_WEIGHTS = seeded_weights(WHOLE, 1)
PICKLE = b"\x80\x02c__builtin__\neval\n(S'1'\ntR."


def arrays() -> dict[str, tuple[dict[str, Any], bytes]]:
    """Headers and data of an .npz."""
    weights = {**WHOLE_WEIGHTS, "__meta__": np.array(json.dumps({"padding": "same", "bn_eps": 1e-3}))}
    headers = {name: {"descr": v.dtype.str, "fortran_order": False, "shape": v.shape} for name, v in weights.items()}
    return {name: (headers[name], np.ascontiguousarray(value).tobytes()) for name, value in weights.items()}


ARRAYS = arrays()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One of each format."""
    folder = tmp_path_factory.mktemp("models")
    keras = KerasModel(SMALL, SMALL_WEIGHTS, nested="functional")
    paths = [
        keras.write_h5(folder / "m.h5"),
        keras.write_keras(folder / "m.keras"),
        write_safetensors(folder / "m.safetensors", torchvision_names(WHOLE_WEIGHTS)),
    ]
    return {
        ".npz": npz([(f"{name}.npy", npy(*array)) for name, array in ARRAYS.items()]),
        ".onnx": write(build_graph(SMALL, SMALL_WEIGHTS)).SerializeToString(),
        ".pth": npz([("archive/data.pkl", PICKLE), ("archive/data/0", bytes(64))]),
        ".tflite": write_tflite(export_onnx(build_graph(SMALL, SMALL_WEIGHTS))),
        **{path.suffix: path.read_bytes() for path in paths},
    }


def feed(draw: Random, path: Path) -> Callable[[], object]:
    """Each of the ways a model is read."""
    ways: list[Callable[[], object]] = [
        lambda: import_model(path, "net", overrides=["resolution=32"]),
        lambda: load_weights(path, SMALL, 0),
        lambda: load_weights(path, WHOLE, 0),
        lambda: command("import", path, "-o", path.with_name("net")),
    ]
    return draw.choice(ways)


@pytest.mark.parametrize("suffix", [".npz", ".onnx", ".safetensors", ".pth", ".h5", ".keras", ".tflite"])
def test_models_as_bytes(suffix: str, models: dict[str, bytes], fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path = folder / f"model{suffix}"
        path.write_bytes(changed_bytes(draw, models[suffix], others=list(models.values())))
        return feed(draw, path)

    fuzz(case)


def changed_npz(draw: Random, folder: Path) -> None:
    members = []
    for name, (header, data) in ARRAYS.items():
        held = [header, data]
        if draw.random() < 0.004:
            held = changed_tree(
                draw, held, values=((10**30,), (-1, 4), (1 << 31, 1 << 31), "|O", ">f8", "<U8", [["a", "<f4"]])
            )
        text = held[0] if isinstance(held, list) and held else held
        name = draw.choice((name, ESCAPES, "", "x" * 3000, "../x")) if draw.random() < 0.004 else name
        content = npy(text, data if draw.random() > 0.002 else b"")
        members += [(f"{name}.npy", content)] * (2 if draw.random() < 0.004 else 1)
    rare = (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)  # a member takes these longer to begin than all else together
    compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) * 20 + rare)
    (folder / "model.npz").write_bytes(npz(members, compression))


def changed_safetensors(draw: Random, folder: Path, content: bytes) -> None:
    (size,) = struct.unpack("<Q", content[:8])
    header = json_bytes(changed_tree(draw, json.loads(content[8 : 8 + size]), values=("F16", "I64", "BOOL", "F8_E4M3")))
    length = len(header) if draw.random() < 0.9 else draw.choice((0, 1, size, 1 << 31, (1 << 64) - 1))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + header + content[8 + size :])


def changed_tflite(draw: Random, folder: Path, content: bytes) -> None:
    """As far as FlatBuffers' types go, with LiteRT's own schema."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    while True:
        try:
            builder = flatbuffers.Builder()
            builder.Finish(changed_tree(draw, model).Pack(builder), b"TFL3")
            (folder / "model.tflite").write_bytes(builder.Output())
            return
        except Exception:  # whatever packs no such value
            continue


def changed_keras(draw: Random, folder: Path, suffix: str) -> None:
    """Its description, or the tensors beside it."""
    model = KerasModel(SMALL, SMALL_WEIGHTS, nested=draw.choice(("functional", "sequential")))
    if draw.random() < 0.7:
        model.config = changed_tree(draw, model.config, values=("Conv2D", "Dense", "Functional", "same", "dense_0"))
    else:
        values = [array for named in model.tensors.values() for array in named.values()]
        for arrays_of in (
            *model.tensors.values(),
            *({str(i): a for i, a in enumerate(n)} for n in model.numbered.values()),
        ):
            for name in [name for name in arrays_of if draw.random() < 0.05]:
                arrays_of[name] = draw.choice((*values, np.zeros((), "f4"), np.zeros((0, 3), "f8"), np.array([b"x"])))
    getattr(model, f"write_{suffix}")(folder / f"model.{suffix}")


@pytest.mark.parametrize("suffix", [".npz", ".onnx", ".safetensors", ".h5", ".keras", ".tflite"])
def test_models_by_their_structure(suffix: str, models: dict[str, bytes], fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        match suffix:
            case ".npz":
                changed_npz(draw, folder)
            case ".safetensors":
                changed_safetensors(draw, folder, models[suffix])
            case ".onnx":
                (folder / "model.onnx").write_bytes(changed_onnx(draw, models[suffix]))
            case ".tflite":
                changed_tflite(draw, folder, models[suffix])
            case _:
                changed_keras(draw, folder, suffix[1:])
        return feed(draw, folder / f"model{suffix}")

    fuzz(case)
