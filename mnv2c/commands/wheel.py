"""``mnv2c wheel``: a wheel of a built library, for machines that have Python and numpy alone."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from mnv2c.commands import OutputError, megabytes, say, say_json, write_file
from mnv2c.deploy.network import read_build
from mnv2c.deploy.wheel import make_wheel


def command(options: argparse.Namespace) -> int:
    """Writes the wheel beside the build, or where it was asked to, and prints how to use it."""
    wheel = make_wheel(read_build(options.build))
    directory: Path = options.out or options.build.resolve().parent
    path = directory / wheel.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be made: {error.strerror}; choose another place with --out") from error
    write_file(path, wheel.content)
    if options.json:
        digest = hashlib.sha256(wheel.content).hexdigest()
        say_json({"path": str(path), "module": wheel.module, "tag": wheel.tag, "sha256": digest})
    else:
        say(f"{path}  {megabytes(len(wheel.content))}\nnext, where it is to run:\n  pip install {wheel.name}")
        say(f'  python -c "import {wheel.module}; help({wheel.module})"')
    return 0
