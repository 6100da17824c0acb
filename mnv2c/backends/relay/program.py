"""What runs in the environment that has Relay: ``python -m mnv2c.backends.relay.program REQUEST REPLY``.

The request, JSON, has ``graphs`` (``ir.graph_json``) and what is wanted of each: ``calls``, ``text``. The reply has for
each an object with that, or with an ``error`` in one line where no kernels compute the graph.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnv2c.backends.relay.emit import emit
from mnv2c.backends.relay.partition import partition
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Graph
from mnv2c.ir.graph_json import from_json
from mnv2c.workloads import to_json


def _calls(graph: Graph) -> list[dict[str, Any]]:
    edges = tuple(op.name for op in graph.ops[1:])
    module = emit(graph, returned=edges)
    found = partition(module, image=graph.input.name, constants=tuple(graph.constants), edges=edges)
    return [{**asdict(call), "workload": to_json(call.workload)} for call in found]


def _text(graph: Graph) -> str:
    return str(emit(graph).astext(show_meta_data=False))


_WANTED = {"calls": _calls, "text": _text}


def main(request: Path, reply: Path) -> None:
    """Reads the one, writes the other."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    answers = [_answer(asked["want"], graph) for graph in asked["graphs"]]
    reply.write_text(json.dumps(answers), encoding="utf-8")


def _answer(want: str, graph: dict[str, Any]) -> dict[str, Any]:
    try:
        return {want: _WANTED[want](from_json(graph))}
    except GraphError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
