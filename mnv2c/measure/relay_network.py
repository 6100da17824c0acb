"""The network of a build in Relay's own executor: a witness that shares no kernel, schedule or driver with the library.

What comes in: a build directory. What goes out: a ``RunnableNetwork``, for ``mnv2c validate`` and ``mnv2c bench``. The
graph is the build's, its constants are those of the ONNX reference; the passes run again, and Relay's module of what
they make is compiled by ``relay.build``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.backends.relay.environment import TVM, Executor, damaged
from mnv2c.deploy.manifest import normalise, read_file, read_manifest, read_reference
from mnv2c.deploy.native import cpu_name
from mnv2c.deploy.network import LayerRun, Pixel, RunnableNetwork, fitting, read_build
from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Graph, Pad
from mnv2c.ir.graph_json import GRAPH, from_json, to_json
from mnv2c.ir.verifier import verify
from mnv2c.passes import run_pipeline


class RelayNetwork(RunnableNetwork):
    """``layers`` says whether what every layer computes will be asked for: then Relay fuses less. ``minutes`` are those
    of tuning by Relay's MetaSchedule, with 0 it is untuned."""

    def __init__(self, directory: Path, *, threads: int = 1, layers: bool = False, minutes: float = 0) -> None:
        """LibraryError where ``directory`` is not what this version builds; ToolError as ``Executor``."""
        super().__init__(read_build(directory))
        self._threads = threads
        self._graph = _graph(directory)
        outputs = list(self._graph.outputs.values())
        self._edges = [op.name for op in self._graph.ops[1:]] if layers else outputs
        self._places = [self._edges.index(edge) for edge in outputs]
        graph, constants = to_json(self._graph), self._graph.constants
        self._executor = Executor(graph, constants, self._edges, threads=threads, minutes=minutes)

    @property
    def processor(self) -> str:
        return f"{cpu_name()}, Relay of TVM {TVM}"

    @property
    def instruction_set(self) -> str:
        return "of this processor"

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def trials(self) -> int:
        """Of MetaSchedule's."""
        return self._executor.trials

    def close(self) -> None:
        self._executor.close()

    def _run(self, x: Any, pixel: Pixel, seen: list[LayerRun] | None = None) -> tuple[list[NDArray[np.float32]], int]:
        images = fitting(self._build, x, pixel)
        values, nanoseconds = self._executor.run(normalise(self.directory, images) if pixel is np.uint8 else images)
        if [value.shape for value in values] != [self._graph.op(edge).type.shape for edge in self._edges]:
            raise damaged("what it computes has other shapes than the network")
        if seen is not None:
            seen += [self._layer(edge, value) for edge, value in zip(self._edges, values, strict=True)]
        return [values[place] for place in self._places], nanoseconds

    def _layer(self, edge: str, value: NDArray[np.float32]) -> LayerRun:
        """Without the zeros around it that the next layer reads."""
        op = self._graph.op(edge)
        border = getattr(op, "border", None)
        if border and not isinstance(op, Pad):
            _, height, width, _ = value.shape
            value = value[:, border.top : height - border.bottom, border.left : width - border.right]
        return LayerRun(edge, value, 0, 0)


def _graph(directory: Path) -> Graph:
    """After the passes."""
    from onnx import numpy_helper

    model, content = read_reference(directory), read_file(directory, read_manifest(directory), f"ir/{GRAPH}")
    try:
        constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        graph = from_json(json.loads(content), constants)
        verify(graph)
        return run_pipeline(graph)
    except Exception as error:  # any of its fields may be anything
        raise LibraryError(f"{directory}: its graph is none of this version; build the library again") from error
