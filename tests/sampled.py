"""Smaller images, the same wherever numpy is."""

from __future__ import annotations

from typing import Any

import numpy as np


def sampled(images: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
    """Every so many-th row and column of square images (batch, height, width, 3)."""
    step = np.arange(side) * images.shape[1] // side
    return images[:, step][:, :, step]
