"""``mnv2c show``: the layers of a table in numbers, or another form of its graph."""

from __future__ import annotations

import argparse

from mnv2c.backends import BACKENDS, Backend, backend
from mnv2c.codegen.bands import Block, blocks_in_bands, calls_in_bands, steps_in_bands
from mnv2c.codegen.memory import Step, plan_memory
from mnv2c.commands import UsageError, say, say_json, write_file
from mnv2c.driver import kernel_calls
from mnv2c.ir.graph import Graph
from mnv2c.ir.printer import format_graph
from mnv2c.measure.report import Summary, format_table, summarize, to_json
from mnv2c.passes import PIPELINE, run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.spelling import did_you_mean
from mnv2c.targets import Target, in_bands, target_named
from mnv2c.weights import load_weights

_PASSES = ("frontend", *(rewrite.__name__ for rewrite in PIPELINE))


def command(options: argparse.Namespace) -> int:
    """Prints one form, or writes it to ``--out``."""
    _check(options)
    target = in_bands(target_named(options.target), options.bands)
    spec = load_spec(options.spec, options.set)
    graph = _graph(spec, options)
    if options.json:
        say_json(to_json(_summary(graph, target)))
        return 0
    content = _content(graph, target, options)
    if options.out is not None:
        write_file(options.out, content)
    else:
        say(content.decode().rstrip("\n"))
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.json and (options.emit or options.after or options.out):
        raise UsageError("--json prints the table: not together with --emit, --after or --out")
    if options.after and options.emit not in (None, "ir"):
        raise UsageError(f"--after goes with --emit ir, not with --emit {options.emit}")
    if options.after and options.after not in _PASSES:
        close = did_you_mean(options.after, _PASSES)
        hint = f"did you mean {close}?" if close else f"they are, in order, {', '.join(_PASSES)}"
        raise UsageError(f"unknown pass {options.after!r}: {hint}")


def _graph(spec: Spec, options: argparse.Namespace) -> Graph:
    weights, _ = load_weights(options.weights, spec, options.seed)
    return build_graph(spec, weights)


def _summary(graph: Graph, target: Target) -> Summary:
    """With the arena on a CPU; a GPU's kernels hold some of the edges."""
    if target.kind == "cuda":
        return summarize(graph)
    optimised = run_pipeline(graph)
    callers = {optimised.input.name, *optimised.outputs.values()}
    blocks = _blocks(optimised, target)
    steps = steps_in_bands({op.name: Step.of_op(op) for op in optimised.ops[1:]}, blocks)
    bands = {layer: block.rows for block in blocks for layer in block.layers}
    return summarize(graph, arena_bytes=plan_memory(steps, callers).arena_bytes, bands=bands)


def _blocks(optimised: Graph, target: Target) -> tuple[Block, ...]:
    return blocks_in_bands(optimised, target.bands, target.l2_bytes)


def _content(graph: Graph, target: Target, options: argparse.Namespace) -> bytes:
    if options.emit == "onnx":
        return _onnx(graph, text=options.out is None)
    if options.emit in BACKENDS:
        return str(backend(options.emit).text(run_pipeline(graph))).encode()
    if options.emit == "kernels":
        return _kernels(run_pipeline(graph), target, options.backend).encode()
    if options.emit == "ir" or options.after:
        passes = PIPELINE[: _PASSES.index(options.after)] if options.after else ()
        return format_graph(run_pipeline(graph, passes)).encode()
    return format_table(_summary(graph, target)).encode()


def _onnx(graph: Graph, *, text: bool) -> bytes:
    """The reference: as text, weights left out, or as the file that ONNX tools read."""
    import onnx

    from mnv2c.reference.onnx_export import export_onnx

    model = export_onnx(graph)
    if not text:
        content: bytes = model.SerializeToString(deterministic=True)
        return content
    for weight in model.graph.initializer:  # named, but without their millions of values
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    del model.graph.initializer[:]
    return str(onnx.printer.to_text(model)).encode()


def _kernels(graph: Graph, target: Target, name: Backend) -> str:
    """What the backend makes of the optimised graph, a line for each kernel call."""
    blocks = _blocks(graph, target)
    rows = {layer: f"  in bands of {block.rows}" for block in blocks for layer in block.layers}
    return "".join(
        f"{call.layer} = {call.workload.name}({', '.join(call.inputs + call.constants)}){rows.get(call.layer, '')}\n"
        for call in calls_in_bands(kernel_calls(graph, target.kind, backend=name), blocks)
    )
