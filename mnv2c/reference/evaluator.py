"""Runs the ONNX reference: by onnxruntime where it is installed, else by the evaluator that comes with onnx.

What comes in: the model of ``onnx_export`` and NHWC images. What goes out: the model's outputs by name, and where asked
every other edge. LibraryError where a model is not what ``onnx_export`` makes, so that no engine computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Array
from mnv2c.reference.onnx_export import INPUT

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, Array]


class Reference:
    """``engine`` says what runs the model and which version of it, e.g. ``onnxruntime 1.20.0``.

    With ``observe`` each ``run`` gives every edge too, for validation layer by layer.
    """

    def __init__(self, model: onnx.ModelProto, *, observe: bool = False) -> None:
        self._declared = {output.name for output in model.graph.output}
        model = _with_every_edge(model) if observe else model
        self._names = [output.name for output in model.graph.output]
        try:
            self.engine, self._run = _engine(model)
        except Exception as error:  # each engine has its own
            raise _not_computed(error) from error

    def run(self, x: Array) -> dict[str, Array]:
        """``x`` is the normalised image, N x H x W x 3. What comes back is float32, NHWC or NC, as in the graph.

        The model gives its outputs in that layout; the edges that ``observe`` adds to them are NCHW inside it.
        """
        try:
            outputs = self._run({INPUT: np.ascontiguousarray(x, dtype=np.float32)})
        except Exception as error:
            raise _not_computed(error) from error
        named = zip(self._names, outputs, strict=True)
        return {name: output if name in self._declared else _nhwc(output) for name, output in named}


def _not_computed(error: Exception) -> LibraryError:
    reason = " ".join(str(error).split())
    return LibraryError(f"the reference cannot be computed, so that it is no model of ours ({reason})")


def _with_every_edge(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every edge is an output."""
    import onnx

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    declared = {output.name for output in model.graph.output}
    edges = (edge for node in model.graph.node for edge in node.output if edge not in declared)
    observed.graph.output.extend(
        onnx.helper.make_tensor_value_info(edge, onnx.TensorProto.FLOAT, None) for edge in edges
    )
    return observed


def _engine(model: onnx.ModelProto) -> tuple[str, Callable[[Feeds], list[Array]]]:
    """The engine's name and version, and what runs it: inputs by name to outputs in the model's order."""
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(model)
        return f"onnx.reference {onnx.__version__}", lambda feeds: evaluator.run(None, feeds)
    session = onnxruntime_session(model.SerializeToString())
    return f"onnxruntime {onnxruntime.__version__}", lambda feeds: session.run(None, feeds)


def onnxruntime_session(
    model: bytes | str, options: Any = None, providers: Sequence[Any] = ("CPUExecutionProvider",)
) -> Any:
    """An ``InferenceSession`` of a model, or of the file with that name, that prints nothing but errors.

    Nor does it print that it cannot be made, and try once more with other providers.
    """
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=list(providers), enable_fallback=0)


def _nhwc(output: Array) -> Array:
    return np.ascontiguousarray(output.transpose(0, 2, 3, 1)) if output.ndim == 4 else output
