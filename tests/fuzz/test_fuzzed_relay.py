"""What the process that has Relay answers, and the graph that it is asked about."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from shutil import copytree

import numpy as np
import pytest
from changed_build import replace_file
from fuzz.limits import Fuzz, command
from fuzz.mutations import changed_bytes, changed_tree, json_bytes
from fuzz.npz import npy, npz
from mini_spec import MINI
from stand_in_relay import answers_of

from mnv2c.backends import relax, relay
from mnv2c.deploy.manifest import normalise, read_reference
from mnv2c.ir.graph import Graph
from mnv2c.measure.images import seeded_image
from mnv2c.passes import run_pipeline
from mnv2c.reference.evaluator import Reference
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import read_spec
from mnv2c.weights.seeded import seeded_weights
from mnv2c.workload_json import to_json


@pytest.fixture(scope="module")
def graph() -> Graph:
    spec = read_spec(MINI, "mini.yaml")
    return run_pipeline(build_graph(spec, seeded_weights(spec, 0)))


def test_kernel_calls(graph: Graph, fuzz: Fuzz) -> None:
    calls = [{**asdict(call), "workload": to_json(call.workload)} for call in relax.kernel_calls(graph)]
    good = {"calls": [{"calls": json.loads(json.dumps(calls))}], "text": [{"text": "def @main"}]}

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        want = draw.choice(("calls", "calls", "text"))
        reply = json_bytes(changed_tree(draw, good[want], values=("stem", "input", "error", "fc")))
        reply = changed_bytes(draw, reply) if draw.random() < 0.3 else reply
        answers_of(folder, reply=reply, status=draw.choice((b"0",) * 9 + (b"3",)), errors=b"\x1b[2J\xff\n")
        return lambda: relay.kernel_calls(graph) if want == "calls" else relay.text(graph)

    fuzz(case)


def test_what_relay_computes(build: Path, fuzz: Fuzz) -> None:
    image = normalise(build, seeded_image(0, (32, 32, 3)))[np.newaxis]
    logits = Reference(read_reference(build)).run(image)["logits"]
    header = {"descr": "<f4", "fortran_order": False, "shape": logits.shape}

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        changed = changed_tree(draw, [header, logits.tobytes()]) if draw.random() < 0.5 else [header, logits.tobytes()]
        data = changed[1] if isinstance(changed, list) and len(changed) > 1 and isinstance(changed[1], bytes) else b""
        name = draw.choice(("0.npy",) * 5 + ("1.npy", "0", "../0.npy"))
        answer = npz([(name, npy(changed[0] if isinstance(changed, list) and changed else 0, data))])
        answer = changed_bytes(draw, answer) if draw.random() < 0.3 else answer
        numbers = b"[18:00] TVM says\n0\n" + b"".join(draw.choice(_NUMBERS) for _ in range(4))
        answers_of(folder, answer=answer, numbers=numbers)
        copy = build
        if draw.random() < 0.3:
            copy = Path(copytree(build, folder / "build"))
            ops = json.loads((copy / "ir" / "graph.json").read_bytes())
            replace_file(copy, "ir/graph.json", json_bytes(changed_tree(draw, ops, values=("stem", "Add", "Pad"))))
        arguments: tuple[tuple[str | Path, ...], ...] = (
            ("validate", copy, "--backend", "relay", "--inputs", "1"),
            ("validate", copy, "--backend", "relay", "--inputs", "1", "--layers"),
            ("bench", copy, "--against", "relay", "--rounds", "1"),
        )
        return lambda: command(*draw.choice(arguments))

    fuzz(case)


_NUMBERS = (
    *(b"12345\n",) * 60,
    *(b"", b"-1\n", b"1e9\n", b"nan\n", b"0" * 5000 + b"\n", b"9" * 5000 + b"\n", b"\xff\xfe\n", "\u00b2\n".encode()),
    *(b"\x1b[2J\n" * 1000, b"x" * (1 << 20), b"1"),
)
