"""Specs, and what stands in for parts of them: ``--set``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzz.limits import Fuzz, command
from fuzz.mutations import ESCAPES, changed_text, changed_tree
from hypothesis import given, settings
from property.strategies import specs

from mnv2c.shipped import SPECS
from mnv2c.spec.frontend import parameter_shapes
from mnv2c.spec.table import Spec, load_spec, read_spec
from mnv2c.spec.yaml_writer import write_spec

KEYS = (
    *("name", "classes", "resolution", "input.batch", "mean", "scale", "padding", "stem.c", "c", "head", "head.c"),
    *("bottlenecks", "bottlenecks[0]", "bottlenecks[1].c", "bottlenecks[1].residual.r", "bottlenecks[99].t"),
    *("classifier", "classifier[0].activation", "", ESCAPES, "bottlenecks[" + "9" * 50 + "].c"),
)
VALUES = (
    "1",
    "192",
    "[3, 4]",
    "x",
    "",
    "~",
    "same",
    "{c: 1, n: 1, s: 1}",
    "[[[",
    "9" * 400,
    "*a",
    "1=2",
    ESCAPES,
    "a\nb",
)


def texts() -> Sequence[str]:
    """The shipped specs, and others of every kind of row."""
    found = [path.read_text(encoding="utf-8") for path in sorted(SPECS.glob("*.yaml"))]

    @settings(max_examples=20, derandomize=True, database=None, deadline=None)
    @given(specs())
    def draw(spec: Spec) -> None:
        found.append(write_spec(spec))

    draw()
    return found


TEXTS = texts()
TREES = [yaml.safe_load(text) for text in TEXTS]


def feed(path: Path, overrides: Sequence[str] = ()) -> None:
    """A spec that is read can be built, and written again."""
    spec = load_spec(path, overrides)
    parameter_shapes(spec)
    assert read_spec(write_spec(spec), "again") == spec


def test_specs_as_text(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path = folder / "spec.yaml"
        path.write_bytes(changed_text(draw, draw.choice(TEXTS)))
        return lambda: feed(path)

    fuzz(case)


def test_specs_as_trees(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        tree: Any = changed_tree(draw, draw.choice(TREES), values=(1, 2, 3, "residual", "softmax"))
        path = folder / "spec.yaml"
        path.write_text(json.dumps(tree) if draw.random() < 0.5 else yaml.safe_dump(tree), errors="surrogatepass")
        return lambda: feed(path)

    fuzz(case)


def test_overrides(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        count = draw.choice((1, 1, 2, 3, 20, 3000))
        overrides = [
            f"{draw.choice(KEYS)}{draw.choice(('=', '=', '=', ''))}{draw.choice(VALUES)}" for _ in range(count)
        ]
        path = folder / "spec.yaml"
        path.write_text(draw.choice(TEXTS), encoding="utf-8")
        return lambda: feed(path, overrides)

    fuzz(case)


def test_show(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path = folder / draw.choice(("spec.yaml", "a\x1b[2Jb.yaml", b"\xff.yaml".decode(errors="surrogateescape")))
        path.write_bytes(changed_text(draw, draw.choice(TEXTS)))
        override = [f"--set={draw.choice(KEYS)}={draw.choice(VALUES)}"] if draw.random() < 0.3 else []
        return lambda: command("show", path, *override)

    fuzz(case)
