"""``manifest.json``: what is written is read back, and whatever else is there ends in one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_build import replace_file
from mini_spec import MINI

from mnv2c.deploy.manifest import (
    Block,
    Interface,
    Kernel,
    Layer,
    Manifest,
    Output,
    Preprocessing,
    SpecSource,
    TargetSource,
    WeightsSource,
    input_shape,
    normalise,
    read_manifest,
    read_reference,
    signed,
)
from mnv2c.errors import LibraryError
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import read_spec
from mnv2c.weights.seeded import seeded_weights

MANIFEST = Manifest(
    precision="fp32",
    backend="relax",
    name="two heads",
    interface=Interface(
        identifier="two_heads",
        instruction_sets=("v3", "v2"),
        input_shape=(4, 192, 256, 3),
        outputs=(Output("logits", (4, 1000)), Output("block17.out", (4, 6, 8, 320))),
    ),
    preprocessing=Preprocessing((127.5, 0.0, 1e-3), (127.5, 1.0, 255.0)),
    spec=SpecSource("0f" * 32, "Spec(...)"),
    weights=WeightsSource("seeded initialisation, seed 3", None, 3),
    versions={"mnv2c": "0.1.0"},
    target=TargetSource("x86", "x86_64-linux-gnu", "x86_64-linux-gnu.2.28"),
    arena_bytes=1,
    weights_bytes=2,
    layers=(Layer("stem", "stem_1", 10**12, 10**9),),
    kernels={"v3": {"stem_1": Kernel("exact", "Schedule()", 24, Block(128, 64, 0, 4096))}, "v2": {}},
    files={"lib/libtwo_heads.so": "ab" * 32},
)


def write(directory: Path, content: bytes) -> None:
    (directory / "manifest.json").write_bytes(content)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.to_json())
    assert read_manifest(tmp_path) == MANIFEST
    assert MANIFEST.target.architecture == "x86_64"


def test_images_are_normalised_per_channel(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.to_json())
    assert input_shape(tmp_path) == (192, 256, 3)
    x = normalise(tmp_path, np.full((1, 1, 3), 255, np.uint8))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [[[1.0, 255.0, (255 - 1e-3) / 255]]], rtol=1e-6)


Change = Callable[[dict[str, Any]], object]
"""What makes the fields of a good manifest bad."""

BAD_FIELDS: dict[str, Change] = {
    "no mark": lambda m: m.pop("format"),
    "the mark of another version": lambda m: m.update(format="mnv2c manifest 2"),
    "a field too many": lambda m: m.update(colour="blue"),
    "a nested field too many": lambda m: m["interface"]["outputs"][0].update(colour="blue"),
    "a missing field": lambda m: m.pop("arena_bytes"),
    "a nested field missing": lambda m: m["kernels"]["v3"]["stem_1"].pop("tasks"),
    "a number for a text": lambda m: m.update(name=3),
    "a text for a number": lambda m: m.update(arena_bytes="1"),
    "a fraction for a whole number": lambda m: m.update(arena_bytes=1.0),
    "a truth for a number": lambda m: m.update(weights_bytes=True),
    "a truth for a float": lambda m: m["preprocessing"].update(mean=[True, 0, 0]),
    "null where nothing may be missing": lambda m: m["layers"][0].update(kernel=None),
    "a list for an object": lambda m: m.update(versions=[]),
    "an object for a list": lambda m: m.update(layers={}),
    "a text for a list": lambda m: m["interface"].update(instruction_sets="v3"),
    "a word of no meaning": lambda m: m["kernels"]["v3"]["stem_1"].update(origin="guess"),
    "an element type that the C interface lacks": lambda m: m["interface"]["outputs"][0].update(dtype="int8"),
    "NaN": lambda m: m["preprocessing"].update(scale=[float("nan")] * 3),
    "infinity": lambda m: m["preprocessing"].update(mean=[float("inf")] * 3),
    "a float too large": lambda m: m["preprocessing"].update(mean=[10**400, 0, 0]),
    "a scale of zero": lambda m: m["preprocessing"].update(scale=[1, 0, 1]),
    "a mean for too few channels": lambda m: m["preprocessing"].update(mean=[1.0]),
    "an image of three dimensions": lambda m: m["interface"].update(input_shape=[192, 256, 3]),
    "an empty image": lambda m: m["interface"].update(input_shape=[4, 0, 256, 3]),
    "an output without a shape": lambda m: m["interface"]["outputs"][0].update(shape=[]),
    "a negative output": lambda m: m["interface"]["outputs"][0].update(shape=[4, -1000]),
    "no output": lambda m: m["interface"].update(outputs=[]),
    "two outputs of one name": lambda m: m["interface"]["outputs"][1].update(name="logits"),
    "no instruction set": lambda m: m["interface"].update(instruction_sets=[]),
    "a path for an identifier": lambda m: m["interface"].update(identifier="../../etc/evil"),
    "a line after the identifier": lambda m: m["interface"].update(identifier="two_heads\n"),
    "an absolute path": lambda m: m["files"].update({"/etc/passwd": ""}),
    "a path out of the directory": lambda m: m["files"].update({"lib/../../x": ""}),
}


@pytest.mark.parametrize("change", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_bad_fields(tmp_path: Path, change: Change) -> None:
    fields = json.loads(MANIFEST.to_json())
    del fields["sha256"]
    change(fields)
    write(tmp_path, signed(fields))
    check_damaged(tmp_path)


def test_one_byte_is_noticed(tmp_path: Path) -> None:
    """Values that would be good in another manifest."""
    content = MANIFEST.to_json()
    write(tmp_path, content)
    assert read_manifest(tmp_path) == MANIFEST
    for place in range(0, len(content), 7):
        write(tmp_path, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        check_damaged(tmp_path)


BAD_TEXTS = {
    "nothing": b"",
    "half": MANIFEST.to_json()[:400],
    "an empty object": b"{}",
    "a list": b"[]",
    "other bytes": b"\x00\xff\xfe",
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep in a field": MANIFEST.to_json().replace(b'"two heads"', b"[" * 200_000 + b"]" * 200_000),
    "an endless number": MANIFEST.to_json().replace(b'"arena_bytes": 1', b'"arena_bytes": ' + b"1" * 100_000),
    "an extension's": b'{"manifest_version": 3, "name": "extension", "version": "1.0"}',
}


@pytest.mark.parametrize("content", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_something_else(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content)
    check_damaged(tmp_path)


def check_damaged(directory: Path) -> None:
    words = f"{directory / 'manifest.json'}: changed, damaged, or not mnv2c's; build the library again"
    with pytest.raises(LibraryError, match=f"^{re.escape(words)}$"):
        read_manifest(directory)


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"no such directory; `mnv2c build SPEC --out '.*/no place'` makes one"):
        read_manifest(tmp_path / "no place")
    with pytest.raises(LibraryError, match=r"no manifest\.json in it"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(LibraryError, match="cannot be read: Is a directory"):
        read_manifest(tmp_path)


def test_what_never_ends_or_never_begins_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(LibraryError, match="cannot be read: not a file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(LibraryError, match="cannot be read: not a file"):
        read_manifest(tmp_path)


def test_the_reference_is_one_of_this_library(tmp_path: Path) -> None:
    """Whoever signs a manifest anew may have put anything beside it."""
    spec = read_spec(MINI, "mini.yaml")
    model = export_onnx(build_graph(spec, seeded_weights(spec, 0)))
    interface = replace(MANIFEST.interface, input_shape=(1, 32, 32, 3), outputs=(Output("logits", (1, 16)),))
    write(tmp_path, replace(MANIFEST, interface=interface).to_json())
    replace_file(tmp_path, "model.onnx", model.SerializeToString())
    assert read_reference(tmp_path) == model
    replace_file(tmp_path, "model.onnx", b"\xff" + model.SerializeToString())
    with pytest.raises(LibraryError, match=r"model\.onnx: no ONNX model"):
        read_reference(tmp_path)
    for wrong in ({"input_shape": (1, 33, 32, 3)}, {"outputs": (Output("features", (1, 16)),)}):
        write(tmp_path, replace(MANIFEST, interface=replace(interface, **wrong)).to_json())
        replace_file(tmp_path, "model.onnx", model.SerializeToString())
        with pytest.raises(LibraryError, match=r"model\.onnx: of another network than the library"):
            read_reference(tmp_path)
