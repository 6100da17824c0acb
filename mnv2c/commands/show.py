"""``mnv2c show``: the layers of a table in numbers, or another form of its graph."""

from __future__ import annotations

import argparse

from mnv2c.backends import BACKENDS, Backend, backend
from mnv2c.codegen.memory import Step, plan_memory
from mnv2c.commands import UsageError, say, say_json, write_file
from mnv2c.ir.graph import Graph
from mnv2c.ir.printer import format_graph
from mnv2c.measure.report import format_table, summarize, to_json
from mnv2c.passes import PIPELINE, run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Spec, load_spec
from mnv2c.spelling import did_you_mean
from mnv2c.weights import load_weights

_PASSES = ("frontend", *(rewrite.__name__ for rewrite in PIPELINE))


def command(options: argparse.Namespace) -> int:
    """Prints one form, or writes it to ``--out``."""
    _check(options)
    spec = load_spec(options.spec, options.set)
    graph = _graph(spec, options)
    if options.json:
        say_json(to_json(summarize(graph, arena_bytes=_arena_bytes(graph))))
        return 0
    content = _content(graph, options)
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


def _arena_bytes(graph: Graph) -> int:
    optimised = run_pipeline(graph)
    callers = {optimised.input.name, *optimised.outputs.values()}
    return plan_memory([Step.of_op(op) for op in optimised.ops[1:]], callers).arena_bytes


def _content(graph: Graph, options: argparse.Namespace) -> bytes:
    if options.emit == "onnx":
        return _onnx(graph, text=options.out is None)
    if options.emit in BACKENDS:
        return str(backend(options.emit).text(run_pipeline(graph))).encode()
    if options.emit == "kernels":
        return _kernels(graph, options.backend).encode()
    if options.emit == "ir" or options.after:
        passes = PIPELINE[: _PASSES.index(options.after)] if options.after else ()
        return format_graph(run_pipeline(graph, passes)).encode()
    return format_table(summarize(graph, arena_bytes=_arena_bytes(graph))).encode()


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


def _kernels(graph: Graph, name: Backend) -> str:
    """What the backend makes of the graph, a line for each kernel call."""
    calls = backend(name).kernel_calls(run_pipeline(graph))
    return "".join(
        f"{call.layer} = {call.workload.name}({', '.join(call.inputs + call.constants)})\n" for call in calls
    )
