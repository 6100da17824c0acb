"""``mnv2c validate``: a library against its ONNX reference, over photographs and seeded inputs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.deploy.manifest import input_shape, normalise, read_manifest, read_reference
from mnv2c.deploy.native import load
from mnv2c.ir.graph import Array
from mnv2c.measure.images import Rgb, find_images, read_rgb, seeded_image
from mnv2c.measure.noise import Noise
from mnv2c.measure.noise import allowed as largest_allowed
from mnv2c.measure.original import Agreement, compare, open_original
from mnv2c.measure.validate import TOLERANCES, validate
from mnv2c.measure.validation import Validation, format_text, to_json
from mnv2c.reference.evaluator import Reference
from mnv2c.weights.importing import found_in
from mnv2c.weights.reading import read_network

_SEEDED = 8


def command(options: argparse.Namespace) -> int:
    """Exit status 1 where the library is off, or what Relay makes of its network where that was asked for too."""
    with_relay = options.backend == "relay"
    if with_relay and (options.runner or options.instruction_set):
        raise UsageError("--backend relay runs here, by TVM itself: without --runner and --instruction-set")
    if options.original and (with_relay or options.runner):
        raise UsageError("--original compares the library here: without --backend relay and --runner")
    validations = [_validate(options, by_relay=by_relay) for by_relay in ((False, True) if with_relay else (False,))]
    agreement = _against_original(options) if options.original else None
    if options.json:
        library, *witness = map(to_json, validations)
        more = {"relay": witness[0]} if witness else {}
        say_json(library | more | ({"original": agreement.to_json()} if agreement else {}))
    else:
        say("\n\n".join([*map(format_text, validations), *([agreement.text()] if agreement else [])]))
    passed = all(validation.passed for validation in validations) and (agreement is None or agreement.passed)
    return 0 if passed else 1


def _against_original(options: argparse.Namespace) -> Agreement:
    """The library, on raw pixels, against the file that it was imported from."""
    manifest = read_manifest(options.build)
    network = read_network(options.original)
    found = found_in(options.original, network, manifest.name)
    preprocessing = manifest.preprocessing
    original = open_original(options.original, network, found, mean=preprocessing.mean, scale=preprocessing.scale)
    model = read_reference(options.build)
    reference, noise = Reference(model), Noise(model, manifest.precision)
    seen: list[Rgb] = []
    with load(options.build, threads=options.threads, instruction_set=options.instruction_set) as net:

        def ours(pixels: Rgb) -> tuple[str, Array]:
            seen[:] = [np.repeat(pixels[None], net.input_shape[0], axis=0)]
            ((name, values),) = net.outputs(seen[0]).items()
            return name, values[0]

        def allowed(tolerance: float) -> float:
            x = normalise(options.build, seen[0])
            noise.add(x, reference.run(x))
            return largest_allowed(max(tolerance, TOLERANCES[manifest.precision]), *noise.largest.values())

        paths = find_images(options.images)
        seeded = options.inputs if options.inputs is not None else 0 if paths else _SEEDED
        return compare(original, ours, _images(paths, seeded, input_shape(options.build)), allowed)


def _validate(options: argparse.Namespace, *, by_relay: bool) -> Validation:
    shape = input_shape(options.build)
    paths = find_images(options.images)
    seeded = options.inputs if options.inputs is not None else 0 if paths else _SEEDED
    report = progress()
    with report.counting("compare", _images(paths, seeded, shape), total=len(paths) + seeded) as images:
        return validate(
            options.build,
            images,
            runner=options.runner,
            by_relay=by_relay,
            threads=options.threads,
            instruction_set=options.instruction_set,
            tolerance=options.tolerance,
            layers=options.layers,
            report=report,
        )


def _images(paths: Sequence[Path], seeded: int, shape: tuple[int, int, int]) -> Iterator[tuple[str, Rgb]]:
    """One at a time: thousands of them do not fit into memory.

    Photographs are stretched: all of each counts, and one of the network's size stays as it is.
    """
    height, width, _ = shape
    for path in paths:
        yield str(path), read_rgb(path, height=height, width=width, fit="stretch")
    for index in range(seeded):
        yield f"seeded input {index}", seeded_image(index, shape)
