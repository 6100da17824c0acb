"""``build``: the compiler as a list of stages, from a spec to a library that has not been written yet."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnv2c import __version__
from mnv2c.codegen.library import Library
from mnv2c.codegen.program import Program
from mnv2c.deploy.manifest import Layer, Manifest, Preprocessing, SpecSource, TargetSource, WeightsSource
from mnv2c.ir.graph import Graph
from mnv2c.ir.printer import format_graph
from mnv2c.passes import run_pipeline
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec
from mnv2c.targets import Target
from mnv2c.toolchain import Toolchain, find_toolchain
from mnv2c.weights import WeightsOrigin, load_weights

if TYPE_CHECKING:
    from mnv2c.kernels import Workload


SCHEDULES = Path(__file__).parents[1] / "schedules"
"""The records that come with mnv2c."""


def build(
    spec: Spec,
    *,
    target: Target,
    weights_path: Path | None,
    seed: int,
    schedules: Path | None = SCHEDULES,
    report: Callable[[str], None],
) -> Library:
    """The library of ``spec`` for ``target``, tuned as the records in ``schedules`` say; by rule where that is None.

    ``report`` is told what is being done, a line per stage. WeightsError, TargetError, ToolError, RecordError: as the
    stages raise them.
    """
    from mnv2c.backends.relax.emit import emit
    from mnv2c.backends.relax.legalize import legalize
    from mnv2c.codegen.assemble import assemble
    from mnv2c.codegen.compile import compile_program
    from mnv2c.tuning.lookup import by_rule, from_records

    toolchain = find_toolchain(target)
    files: dict[str, bytes] = {}

    def keep(stage: str, graph: Graph) -> None:
        files[f"ir/{stage}.ir"] = format_graph(graph).encode()

    report("read the weights")
    weights, origin = load_weights(weights_path, spec, seed)
    frontend = build_graph(spec, weights)
    report("export the ONNX reference")
    files["model.onnx"] = export_onnx(frontend).SerializeToString(deterministic=True)
    report("run the graph passes")
    graph = run_pipeline(frontend, observe=keep)
    report("lower to Relax")
    module = emit(graph)
    files["ir/relax.py"] = module.script().encode()
    legalized = legalize(module)
    files["ir/relax-legalized.py"] = legalized.module.script().encode()
    choose = by_rule if schedules is None else from_records(schedules, target.instruction_sets, complain=report)
    program = compile_program(graph, legalized, target, identifier(spec.name), choose=choose, report=report)
    report(f"compile the driver and link, with {toolchain.name} {toolchain.version}")
    return assemble(program, _manifest(spec, origin, program, toolchain), extra=files)


def workloads(spec: Spec) -> list[tuple[str, Workload]]:
    """The layers of ``spec`` and what each computes, for tuning: weights do not matter."""
    from mnv2c.backends.relax.emit import emit
    from mnv2c.backends.relax.legalize import legalize
    from mnv2c.codegen.compile import layer_workloads

    weights, _ = load_weights(None, spec, 0)
    graph = run_pipeline(build_graph(spec, weights), observe=lambda stage, graph: None)
    return layer_workloads(graph, legalize(emit(graph)))


def identifier(name: str) -> str:
    """The C prefix of a library: its name with ``_`` for all that C does not take, never a digit first."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain[0].isalpha() else f"n{plain}"


def _manifest(spec: Spec, origin: WeightsOrigin, program: Program, toolchain: Toolchain) -> Manifest:
    """What the library is and how it came about, but for its files, which ``assemble`` lists."""
    from mnv2c.codegen.assemble import interface, kernels
    from mnv2c.kernels.cpu.lower import llvm_version

    target, text = program.target, repr(spec)
    return Manifest(
        name=spec.name,
        interface=interface(program),
        preprocessing=Preprocessing(spec.input.mean, spec.input.scale),
        spec=SpecSource(hashlib.sha256(text.encode()).hexdigest(), text),
        weights=WeightsSource(origin.description, origin.sha256, origin.seed),
        versions={
            "mnv2c": __version__,
            "apache-tvm": importlib.metadata.version("apache-tvm"),
            "apache-tvm-ffi": importlib.metadata.version("apache-tvm-ffi"),
            "llvm": str(llvm_version()),
            "c_compiler": f"{toolchain.name} {toolchain.version}",
        },
        target=TargetSource(target.name, target.triple, target.zig_triple),
        arena_bytes=program.arena_bytes,
        weights_bytes=len(program.weights),
        layers=tuple(Layer(call.layer, call.kernel, call.macs) for call in program.calls),
        kernels=kernels(program),
    )
