"""``mnv2c validate``: a library against its ONNX reference, over photographs and seeded inputs."""

from __future__ import annotations

import argparse

from mnv2c.commands import progress, say, say_json
from mnv2c.deploy.manifest import input_shape
from mnv2c.measure.images import find_images, read_rgb
from mnv2c.measure.validate import TOLERANCE, format_text, seeded_images, to_json, validate

_SEEDED = 8


def command(options: argparse.Namespace) -> int:
    """Exit status 1 where the library is off."""
    shape = input_shape(options.build)
    height, width, _ = shape
    report = progress()
    images = {str(path): read_rgb(path, height=height, width=width) for path in find_images(options.images)}
    seeded = options.inputs if options.inputs is not None else 0 if images else _SEEDED
    images |= seeded_images(seeded, shape)
    validation = validate(
        options.build,
        images,
        runner=options.runner,
        threads=options.threads,
        instruction_set=options.instruction_set,
        tolerance=TOLERANCE if options.tolerance is None else options.tolerance,
        layers=options.layers,
        report=report,
    )
    if options.json:
        say_json(to_json(validation))
    else:
        say(format_text(validation))
    return 0 if validation.passed else 1
