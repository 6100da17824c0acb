"""Reads files of our own names as a network: an ``.npz`` that is to become a table.

What comes in: a path. What goes out: its ``Network``, which the names and shapes of its tensors tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.spec.table import PaddingConvention
from mnv2c.weights.fit import META, parse_meta
from mnv2c.weights.layers import Network
from mnv2c.weights.npz import read_npz
from mnv2c.weights.state_dict import Known, network_of


def read_named(path: Path) -> Network:
    """WeightsError, one line, where it cannot be read."""
    tensors = read_npz(path)
    known = Known()
    if META in tensors:
        try:
            trained = parse_meta(tensors.pop(META))
        except ValueError as error:
            raise WeightsError(f"{path}: {META}: {' '.join(str(error).split())}") from error
        known = Known(padding=cast(PaddingConvention | None, trained.padding), epsilon=trained.batchnorm_epsilon)
    unread = {name: value for name, value in tensors.items() if isinstance(value, str)}
    for name, fault in unread.items():
        raise WeightsError(f"{path}: {name}: {fault}")
    return network_of(path, {name: v for name, v in tensors.items() if isinstance(v, np.ndarray)}, "npz", known)
