"""``mnv2c run``: classifies images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.deploy.opening import open_network
from mnv2c.measure.images import find_images, read_labels, read_rgb


def command(options: argparse.Namespace) -> int:
    """Every image is read before the first is classified: a mistake shows at once."""
    with open_network(
        options.build,
        options.runner,
        threads=options.threads,
        instruction_set=options.instruction_set,
        report=progress(),
    ) as net:
        classes = net.output_shapes["logits"][-1]
        if options.top > classes:
            raise UsageError(f"--top {options.top}: the network has {classes} classes")
        labels = read_labels(options.labels, classes=classes) if options.labels else None
        _, height, width, _ = net.input_shape
        paths = find_images(options.images)
        pixels = [read_rgb(path, height=height, width=width) for path in paths]
        results = [
            _result(path, net.run_rgb(image)[0], top=options.top, labels=labels)
            for path, image in zip(paths, pixels, strict=True)
        ]
    if options.json:
        say_json({"images": results})
    else:
        say("\n".join(_format(result) for result in results))
    return 0


def _result(path: Path, logits: Any, *, top: int, labels: list[str] | None) -> dict[str, Any]:
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponents / exponents.sum()
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
