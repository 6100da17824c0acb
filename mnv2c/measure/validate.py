"""Compares a built library with its ONNX reference: ``mnv2c validate``.

What comes in: a build directory, and images as uint8. What goes out: a ``Validation``: how far the logits are apart and
whether the best classes are the same, over every image given both as floats and as raw bytes; layers where asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.deploy.manifest import normalise, read_reference
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.deploy.opening import open_network
from mnv2c.measure.images import Rgb
from mnv2c.measure.layers import LayerComparer, LayerComparison
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import LOGITS

TOLERANCE = 1e-4
TIE = 1e-4
"""Classes whose reference logits are nearer than this are a tie: either may stand first."""


@dataclass(frozen=True)
class Comparison:
    """One image: the largest error over floats and bytes, and whether the best classes agree."""

    name: str
    max_abs_error: float
    relative_error: float
    cosine: float
    top1: bool
    top5: bool


@dataclass(frozen=True)
class Validation:
    """All images; ``runner`` is as it was asked for, ``processor`` what the library ran on."""

    directory: str
    runner: str | None
    processor: str
    reference: str
    instruction_set: str
    threads: int
    tolerance: float
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerComparison, ...] = ()

    @property
    def max_abs_error(self) -> float:
        return _largest(comparison.max_abs_error for comparison in self.comparisons)

    @property
    def passed(self) -> bool:
        """Within the tolerance everywhere, and the same five classes."""
        return self.max_abs_error <= self.tolerance and all(comparison.top5 for comparison in self.comparisons)

    @property
    def first_diverging(self) -> LayerComparison | None:
        """The first layer to run that is off; ``None`` also where layers were not asked for."""
        return next((layer for layer in self.layers if layer.diverges(self.tolerance)), None)


def seeded_images(count: int, shape: tuple[int, ...], seed: int = 0) -> dict[str, Rgb]:
    """Images with something in them, the same everywhere: coarse coloured squares under fine noise."""
    height, width, channels = shape
    images = {}
    for index in range(count):
        draw = np.random.default_rng([seed, index])
        coarse = draw.integers(0, 256, (-(-height // 16), -(-width // 16), channels))
        squares = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        noise = draw.integers(-32, 33, shape)
        images[f"seeded input {index}"] = np.clip(squares + noise, 0, 255).astype(np.uint8)
    return images


def validate(
    directory: Path,
    images: Mapping[str, Rgb],
    *,
    runner: str | None = None,
    threads: int = 1,
    instruction_set: str | None = None,
    tolerance: float = TOLERANCE,
    layers: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Validation:
    """Runs every image through both. ``report`` is told of each image. LibraryError where the library does not run."""
    model = read_reference(directory)
    with open_network(directory, runner, threads=threads, instruction_set=instruction_set, report=report) as net:
        reference = Reference(model)
        comparisons = []
        for name, image in images.items():
            report(f"compare {name}")
            comparisons.append(_compare(directory, name, image, net=net, reference=reference))
        comparer = LayerComparer(model)
        if layers:
            report("compare layer by layer")
            for image in images.values():
                x = normalise(directory, image[np.newaxis])
                comparer.add(x, net.layers(x))
        return Validation(
            directory=str(directory),
            runner=runner,
            processor=net.processor,
            reference=reference.engine,
            instruction_set=net.instruction_set,
            threads=net.threads,
            tolerance=tolerance,
            comparisons=tuple(comparisons),
            layers=comparer.compared,
        )


def _compare(directory: Path, name: str, image: Rgb, *, net: RunnableNetwork, reference: Reference) -> Comparison:
    pixels = image[np.newaxis]
    x = normalise(directory, pixels)
    wanted = reference.run(x)[LOGITS][0].astype(np.float64)
    runs = [logits[0].astype(np.float64) for logits in (net.run(x), net.run_rgb(pixels))]
    error = _largest(float(np.abs(logits - wanted).max()) for logits in runs)
    largest = float(np.abs(wanted).max())
    return Comparison(
        name=name,
        max_abs_error=error,
        relative_error=error / largest if largest else error,
        cosine=min(_cosine(logits, wanted) for logits in runs),
        top1=all(same_best(logits, wanted, count=1) for logits in runs),
        top5=all(same_best(logits, wanted, count=5) for logits in runs),
    )


def same_best(logits: Any, wanted: Any, *, count: int) -> bool:
    """Whether the ``count`` best classes are the same in the same order, but for classes that are a ``TIE``.

    At every rank, what the reference thinks of the class that stands there is what it thinks of its own, give or take.
    """
    ours = np.argsort(-logits, kind="stable")[:count]
    theirs = np.argsort(-wanted, kind="stable")[:count]
    return bool(np.all(np.abs(wanted[ours] - wanted[theirs]) <= TIE))


def _cosine(one: Any, other: Any) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float(np.array_equal(one, other))


def _largest(values: Any) -> float:
    """The maximum, NaN where one of them is: ``max`` would lose it."""
    return float(np.max(np.fromiter(values, dtype=np.float64)))


def to_json(validation: Validation) -> dict[str, Any]:
    """What ``validate --json`` prints."""
    comparisons = validation.comparisons
    fields: dict[str, Any] = {
        "directory": validation.directory,
        "runner": validation.runner,
        "processor": validation.processor,
        "reference": validation.reference,
        "instruction_set": validation.instruction_set,
        "threads": validation.threads,
        "tolerance": validation.tolerance,
        "passed": validation.passed,
        "inputs": len(comparisons),
        "max_abs_error": validation.max_abs_error,
        "relative_error": _largest(comparison.relative_error for comparison in comparisons),
        "cosine": min(comparison.cosine for comparison in comparisons),
        "top1_agreement": sum(comparison.top1 for comparison in comparisons) / len(comparisons),
        "top5_agreement": sum(comparison.top5 for comparison in comparisons) / len(comparisons),
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    if validation.layers:
        first = validation.first_diverging
        fields["layers"] = [asdict(layer) for layer in validation.layers]
        fields["first_diverging_layer"] = first.name if first else None
    return fields


def format_text(validation: Validation) -> str:
    """What ``validate`` prints for people."""
    fields = to_json(validation)
    width = max(len(comparison.name) for comparison in validation.comparisons)
    lines = [f"{'input':{width}}  max abs error  relative    cosine      top-1  top-5"]
    for one in validation.comparisons:
        agree = ["same " if same else "OTHER" for same in (one.top1, one.top5)]
        numbers = f"{one.max_abs_error:13.2e}  {one.relative_error:8.1e}  {one.cosine:.8f}  {agree[0]}  {agree[1]}"
        lines.append(f"{one.name:{width}}  {numbers}")
    if validation.layers:
        lines += ["", *_layer_lines(validation)]
    verdict = "passed" if validation.passed else "FAILED"
    lines += [
        "",
        f"{verdict}: {fields['inputs']} inputs, as floats and as bytes, instruction set {validation.instruction_set}, "
        f"threads {validation.threads}, on {validation.processor}, against {validation.reference}",
        f"  max abs error {fields['max_abs_error']:.2e} (at most {validation.tolerance:g}), "
        f"top-1 agreement {fields['top1_agreement']:.1%}, top-5 agreement {fields['top5_agreement']:.1%}",
    ]
    return "\n".join(lines)


def _layer_lines(validation: Validation) -> list[str]:
    first = validation.first_diverging
    lines = [f"{'layer':16}  {'edge of the reference':22}  max abs error  largest value"]
    for layer in validation.layers:
        mark = "  <- diverges" if layer.diverges(validation.tolerance) else ""
        lines.append(f"{layer.name:16}  {layer.edge:22}  {layer.error:13.2e}  {layer.largest:13.3f}{mark}")
    lines.append(f"first layer that diverges: {first.name if first else 'none'}")
    return lines
