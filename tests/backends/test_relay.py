"""The Relay backend, in its own environment: the same kernel calls as by way of Relax, its text, its installation."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from changed_build import changed_manifest, replace_file
from command_line import SPECS, Finished, mnv2c, succeed, succeed_json
from hypothesis import HealthCheck, Phase, given, settings
from no_skips import WITHOUT_RELAY
from property.strategies import specs
from small_library import SMALL, copy_of

from mnv2c.backends import relax, relay
from mnv2c.backends.relay import environment
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Convolution, Graph, Padding
from mnv2c.ir.graph_json import from_json, to_json
from mnv2c.measure.bench import bench
from mnv2c.measure.images import seeded_image
from mnv2c.measure.validate import validate
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.weights.seeded import seeded_weights

pytestmark = pytest.mark.skipif(not environment.is_installed(), reason=WITHOUT_RELAY)

ALONE = ("bottlenecks=[{t: 1, c: 32, n: 2, s: 1}, {t: 6, c: 24, n: 1, s: 2}, {t: 1, c: 24, n: 1, s: 2}]",)
"""Zeros around a map that another op reads without them."""


def graph_of(spec: Spec) -> Graph:
    return run_pipeline(build_graph(spec, seeded_weights(spec, 3)))


def agree(graphs: Sequence[Graph]) -> None:
    """Both backends make the same kernel calls of each."""
    for graph, calls in zip(graphs, relay.kernel_calls_of(graphs), strict=True):
        assert calls == relax.kernel_calls(graph)


def test_all_specs_become_the_same_kernel_calls() -> None:
    tables = [load_spec(path) for path in sorted(SPECS.glob("*.yaml"))]
    assert len(tables) == 9
    agree([graph_of(spec) for spec in (*tables, load_spec("mnv2_1.0", ALONE))])


def test_random_networks_become_the_same_kernel_calls() -> None:
    graphs: list[Graph] = []

    @given(specs())
    @settings(
        max_examples=55,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def collect(spec: Spec) -> None:
        graphs.append(graph_of(spec))

    collect()
    assert len(graphs) >= 50
    agree(graphs)


def test_a_graph_comes_back_from_json() -> None:
    graph = graph_of(load_spec("mnv2_0.35", ALONE))
    back = from_json(to_json(graph))
    ops = tuple(replace(op, source=replace(op.source, file=Path(op.source.file).name)) for op in graph.ops)
    assert ops[0].source.file == "mnv2_0.35.yaml" != graph.ops[0].source.file
    assert (back.name, back.ops, back.outputs) == (graph.name, ops, graph.outputs)
    shapes = {name: value.shape for name, value in graph.constants.items()}
    assert {name: value.shape for name, value in back.constants.items()} == shapes


@pytest.mark.parametrize("target", ["native", "cuda:sm_90"])
def test_the_library_is_the_same(target: str, tmp_path: Path) -> None:
    for backend in ("relax", "relay"):
        succeed("build", *SMALL, "--target", target, "--backend", backend, "--out", tmp_path / backend)
    one, other = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "relax", tmp_path / "relay")
    )
    assert one.pop("ir/relax.py")
    assert other.pop("ir/relay.txt")
    assert one.keys() == other.keys()
    assert [path for path in one if one[path] != other[path]] == ["manifest.json"]
    lines = zip(one["manifest.json"].splitlines(), other["manifest.json"].splitlines(), strict=True)
    changed = [(mine, theirs) for mine, theirs in lines if mine != theirs]
    assert [mine.split(b":")[0].strip() for mine, _ in changed] == [b'"backend"', b'"ir/relax.py"', b'"sha256"']


def test_the_text_of_the_module_is_relays(golden: Callable[[str, str], None], tmp_path: Path) -> None:
    text = succeed("show", "mnv2_1.0", "--emit", "relay")
    golden("mnv2_1.0.relay", text)
    path = tmp_path / "relay.txt"
    path.write_text(text, encoding="utf-8")
    program = (
        "import re, sys, tvm; from tvm import relay\n"
        "text = open(sys.argv[1]).read()\n"
        "module = relay.transform.InferType()(relay.parse(text))\n"
        "again = re.sub(r' span=[^ ]+', '', module.astext(show_meta_data=False))\n"  # where in the text each op was
        "assert again.strip() == text.strip()\n"
    )
    python = environment.directory() / "bin" / "python"
    subprocess.run([python, "-c", program, path], check=True, env={**os.environ, "PYTHONPATH": ""})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a map that stands in zeros, and without them too."""
    directory = tmp_path_factory.mktemp("relay") / "library"
    settings = ("--set", "resolution=32", "--set", "batch=2", "--set", ALONE[0])
    succeed("build", "mnv2_0.35", *settings, "--target", "native", "--out", directory)
    return directory


def test_relays_own_executor_is_a_witness(library: Path) -> None:
    for options in ((), ("--layers",)):
        found = succeed_json("validate", library, "--backend", "relay", "--inputs", "2", *options)
        assert found["relay"]["passed"]
        assert found["relay"]["processor"].endswith("Relay of TVM 0.19.0")
        assert 0 < found["relay"]["max_abs_error"] < 1e-4
        layers = [[layer["name"] for layer in one.get("layers", ())] for one in (found, found["relay"])]
        assert layers[0] == layers[1]
        assert bool(layers[0]) == bool(options)
    assert found["relay"]["first_diverging_layer"] is None


def test_a_witness_that_disagrees_fails(library: Path, tmp_path: Path) -> None:
    """The same weights, but a graph that is another network's."""
    wrong = copy_of(library, tmp_path)
    graph = (wrong / "ir" / "graph.json").read_text(encoding="utf-8")
    for content, words in (
        (graph.replace('"epsilon": 0.001', '"epsilon": 0.5'), "FAILED"),
        (graph[:1000], "its graph is none of this version; build the library again"),
        (graph.replace('"fc.weight"', '"fc.weights"'), "its graph is none of this version; build the library again"),
    ):
        replace_file(wrong, "ir/graph.json", content.encode())
        done = mnv2c("validate", wrong, "--backend", "relay", "--inputs", "2")
        assert done.returncode == 1
        assert words in done.stdout + done.stderr


def test_the_witness_of_a_coarser_library_is_held_to_fp32(library: Path, tmp_path: Path) -> None:
    coarse = copy_of(library, tmp_path)
    path = coarse / "manifest.json"
    path.write_bytes(changed_manifest(path.read_bytes(), lambda m: m.update(precision="fp16")))
    images = [(str(index), seeded_image(index, (32, 32, 3))) for index in range(2)]
    found = validate(coarse, images, by_relay=True)
    assert (found.precision, found.tolerance) == ("fp32", 1e-4)
    assert found.passed


def test_bench_times_relay_beside_the_library(library: Path) -> None:
    result = succeed_json("bench", library, "--rounds", "2", "--against", "relay")
    assert list(result["engines"]) == ["mnv2c", "relay"]
    assert result["engines"]["relay"]["version"] == "0.19.0"
    assert 0 < result["engines"]["relay"]["min_ms"] <= result["engines"]["relay"]["median_ms"]


def test_bench_times_relays_metaschedule_beside_the_library(library: Path) -> None:
    """Tuned for less than its tasks take: one of them has its turn, the others are as untuned ones are."""
    said: list[str] = []
    result = bench(library, against=["relay", "relay-metaschedule"], minutes=0.01, rounds=2, report=said.append)
    (trials,) = [line for line in said if line.endswith(" trials")]
    assert re.fullmatch(r"relay-metaschedule: [1-9]\d* trials", trials)
    assert [engine.name for engine in result.engines] == ["mnv2c", "relay", "relay-metaschedule"]
    assert [engine.version for engine in result.engines[1:]] == ["0.19.0", "0.19.0"]
    for engine in result.engines[1:]:
        assert 0 < engine.max_abs_difference < 1e-4, "the same network by other arithmetic"


def test_minutes_belong_to_relays_metaschedule(library: Path) -> None:
    done = mnv2c("bench", library, "--against", "relay", "--minutes", "1")
    assert done.returncode == 2
    assert "it goes with --against relay-metaschedule" in done.stderr


def test_kernels_are_shown() -> None:
    by_relay = succeed("show", *SMALL, "--emit", "kernels", "--backend", "relay")
    assert by_relay == succeed("show", *SMALL, "--emit", "kernels")
    assert by_relay.splitlines()[-1] == "fc = dense_1280_1001(pool, fc.weight, fc.bias)"


def test_what_no_kernel_computes_is_refused_by_name() -> None:
    graph = graph_of(load_spec("mnv2_0.35"))

    def changed(name: str, **fields: object) -> Graph:
        return replace(graph, ops=tuple(replace(op, **fields) if op.name == name else op for op in graph.ops))

    assert isinstance(graph.op("block3.project"), Convolution)
    for wrong, words in (
        (build_graph(load_spec("mnv2_0.35"), seeded_weights(load_spec("mnv2_0.35"), 3)), "stem: .* Conv as it is"),
        (changed("block3.project", padding=Padding(1, 1, 1, 1)), "block3.project: no kernel computes"),
        (changed("block3.dw", padding=Padding(1, 1, 1, 1)), "block3.dw: no kernel computes"),
    ):
        with pytest.raises(GraphError, match=words):
            relay.kernel_calls(wrong)


def test_an_environment_that_is_missing_broken_or_half_made(tmp_path: Path) -> None:
    """Each is told in one line, and made anew; ^C and kill in the middle leave nothing that passes for whole."""
    place = tmp_path / "mnv2c" / environment.directory().name
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    here = {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(temporary)}

    def used() -> Finished:
        return mnv2c("show", *SMALL, "--emit", "relay", environment=here)

    def refused(words: str) -> None:
        done = used()
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert words in line
        assert line.endswith(environment.INSTALL)

    refused("the relay backend needs TVM")
    shutil.copytree(environment.directory(), place, symlinks=True, copy_function=os.link)
    assert used().returncode == 0
    (tvm,) = place.glob("lib/python*/site-packages/tvm")
    shutil.rmtree(tvm / "relay")
    refused("Relay's environment fails")
    assert interrupted(here, place, signal.SIGINT) == 130
    refused("the relay backend needs TVM")
    assert interrupted(here, place, signal.SIGKILL) == -signal.SIGKILL
    refused("the relay backend needs TVM")
    done = mnv2c("doctor", "--install", "relay", environment=here)
    while "is being made or used by another process" in done.stderr:  # pip, which outlived its parent
        time.sleep(1)
        done = mnv2c("doctor", "--install", "relay", environment=here)
    assert done.returncode == 0, done.stderr
    assert "made in" in done.stdout
    assert used().returncode == 0
    assert "works already" in mnv2c("doctor", "--install", "relay", environment=here).stdout
    assert list(temporary.iterdir()) == [], "pip's files are gone too"


def test_two_do_not_make_it_at_once(tmp_path: Path) -> None:
    lock = tmp_path / "mnv2c" / f"{environment.directory().name}.lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        done = mnv2c("doctor", "--install", "relay", environment={"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is being made or used by another process; wait for its end")
    assert [path.name for path in lock.parent.iterdir()] == [lock.name]


def interrupted(here: dict[str, str], place: Path, how: signal.Signals) -> int:
    """The status of an installation that is ended while pip runs."""
    command = [sys.executable, "-m", "mnv2c", "doctor", "--install", "relay"]
    with subprocess.Popen(command, env=os.environ | here, stderr=subprocess.DEVNULL) as process:
        while (place / "ready").exists() or not (place / "bin" / "pip").exists():
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(how)
        return process.wait()


def test_nothing_of_it_is_imported_here() -> None:
    code = "import sys, mnv2c.backends.relay, mnv2c.doctor, mnv2c.driver; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
