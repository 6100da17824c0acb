"""Weights for a spec without a trained file: seeded, and with the BatchNorm statistics of a trained network.

What comes in: the spec and a seed. What goes out: float32 arrays for which activations neither die out nor grow through
the network, ReLU6 passes and clips, and logits are spread. They are the same on every machine: used are the bits of
PCG64, which NumPy keeps from version to version, integer sums, and operations that IEEE 754 rounds exactly.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array
from mnv2c.spec.frontend import parameter_shapes
from mnv2c.spec.table import InputSpec, Spec

HALF = 1 << 23  # draws are 24-bit integers around zero: their sums of squares are exact in int64


@dataclass(frozen=True)
class Moments:
    """What a layer is assumed to read: one mean and one variance for all channels, values independent."""

    mean: float
    variance: float


BOTTLENECK = Moments(mean=0.0, variance=2.0)  # after some shortcuts
RECTIFIED = Moments(mean=1.4, variance=2.0)  # after ReLU6 or ReLU, with the gammas and betas below
LARGEST = Moments(mean=3.5, variance=2.5)  # of nine of those
LOGIT_VARIANCE = 6.0

# Of each channel: gamma, beta, and how far mean and variance are off, in deviations and as a factor.
LINEAR = {"gamma": (0.7, 1.3), "beta": (-0.1, 0.1), "mean": (-0.1, 0.1), "var": (0.7, 1.3)}
ADDED = LINEAR | {"gamma": (0.2, 0.6)}  # to a sum that ReLU follows, again and again
BEFORE_RELU6 = {"gamma": (1.0, 3.0), "beta": (0.5, 1.5), "mean": (-0.1, 0.1), "var": (0.7, 1.3)}


def seeded_weights(spec: Spec, seed: int) -> dict[str, Array]:
    """One array per name of ``parameter_shapes``. Raises ``WeightsError`` for a negative seed."""
    if seed < 0:
        raise WeightsError(f"seed {seed}: must be 0 or more")
    shapes = parameter_shapes(spec)
    values: dict[str, NDArray[np.float64]] = {}
    for name, shape in shapes.items():
        layer, _, field = name.rpartition(".")
        if field == "weight":
            reads = _reads(layer, spec)
            values |= _dense(layer, shape, seed) if len(shape) == 2 else _layer(layer, shape, seed, reads)
    return {name: values[name].astype(np.float32).reshape(shape) for name, shape in shapes.items()}


def _layer(layer: str, shape: tuple[int, ...], seed: int, reads: Moments) -> dict[str, NDArray[np.float64]]:
    """A convolution (He et al. 2015) and a BatchNorm whose mean and variance are about those of its output."""
    draws = _draws(f"{layer}.weight", math.prod(shape), seed).reshape(shape[0], -1)
    step = math.sqrt(6 / draws.shape[1]) / HALF
    deviation = np.sqrt(reads.variance * step * step * (draws * draws).sum(axis=1))
    ranges = LINEAR if layer.endswith(".project") else ADDED if layer.endswith(".enlarge") else BEFORE_RELU6
    spread = {field: _uniform(f"{layer}.{field}", shape[0], seed, ranges[field]) for field in ranges}
    return {
        f"{layer}.weight": draws * step,
        f"{layer}.gamma": spread["gamma"],
        f"{layer}.beta": spread["beta"],
        f"{layer}.mean": reads.mean * step * draws.sum(axis=1) + spread["mean"] * deviation,
        f"{layer}.var": spread["var"] * deviation * deviation,
    }


def _reads(layer: str, spec: Spec) -> Moments:
    if layer == "stem":
        return _pixels(spec.input)
    if spec.stem.pool and layer in ("block0.reduce", "block0.shortcut"):
        return LARGEST
    return BOTTLENECK if layer == "head" or layer.endswith(".expand") else RECTIFIED


def _pixels(image: InputSpec) -> Moments:
    """Bytes of which all are as likely, normalised."""
    means = [(255 / 2 - mean) / scale for mean, scale in zip(image.mean, image.scale, strict=True)]
    variances = [(255 / scale) ** 2 / 12 for scale in image.scale]
    return Moments(sum(means) / 3, sum(variances) / 3)


def _dense(layer: str, shape: tuple[int, ...], seed: int) -> dict[str, NDArray[np.float64]]:
    """Weights that spread the logits; the bias takes away what the mean feature alone would give each class."""
    draws = _draws(f"{layer}.weight", math.prod(shape), seed).reshape(shape)
    step = math.sqrt(3 * LOGIT_VARIANCE / shape[1]) / HALF
    bias = _uniform(f"{layer}.bias", shape[0], seed, (-0.1, 0.1))
    return {f"{layer}.weight": draws * step, f"{layer}.bias": bias - RECTIFIED.mean * step * draws.sum(axis=1)}


def _uniform(name: str, count: int, seed: int, limits: tuple[float, float]) -> NDArray[np.float64]:
    low, high = limits
    return low + (high - low) * ((_draws(name, count, seed) + HALF) / (2 * HALF))


def _draws(name: str, count: int, seed: int) -> NDArray[np.int64]:
    """Integers from -2^23 to 2^23 - 1, all equally likely; every tensor has a stream of its own."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])).random_raw(count)
    return (bits >> np.uint64(40)).astype(np.int64) - HALF
