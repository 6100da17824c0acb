"""The engines that ``mnv2c bench`` times: the library itself and others, each with threads set exactly.

What comes in: a build directory and normalised NHWC images. What goes out: ``Engine`` values whose ``run`` computes
every output and says how long that took. The others run the library's own ONNX reference, and are given the images in
the order of axes that they prefer, so that the comparison is not won there: onnxruntime and openvino NCHW, without the
model's first transposition, LiteRT NHWC. A library for GPUs has others beside it: ``gpu_engines``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv2c import __version__
from mnv2c.backends.relay.environment import TVM
from mnv2c.deploy.manifest import read_manifest, read_reference
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.errors import LibraryError, ToolError
from mnv2c.ir.graph import Array
from mnv2c.measure.gpu_engines import onnxruntime_on_gpu, torch_on_gpu
from mnv2c.measure.relay_network import RelayNetwork
from mnv2c.measure.tflite_model import write_tflite
from mnv2c.precision import Precision
from mnv2c.reference.evaluator import onnxruntime_session
from mnv2c.reference.onnx_export import INPUT
from mnv2c.targets import kind_of_target

if TYPE_CHECKING:
    import onnx

RELAY, RELAY_TUNED = "relay", "relay-metaschedule"
MINUTES = 10  # of tuning
OTHERS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}
ON_GPUS = {"onnxruntime": "onnxruntime-gpu", "torch": "torch"}
"""What a library can be compared with, and the package that brings it; beside these TVM itself in its own environment,
as Relay schedules untuned, and as Relay's MetaSchedule does."""


Outputs = dict[str, Array]


@dataclass(frozen=True)
class Engine:
    """``run`` computes the outputs, by name, of the images that the engine was made for; with them, its nanoseconds.
    ``trials`` are those of its tuning. To be closed: it may have a process of its own."""

    name: str
    version: str
    run: Callable[[], tuple[Outputs, int]]
    close: Callable[[], None] = lambda: None
    trials: int = 0


def library_engine(net: RunnableNetwork, x: Array) -> Engine:
    """The library that is measured."""
    return Engine("mnv2c", __version__, lambda: net.time(x))


def others(directory: Path) -> tuple[str, ...]:
    """What the library in ``directory`` can be compared with."""
    return tuple(ON_GPUS) if _is_for_gpus(directory) else (*OTHERS, RELAY, RELAY_TUNED)


def other_engine(name: str, directory: Path, x: Array, *, threads: int, minutes: float = MINUTES) -> Engine:
    """One of ``others``; ``minutes`` are those that ``relay-metaschedule`` takes to tune.

    ToolError where it is not installed; LibraryError where the reference is damaged.
    """
    if name in (RELAY, RELAY_TUNED):
        network = RelayNetwork(directory, threads=threads, minutes=minutes if name == RELAY_TUNED else 0)
        return Engine(name, TVM, lambda: network.time(x), network.close, network.trials)
    manifest, model = read_manifest(directory), read_reference(directory)
    try:
        if _is_for_gpus(directory):
            return _on_gpu(name, model, x, manifest.precision)
        return {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}[name](model, x, threads)
    except ImportError as error:
        if _is_for_gpus(directory):
            raise ToolError(f"{name} is not installed: pip install {ON_GPUS[name]}") from error
        raise ToolError(
            f"{name} is not installed: pip install {OTHERS[name]}, or all that can be compared: "
            "pip install 'mnv2c[bench]'"
        ) from error


def _is_for_gpus(directory: Path) -> bool:
    return kind_of_target(read_manifest(directory).target.name) == "cuda"


def _on_gpu(name: str, model: onnx.ModelProto, x: Array, precision: Precision) -> Engine:
    content, pixels = _without_transposition(model, x)
    make = {"onnxruntime": onnxruntime_on_gpu, "torch": torch_on_gpu}[name]
    version, run = make(content, pixels, precision)
    return Engine(name, version, _timed(model, run))


def _onnxruntime(model: onnx.ModelProto, x: Array, threads: int) -> Engine:
    import onnxruntime

    content, pixels = _without_transposition(model, x)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads spin as ever while it runs; they must not go on spinning into the turn of the next engine.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime_session(content.SerializeToString(), options)
    feeds = {session.get_inputs()[0].name: pixels}
    return Engine("onnxruntime", onnxruntime.__version__, _timed(model, lambda: session.run(None, feeds)))


def _openvino(model: onnx.ModelProto, x: Array, threads: int) -> Engine:
    import openvino

    content, pixels = _without_transposition(model, x)
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(content.SerializeToString()), "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(pixels))

    outputs = range(len(model.graph.output))

    def run() -> list[Array]:
        request.infer()
        return [np.array(request.get_output_tensor(index).data) for index in outputs]

    return Engine("openvino", openvino.__version__.split("-")[0], _timed(model, run))


def _litert(model: onnx.ModelProto, x: Array, threads: int) -> Engine:
    """LiteRT with what it does by default: every operator in XNNPACK."""
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=write_tflite(model), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    outputs = [details["index"] for details in interpreter.get_output_details()]

    def run() -> list[Array]:
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return Engine("litert", ai_edge_litert.__version__, _timed(model, run))


def _timed(model: onnx.ModelProto, run: Callable[[], list[Array]]) -> Callable[[], tuple[Outputs, int]]:
    """``run`` gives the outputs of ``model`` in their order."""
    names = [output.name for output in model.graph.output]

    def timed_run() -> tuple[Outputs, int]:
        begin = time.perf_counter_ns()
        outputs = run()
        nanoseconds = time.perf_counter_ns() - begin
        return dict(zip(names, outputs, strict=True)), nanoseconds

    return timed_run


def _without_transposition(model: onnx.ModelProto, x: Array) -> tuple[onnx.ModelProto, Array]:
    """The model from its NCHW edge on, and ``x`` for it."""
    transposition, image = model.graph.node[0], model.graph.input[0]
    if transposition.op_type != "Transpose" or list(transposition.input) != [INPUT] or image.name != INPUT:
        raise LibraryError("model.onnx is not what this mnv2c writes; build the library again")
    pixels = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    image.name = transposition.output[0]
    for dimension, extent in zip(image.type.tensor_type.shape.dim, pixels.shape, strict=True):
        dimension.dim_value = extent
    del model.graph.node[0]
    return model, pixels
