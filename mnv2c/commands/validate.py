"""``mnv2c validate``: a library against its ONNX reference, over photographs and seeded inputs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnv2c.commands import progress, say, say_json
from mnv2c.deploy.manifest import input_shape
from mnv2c.measure.images import Rgb, find_images, read_rgb, seeded_image
from mnv2c.measure.validate import validate
from mnv2c.measure.validation import format_text, to_json

_SEEDED = 8


def command(options: argparse.Namespace) -> int:
    """Exit status 1 where the library is off."""
    shape = input_shape(options.build)
    paths = find_images(options.images)
    seeded = options.inputs if options.inputs is not None else 0 if paths else _SEEDED
    report = progress()
    with report.counting("compare", _images(paths, seeded, shape), total=len(paths) + seeded) as images:
        validation = validate(
            options.build,
            images,
            runner=options.runner,
            threads=options.threads,
            instruction_set=options.instruction_set,
            tolerance=options.tolerance,
            layers=options.layers,
            report=report,
        )
    if options.json:
        say_json(to_json(validation))
    else:
        say(format_text(validation))
    return 0 if validation.passed else 1


def _images(paths: Sequence[Path], seeded: int, shape: tuple[int, int, int]) -> Iterator[tuple[str, Rgb]]:
    """One at a time: thousands of them do not fit into memory.

    Photographs are stretched: all of each counts, and one of the network's size stays as it is.
    """
    height, width, _ = shape
    for path in paths:
        yield str(path), read_rgb(path, height=height, width=width, fit="stretch")
    for index in range(seeded):
        yield f"seeded input {index}", seeded_image(index, shape)
