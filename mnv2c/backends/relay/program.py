"""What runs in the environment that has Relay: ``python -m mnv2c.backends.relay.program``.

With ``answer REQUEST REPLY``: the request, JSON, has ``graphs`` (``ir.graph_json``) and what is wanted of each:
``calls``, ``text``. The reply has for each an object with that, or with an ``error`` in one line where no kernels
compute the graph.

With ``serve DIRECTORY``: there are a request with a ``graph``, the ``edges`` wanted of it, ``threads`` and ``minutes``
of tuning, and its constants. Relay's own executor computes them, with its own schedules: the number of trials on
stdout says that it is ready; then for each line on stdin, the path of an image (.npy), it writes the edges to
DIRECTORY, and the nanoseconds that they took to stdout.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.backends.relay.emit import emit
from mnv2c.backends.relay.environment import ANSWER, CONSTANTS, REQUEST
from mnv2c.backends.relay.execute import executor
from mnv2c.backends.relay.partition import partition
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Graph
from mnv2c.ir.graph_json import from_json
from mnv2c.workload_json import to_json


def _calls(graph: Graph) -> list[dict[str, Any]]:
    edges = tuple(op.name for op in graph.ops[1:])
    module = emit(graph, returned=edges)
    found = partition(module, image=graph.input.name, constants=tuple(graph.constants), edges=edges)
    return [{**asdict(call), "workload": to_json(call.workload)} for call in found]


def _text(graph: Graph) -> str:
    return str(emit(graph).astext(show_meta_data=False))


_WANTED = {"calls": _calls, "text": _text}


def answer(request: Path, reply: Path) -> None:
    """Reads the one, writes the other."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    answers = [_answer(asked["want"], graph) for graph in asked["graphs"]]
    reply.write_text(json.dumps(answers), encoding="utf-8")


def _answer(want: str, graph: dict[str, Any]) -> dict[str, Any]:
    try:
        return {want: _WANTED[want](from_json(graph))}
    except GraphError as error:
        return {"error": str(error)}


def serve(directory: Path) -> None:
    """See the module."""
    asked = json.loads((directory / REQUEST).read_text(encoding="utf-8"))
    graph = from_json(asked["graph"], dict(np.load(directory / CONSTANTS)))
    relay = emit(graph, returned=asked["edges"])
    module, trials = executor(relay, graph, threads=asked["threads"], minutes=asked["minutes"])
    print(trials, flush=True)
    for line in sys.stdin:
        module.set_input("input", np.load(line.strip()))
        begin = time.perf_counter_ns()
        module.run()
        nanoseconds = time.perf_counter_ns() - begin
        values = {str(number): module.get_output(number).numpy() for number in range(module.get_num_outputs())}
        np.savez(directory / ANSWER, **values)
        print(nanoseconds, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        answer(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve(Path(sys.argv[2]))
