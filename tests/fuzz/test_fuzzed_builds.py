"""Built directories: what every command that takes one makes of a manifest, and of the files that it lists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from changed_build import changed_manifest, replace_file
from fuzz.limits import Fuzz, command
from fuzz.mutations import changed_bytes, changed_onnx, changed_tree, json_bytes, no_file

from mnv2c.deploy.manifest import signed

MEANT = (
    "mini",
    "v3",
    "armv7l",
    "x86_64-linux-gnu",
    "cuda",
    "sm_90",
    "arm",
    "fp16",
    "float32",
    "logits",
    "stem",
    "0" * 64,
)
FILES = ("manifest.json", "model.onnx", "ir/graph.json", "lib/libmini.so", "lib/libmini.a", "include/mini.h")


def feed(draw: Random, build: Path, photograph: Path) -> Callable[[], object]:
    """One of the commands that take a build."""
    arguments: tuple[tuple[str | Path, ...], ...] = (
        ("run", build, photograph),
        ("validate", build, "--inputs", "1"),
        ("validate", build, "--inputs", "1", "--layers"),
        ("bench", build, "--rounds", "1"),
        ("bench", build, "--rounds", "1", "--layers"),
        ("wheel", build, "--out", build.parent),
        ("cost", build),
        ("cost", build, "--core", draw.choice(("cortex-a72", "cortex-a7", "h100"))),
        ("cost", build, "--memory", "--board", "pi4"),
    )
    return lambda: command(*draw.choice(arguments), *draw.choice(((), ("--json",))))


def test_manifests(build: Path, fuzz: Fuzz) -> None:
    """Signed again, as if a build had written them."""
    fields = json.loads((build / "manifest.json").read_bytes())
    del fields["sha256"]

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        copy = Path(shutil.copytree(build, folder / "build"))
        changed = changed_tree(draw, fields, values=MEANT)
        content = signed(changed) if isinstance(changed, dict) else json_bytes(changed)
        (copy / "manifest.json").write_bytes(content)
        return feed(draw, copy, build.parent / "a.png")

    fuzz(case)


def test_shapes_in_manifests(build: Path, fuzz: Fuzz) -> None:
    """Signed again too: what decides how far the library writes."""
    content = (build / "manifest.json").read_bytes()

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        copy = Path(shutil.copytree(build, folder / "build"))
        extents = [draw.choice((1, 2, 3, 16, 17, 32, 1000, 1 << 20, 1 << 40)) for _ in range(draw.randint(0, 4))]
        key, value = draw.choice(
            (
                ("input_shape", [1, *(draw.choice((1, 3, 16, 31, 32, 33, 500)) for _ in range(2)), 3]),
                ("outputs", [{"name": draw.choice(("logits", "x")), "shape": extents, "dtype": "float32"}] * 1),
                (
                    "outputs",
                    [{"name": f"o{i}", "shape": [1, 16], "dtype": "float32"} for i in range(draw.randint(0, 9))],
                ),
                ("instruction_sets", draw.choice(([], ["v9"], ["v2"], ["v4", "v3", "v2"], [""] * 1000))),
            )
        )
        changed = changed_manifest(content, lambda fields: fields["interface"].update({key: value}))
        (copy / "manifest.json").write_bytes(changed)
        return feed(draw, copy, build.parent / "a.png")

    fuzz(case)


def test_files_of_a_build(build: Path, fuzz: Fuzz) -> None:
    """Damaged; the reference also as if a build had written it, but no library, which is code."""

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        copy = Path(shutil.copytree(build, folder / "build"))
        name = draw.choice(FILES)
        content = (copy / name).read_bytes()
        match draw.randrange(4):
            case 0:
                no_file(draw, copy / name)
            case 1:
                (copy / name).write_bytes(changed_bytes(draw, content))
            case 2:
                replace_file(copy, "model.onnx", changed_bytes(draw, (copy / "model.onnx").read_bytes()))
            case _:
                replace_file(copy, "model.onnx", changed_onnx(draw, (copy / "model.onnx").read_bytes()))
        return feed(draw, copy, build.parent / "a.png")

    fuzz(case)
