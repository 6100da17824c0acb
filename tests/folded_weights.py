"""Weights as most exporters write them: each BatchNorm folded into the convolution before it, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mnv2c.ir.graph import Array


def fold(
    weights: Mapping[str, Array], epsilon: float, *, layers: Callable[[str], bool] = lambda layer: True
) -> dict[str, Array]:
    """``weights`` with ``.bias`` for BatchNorm's statistics in every layer that ``layers`` chooses."""
    folded = dict(weights)
    for layer in [name.removesuffix(".gamma") for name in weights if name.endswith(".gamma")]:
        if not layers(layer):
            continue
        gamma, beta, mean, var = (
            folded.pop(f"{layer}.{part}").astype(np.float64) for part in ("gamma", "beta", "mean", "var")
        )
        scale = gamma / np.sqrt(var + epsilon)
        weight = folded[f"{layer}.weight"].astype(np.float64) * scale.reshape(-1, 1, 1, 1)
        folded[f"{layer}.weight"] = weight.astype(np.float32)
        folded[f"{layer}.bias"] = (beta - mean * scale).astype(np.float32)
    return folded
