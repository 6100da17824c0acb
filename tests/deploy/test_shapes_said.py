"""A manifest that says other shapes than the library has, and is signed: the library itself is asked before it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from changed_build import changed_manifest
from command_line import check_refused, mnv2c
from photograph import photograph
from small_library import copy_of
from tiny_program import build_with_two_outputs

from mnv2c.deploy.native import load
from mnv2c.deploy.network import read_build
from mnv2c.deploy.peer import Peer, RemoteNetwork
from mnv2c.deploy.runner import link_runner
from mnv2c.errors import LibraryError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of (40, 6, 3); a map of the same shape, and logits (2, 7)."""
    return build_with_two_outputs(tmp_path_factory.mktemp("two"))


def resigned(built: Path, tmp_path: Path, change: Change) -> Path:
    copy = copy_of(built, tmp_path)
    manifest = copy / "manifest.json"
    manifest.write_bytes(changed_manifest(manifest.read_bytes(), lambda fields: change(fields["interface"])))
    return copy


def output(number: int, shape: list[int]) -> Change:
    return lambda interface: interface["outputs"][number].update(shape=shape)


OTHERS: dict[str, tuple[Change, str]] = {
    "a higher image": (lambda i: i.update(input_shape=[2, 41, 6, 3]), r"input has the shape \(2, 40, 6, 3\), not \("),
    "a smaller image": (lambda i: i.update(input_shape=[2, 8, 6, 3]), r"input has the shape \(2, 40, 6, 3\), not \("),
    "a batch": (lambda i: i.update(input_shape=[3, 40, 6, 3]), r"input has the shape \(2, 40, 6, 3\), not \(3, 40,"),
    "fewer classes": (output(1, [2, 1]), r"logits has the shape \(2, 7\), not \(2, 1\); build it again"),
    "more classes": (output(1, [2, 70_000]), r"logits has the shape \(2, 7\), not \(2, 70000\); build it again"),
    "another rank": (output(1, [2, 1, 1, 7]), r"logits has the shape \(2, 7\), not \(2, 1, 1, 7\); build it again"),
    "a small map": (output(0, [2, 1, 1, 3]), r"map has the shape \(2, 40, 6, 3\), not \(2, 1, 1, 3\); build it again"),
    "another order": (lambda i: i["outputs"].reverse(), r"logits has the shape \(2, 40, 6, 3\), not \(2, 7\)"),
}  # fmt: skip
COUNTS: dict[str, tuple[Change, str]] = {
    "one output": (lambda i: i["outputs"].pop(), "the library has 2 outputs, not 1; build it again"),
    "three": (lambda i: i["outputs"].append({"name": "x", "shape": [1], "dtype": "float32"}), "has 2 outputs, not 3;"),
}


@pytest.mark.parametrize("name", [*OTHERS, *COUNTS])
def test_here(built: Path, tmp_path: Path, name: str) -> None:
    change, words = (OTHERS | COUNTS)[name]
    with pytest.raises(LibraryError, match=words):
        load(resigned(built, tmp_path, change))


@pytest.mark.parametrize("name", OTHERS)
def test_through_pipes(built: Path, tmp_path: Path, name: str) -> None:
    change, words = OTHERS[name]
    build = read_build(resigned(built, tmp_path, change))
    peer = Peer([str(link_runner(build, tmp_path, static=True)), "1"], str)
    with pytest.raises(LibraryError, match=words):
        RemoteNetwork(build, peer, processor="here", threads=1, instruction_set=None)


@pytest.mark.parametrize("name", COUNTS)
def test_through_no_pipe(built: Path, tmp_path: Path, name: str) -> None:
    change, words = COUNTS[name]
    with pytest.raises(LibraryError, match=words):
        link_runner(read_build(resigned(built, tmp_path, change)), tmp_path, static=True)


@pytest.mark.parametrize("runner", [(), ("--runner", "qemu")], ids=["here", "qemu"])
def test_no_command_crashes(small_arm_library: Path, small_library: Path, runner: Any, tmp_path: Path) -> None:
    """``validate`` reads the reference first, which has the library's shapes too."""
    library = resigned(small_arm_library if runner else small_library, tmp_path, output(0, [1, 3]))
    check_refused(mnv2c("validate", library, *runner), "model.onnx: of another network than the library; build it")
    photograph(tmp_path / "a.png")
    check_refused(
        mnv2c("run", library, tmp_path / "a.png", *runner), "logits has the shape (1, 1001), not (1, 3); build it again"
    )
