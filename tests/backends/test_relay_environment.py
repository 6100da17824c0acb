"""What the process that has Relay answers is judged: whatever it is, one line. A stand-in answers here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_spec import MINI
from small_library import CLASSES, RESOLUTION
from stand_in_relay import answers_of

from mnv2c.backends import relay
from mnv2c.backends.relay.environment import Executor
from mnv2c.errors import GraphError, ToolError
from mnv2c.ir.graph import Graph
from mnv2c.ir.graph_json import from_json, to_json
from mnv2c.measure.relay_network import RelayNetwork
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import read_spec
from mnv2c.weights.seeded import seeded_weights

CALL = {
    "layer": "fc",
    "workload": {"family": "dense", "k": 32, "n": 16},
    "inputs": ["pool"],
    "constants": ["fc.weight", "fc.bias"],
    "outputs": ["fc"],
}
IMAGE = np.zeros((1, 32, 32, 3), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def graph() -> Graph:
    spec = read_spec(MINI, "mini.yaml")
    return run_pipeline(build_graph(spec, seeded_weights(spec, 0)))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"[{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'[{"calls": "\xff"}]', "no JSON"),
        (b"{}", "does not answer 1 questions"),
        (b"[]", "does not answer 1 questions"),
        (b"[1]", "not what our program says"),
        (b"[{}]", "not what our program says"),
        (b'[{"calls": 3}]', "not what our program says"),
        (json.dumps([{"calls": [CALL | {"workload": {"family": "x"}}]}]).encode(), "not what our program says"),
        (json.dumps([{"calls": [CALL | {"inputs": ["nothing"]}]}]).encode(), "names what the network has not"),
        (json.dumps([{"calls": [CALL | {"constants": [[]]}]}]).encode(), "names what the network has not"),
    ],
)
def test_an_answer_that_is_none(reply: bytes, words: str, graph: Graph, tmp_path: Path) -> None:
    answers_of(tmp_path, reply=reply)
    with pytest.raises(ToolError, match=rf"Relay's environment fails \(.*{words}\)"):
        relay.kernel_calls(graph)


def test_an_answer(graph: Graph, tmp_path: Path) -> None:
    answers_of(tmp_path, reply=json.dumps([{"calls": [CALL]}]).encode())
    (call,) = relay.kernel_calls(graph)
    assert (call.layer, call.workload.name) == ("fc", "dense_32_16")
    answers_of(tmp_path, reply=b'[{"error": "stem: no kernel"}]')
    with pytest.raises(GraphError, match="stem: no kernel"):
        relay.kernel_calls(graph)


def test_a_graph_whose_sources_are_no_files(graph: Graph) -> None:
    """Whatever was read is asked about."""
    fields = json.loads(json.dumps(to_json(graph)))
    fields["ops"][1]["source"]["file"] = 7
    assert to_json(from_json(fields))["ops"][1]["source"]["file"] == "7"


def archive(tmp_path: Path, **arrays: Any) -> bytes:
    np.savez(tmp_path / "answer.npz", **arrays)
    return (tmp_path / "answer.npz").read_bytes()


def test_what_is_computed_is_read_by_its_number(tmp_path: Path) -> None:
    answers_of(tmp_path, answer=archive(tmp_path, **{"0": IMAGE}), numbers=b"TVM says\n3\n\xff\xfe\n\xc2\xb2\n42\n")
    executor = Executor({}, {}, ["fc"], threads=1, minutes=0)
    assert executor.trials == 3
    (found,), nanoseconds = executor.run(IMAGE)
    executor.close()
    assert nanoseconds == 42
    assert found.shape == IMAGE.shape


@pytest.mark.parametrize(
    ("numbers", "damage", "words"),
    [
        (b"0\n1\n", lambda content: content[:-10], "what it computes cannot be read"),
        (b"0\n1\n", lambda content: content.replace(b"0.npy", b"1.npy"), "what it computes cannot be read"),
        (b"0\n1\n", lambda content: content.replace(b"<f4", b"<i4"), "what it computes cannot be read"),
        (b"0\n", bytes, "no Python"),
        (b"0\n" + b"1" * 5000, bytes, "no Python"),
    ],
)
def test_what_is_computed_that_is_none(numbers: bytes, damage: Any, words: str, tmp_path: Path) -> None:
    answers_of(tmp_path, answer=damage(archive(tmp_path, **{"0": IMAGE})), numbers=numbers, errors=b"no Python \xff\n")
    executor = Executor({}, {}, ["fc"], threads=1, minutes=0)
    with pytest.raises(ToolError, match=rf"Relay's environment fails \({words}"):
        executor.run(IMAGE)
    executor.close()


def test_a_map_of_another_shape(small_library: Path, tmp_path: Path) -> None:
    image = np.zeros((1, RESOLUTION, RESOLUTION, 3), np.float32)
    for shape in ((1, CLASSES), (1, CLASSES + 1)):
        answers_of(tmp_path, answer=archive(tmp_path, **{"0": np.ones(shape, np.float32)}), numbers=b"0\n7\n")
        network = RelayNetwork(small_library)
        if shape == (1, CLASSES):
            assert network.run(image).shape == shape
        else:
            with pytest.raises(ToolError, match=r"\(what it computes has other shapes than the network\)"):
                network.run(image)
        network.close()
