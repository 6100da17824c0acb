"""The text of the C driver and of the header that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tiny_program import tiny_program

from mnv2c.codegen.driver_c import driver
from mnv2c.codegen.header import header


def test_the_text_of_driver_and_header(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    """Three instruction sets, a layer inside its border, raw bytes, two outputs of which one is read again."""
    program = tiny_program(tmp_path, outputs=("logits", "map"))
    golden("tiny_1_0.c", driver(program))
    golden("tiny_1_0.h", header(program))
