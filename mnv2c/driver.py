"""``build``: the compiler as a list of stages, from a spec to a library that has not been written yet."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mnv2c import __version__, backends
from mnv2c.backends import Backend
from mnv2c.backends.calls import KernelCall
from mnv2c.codegen.library import Library
from mnv2c.codegen.program import Program
from mnv2c.deploy.manifest import MODEL, Manifest, Preprocessing, SpecSource, TargetSource, WeightsSource
from mnv2c.ir.graph import Graph, Input
from mnv2c.ir.graph_json import GRAPH, to_json
from mnv2c.ir.printer import format_graph
from mnv2c.kernels.abi import Choose
from mnv2c.passes import run_pipeline
from mnv2c.precision import Precision
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.shipped import SCHEDULES
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec
from mnv2c.targets import NATIVE, Bands, Kind, Target, in_bands, in_precision
from mnv2c.toolchain import Toolchain, find_toolchain
from mnv2c.weights import load_weights
from mnv2c.workloads import Workload


@dataclass(frozen=True)
class Sources:
    """What a graph came from, for the manifest: the spec as text, and where its weights are from."""

    spec: str
    weights: WeightsSource


def build(
    spec: Spec,
    *,
    target: Target,
    precision: Precision = "fp32",
    backend: Backend = "relax",
    bands: Bands | None = None,
    weights_path: Path | None,
    seed: int,
    schedules: Path | None = SCHEDULES,
    report: Callable[[str], None],
) -> Library:
    """The library of ``spec`` for ``target``, tuned as the records in ``schedules`` say; by rule where that is None.

    ``bands`` says which blocks run in bands; None leaves it to the target.
    ``report`` is told what is being done, a line per stage. WeightsError, GraphError, TargetError, ToolError,
    RecordError: as the stages raise them.
    """
    report("read the weights")
    weights, origin = load_weights(weights_path, spec, seed)
    sources = Sources(spec=repr(spec), weights=WeightsSource(origin.description, origin.sha256, origin.seed))
    return build_network(
        build_graph(spec, weights),
        sources,
        target=target,
        precision=precision,
        backend=backend,
        bands=bands,
        schedules=schedules,
        report=report,
    )


def build_network(
    frontend: Graph,
    sources: Sources,
    *,
    target: Target,
    precision: Precision = "fp32",
    backend: Backend = "relax",
    bands: Bands | None = None,
    schedules: Path | None = SCHEDULES,
    report: Callable[[str], None] = lambda line: None,
) -> Library:
    """The library of a graph as the frontend makes it, with any number of outputs; see ``build``."""
    from mnv2c.codegen.assemble import assemble
    from mnv2c.codegen.bands import blocks_in_bands
    from mnv2c.codegen.compile import compile_program

    target = in_bands(in_precision(target, precision), bands)
    toolchain = find_toolchain(target)
    files: dict[str, bytes] = {}

    def keep(stage: str, graph: Graph) -> None:
        files[f"ir/{stage}.ir"] = format_graph(graph).encode()

    files[f"ir/{GRAPH}"] = (json.dumps(to_json(frontend), indent=1) + "\n").encode()
    report("export the ONNX reference")
    files[MODEL] = export_onnx(frontend).SerializeToString(deterministic=True)
    report("run the graph passes")
    graph = run_pipeline(frontend, observe=keep)
    report(f"lower to {backend.capitalize()}")
    files[f"ir/{backends.backend(backend).FILE}"] = backends.backend(backend).text(graph).encode()
    calls = kernel_calls(graph, target.kind, precision, backend)
    blocks = blocks_in_bands(graph, target.bands, target.l2_bytes)
    choose = _choose(target, schedules, report)
    program = compile_program(calls, graph, target, identifier(graph.name), blocks=blocks, choose=choose, report=report)
    report(f"compile the driver and link, with {toolchain.name} {toolchain.version}")
    return assemble(program, _manifest(program, graph.input, precision, backend, sources, toolchain), extra=files)


def _choose(target: Target, schedules: Path | None, report: Callable[[str], None]) -> Choose:
    """What finds each kernel's schedule."""
    from mnv2c.tuning.lookup import by_rule, from_records
    from mnv2c.tuning.processor import processor_name

    if schedules is None:
        return by_rule
    processor = processor_name() if target.name == NATIVE else None
    return from_records(schedules, target.instruction_sets, complain=report, processor=processor)


def workloads(
    spec: Spec, target: Target, precision: Precision = "fp32", backend: Backend = "relax"
) -> list[tuple[str, Workload]]:
    """The layers of ``spec`` and what each computes in a library for ``target``, for tuning; the stem a second time,
    last, as it reads raw bytes.

    Weights do not matter.
    """
    from mnv2c.codegen.bands import blocks_in_bands, calls_in_bands
    from mnv2c.codegen.compile import reads_bytes

    weights, _ = load_weights(None, spec, 0)
    graph = run_pipeline(build_graph(spec, weights))
    blocks = blocks_in_bands(graph, target.bands, target.l2_bytes)
    calls = calls_in_bands(kernel_calls(graph, target.kind, precision, backend), blocks)
    of_bytes = [(f"{call.layer} (bytes)", reads_bytes(call, graph.input)) for call in calls]
    return [(call.layer, call.workload) for call in calls] + [(name, found) for name, found in of_bytes if found]


def kernel_calls(
    graph: Graph, kind: Kind, precision: Precision = "fp32", backend: Backend = "relax"
) -> tuple[KernelCall, ...]:
    """Those of a graph after all passes on a kind of device: a GPU's kernels hold what is between two layers."""
    from mnv2c.backends.fusion import fuse_into_readers
    from mnv2c.backends.precision import marked

    calls, outputs = backends.backend(backend).kernel_calls(graph), set(graph.outputs.values())
    return marked(fuse_into_readers(calls, outputs), precision, outputs) if kind == "cuda" else calls


def identifier(name: str) -> str:
    """The C prefix of a library: its name with ``_`` for all that C does not take, never a digit first."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain[0].isalpha() else f"n{plain}"


def _manifest(
    program: Program, image: Input, precision: Precision, backend: Backend, sources: Sources, toolchain: Toolchain
) -> Manifest:
    """What the library is and how it came about, but for its files, which ``assemble`` lists."""
    from mnv2c.codegen.assemble import interface, kernels, layers
    from mnv2c.kernels import device

    target = program.target
    return Manifest(
        name=program.name,
        precision=precision,
        backend=backend,
        interface=interface(program),
        preprocessing=Preprocessing(image.mean, image.scale),
        spec=SpecSource(hashlib.sha256(sources.spec.encode()).hexdigest(), sources.spec),
        weights=sources.weights,
        versions={
            "mnv2c": __version__,
            "apache-tvm": importlib.metadata.version("apache-tvm"),
            "apache-tvm-ffi": importlib.metadata.version("apache-tvm-ffi"),
            "c_compiler": f"{toolchain.name} {toolchain.version}",
            **device(target.kind).versions,
        },
        target=TargetSource(target.name, target.triple, target.zig_triple),
        arena_bytes=program.arena_bytes,
        weights_bytes=len(program.weights),
        layers=layers(program),
        kernels=kernels(program),
    )
