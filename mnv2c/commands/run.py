"""``mnv2c run``: classifies images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.deploy.opening import open_network
from mnv2c.errors import LibraryError
from mnv2c.ir.graph import CLASSIFIED, LOGITS, Array
from mnv2c.measure.images import batches, find_images, read_labels, read_rgb


def command(options: argparse.Namespace) -> int:
    """Nothing is printed before every image is classified."""
    report = progress()
    with open_network(
        options.build,
        options.runner,
        threads=options.threads,
        instruction_set=options.instruction_set,
        report=report,
    ) as net:
        output, classes = _classified(net)
        if options.top > classes:
            raise UsageError(f"--top {options.top}: the network has {classes} classes")
        labels = read_labels(options.labels, classes=classes) if options.labels else None
        batch, height, width, _ = net.input_shape
        paths = find_images(options.images)
        images = ((path, read_rgb(path, height=height, width=width, fit=options.fit)) for path in paths)
        results: list[dict[str, Any]] = []
        with report.counting("classify", images, total=len(paths)) as counted:
            for names, pixels in batches(counted, batch):
                rows = net.outputs(pixels)[output]
                probabilities = _softmax(rows) if output == LOGITS else rows
                pairs = zip(names, probabilities, strict=False)
                results += [_result(name, row, options.top, labels) for name, row in pairs]
    if options.json:
        say_json({"images": results})
    else:
        say("\n".join(_format(result) for result in results))
    return 0


def _classified(net: RunnableNetwork) -> tuple[str, int]:
    """The output that has a number for each class, and how many these are."""
    for name in CLASSIFIED:
        shape = net.output_shapes.get(name, ())
        if len(shape) == 2:
            return name, shape[1]
    outputs = ", ".join(net.output_shapes)
    raise LibraryError(f"{net.directory}: no classifier: its outputs are {outputs}; `run` needs logits")


def _softmax(logits: Array) -> NDArray[np.float64]:
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


def _result(path: Path, probabilities: NDArray[Any], top: int, labels: Sequence[str] | None) -> dict[str, Any]:
    best = np.argsort(-probabilities, kind="stable")[:top]
    return {
        "path": str(path),
        "top": [
            {
                "class": int(number),
                "label": labels[number] if labels else None,
                "probability": float(probabilities[number]),
            }
            for number in best
        ],
    }


def _format(result: dict[str, Any]) -> str:
    lines = [result["path"]]
    for one in result["top"]:
        lines.append(f"  {one['probability']:7.2%}  {one['class']:5}  {one['label'] or ''}".rstrip())
    return "\n".join(lines)
