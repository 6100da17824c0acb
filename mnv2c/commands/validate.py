"""``mnv2c validate``: a library against its ONNX reference, over photographs and seeded inputs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.deploy.manifest import input_shape
from mnv2c.measure.images import Rgb, find_images, read_rgb, seeded_image
from mnv2c.measure.validate import validate
from mnv2c.measure.validation import Validation, format_text, to_json

_SEEDED = 8


def command(options: argparse.Namespace) -> int:
    """Exit status 1 where the library is off, or what Relay makes of its network where that was asked for too."""
    with_relay = options.backend == "relay"
    if with_relay and (options.runner or options.instruction_set):
        raise UsageError("--backend relay runs here, by TVM itself: without --runner and --instruction-set")
    validations = [_validate(options, by_relay=by_relay) for by_relay in ((False, True) if with_relay else (False,))]
    if options.json:
        library, *witness = map(to_json, validations)
        say_json(library | ({"relay": witness[0]} if witness else {}))
    else:
        say("\n\n".join(map(format_text, validations)))
    return 0 if all(validation.passed for validation in validations) else 1


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
