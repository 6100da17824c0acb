"""Compares a built library with its ONNX reference: ``mnv2c validate``.

What comes in: a build directory, and images as uint8, one after the other. What goes out: a ``Validation``: how far
every output is off and whether the best classes are the same, each image given both as floats and as raw bytes; layers
where asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.deploy.manifest import normalise, read_manifest, read_reference
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.deploy.opening import open_network
from mnv2c.ir.graph import CLASSIFIED, Array
from mnv2c.measure.images import Rgb, batches
from mnv2c.measure.layers import LayerComparer, largest
from mnv2c.measure.noise import Noise
from mnv2c.measure.relay_network import RelayNetwork
from mnv2c.measure.validation import Comparison, Validation
from mnv2c.precision import Precision
from mnv2c.reference.evaluator import Reference

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "tf32": 0.1, "fp16": 0.2}
"""The largest error of a right library, in units of the output, in networks that their weights' last bits determine so
far. Over 18 photographs the trained 1.0 at 224 is off by 0.033 in tf32 and by 0.11 in fp16 (in an emulator of CUDA's
threads, against onnxruntime); in fp32 by 1.2e-5 over four."""


def validate(
    directory: Path,
    images: Iterable[tuple[str, Rgb]],
    *,
    runner: str | None = None,
    by_relay: bool = False,
    threads: int = 1,
    instruction_set: str | None = None,
    tolerance: float | None = None,
    layers: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Validation:
    """Runs every image through both, holding no more of them than one batch.

    With ``by_relay`` not the library is compared, but what TVM itself makes of its network (``relay_network``).
    ``images`` are names and uint8 RGB (height, width, 3) of the network's size. ``tolerance`` is the largest error
    allowed; without one it is that of the library's precision, or what ``measure.noise`` finds that its last bits
    leave open where that is more. ``report`` is told of what takes long. LibraryError where the library does not run.
    """
    model = read_reference(directory)
    precision: Precision = "fp32" if by_relay else read_manifest(directory).precision
    opened: RunnableNetwork
    if by_relay:
        report("compile the network by Relay's own way")
        opened = RelayNetwork(directory, threads=threads, layers=layers)
    else:
        opened = open_network(directory, runner, threads=threads, instruction_set=instruction_set, report=report)
    with opened as net:
        exact = tolerance is not None
        tolerance = TOLERANCES[precision] if tolerance is None else tolerance
        reference, noise = Reference(model), Noise(model, precision)
        comparer = LayerComparer(model, precision, tolerance=None if exact else tolerance) if layers else None
        comparisons: list[Comparison] = []
        for names, pixels in batches(images, net.input_shape[0]):
            x = normalise(directory, pixels)
            wanted = reference.run(x)
            new = compare(names, (net.outputs(x), net.outputs(pixels)), wanted)
            if not exact and any(_exceeds(one, tolerance) for one in new):
                noise.add(x, wanted)
            comparisons += new
            if comparer is not None:
                comparer.add(x, net.layers(x))
        return Validation(
            directory=str(directory),
            runner=runner,
            processor=net.processor,
            reference=reference.engine,
            precision=precision,
            instruction_set=net.instruction_set,
            threads=net.threads,
            tolerance=tolerance,
            comparisons=tuple(comparisons),
            noise=noise.largest,
            layers=comparer.compared if comparer is not None else (),
        )


def compare(
    names: list[str], runs: tuple[dict[str, Array], dict[str, Array]], wanted: dict[str, Array]
) -> list[Comparison]:
    """Every output of one batch for each of its images; what the filling gave is left out."""
    return [
        _compare_output(name, output, [run[output][index] for run in runs], wanted[output][index])
        for index, name in enumerate(names)
        for output in runs[0]
    ]


def _compare_output(image: str, output: str, found: list[Array], reference: Array) -> Comparison:
    wanted = reference.astype(np.float64)
    error = largest([largest(one - wanted) for one in found])
    size = largest(wanted)
    classifies = output in CLASSIFIED and wanted.ndim == 1
    return Comparison(
        image=image,
        output=output,
        max_abs_error=error,
        relative_error=error / size if size else error,
        cosine=min(_cosine(one.astype(np.float64), wanted) for one in found),
        top1_gap=largest([gap(one, wanted, count=1) for one in found]) if classifies else None,
        top5_gap=largest([gap(one, wanted, count=5) for one in found]) if classifies else None,
    )


def _exceeds(comparison: Comparison, tolerance: float) -> bool:
    return not all(error <= tolerance for error in (comparison.max_abs_error, comparison.top5_gap or 0.0))


def gap(logits: NDArray[Any], wanted: NDArray[Any], *, count: int) -> float:
    """How far apart ``wanted`` has the classes that the two put at the same rank of their ``count`` best, at most.

    0 where these are the same classes in the same order; little where the order of nearly equal ones is another.
    """
    ours = np.argsort(-logits, kind="stable")[:count]
    theirs = np.argsort(-wanted, kind="stable")[:count]
    return largest(wanted[ours] - wanted[theirs])


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    one, other = one.ravel(), other.ravel()
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float(np.array_equal(one, other))
