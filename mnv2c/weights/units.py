"""Layers that belong together: a convolution with the zeros before it and the BatchNorm and the activation behind it.

What comes in: a ``Network``. What goes out, from one map to the next: a ``Unit`` with the tensors that our own names
stand for. ``MisfitError`` names the first layer that does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from mnv2c.ir.graph import Array, Padding
from mnv2c.weights.layers import BatchNorm, Clip, Convolution, Dense, Layer, Network, Scale, Unknown, Zeros

Activation = Literal["relu", "relu6"] | None


class MisfitError(Exception):
    """``layer`` does not fit, and why."""

    def __init__(self, layer: Layer, why: str) -> None:
        super().__init__(f"{layer.label}: {why}")


@dataclass(frozen=True)
class Unit:
    """``tensors`` by what our names end in: ``weight``, and ``gamma``, ``beta``, ``mean``, ``var`` or ``bias``.

    ``convolution`` is what the file has, ``padding`` with the zeros before it; ``epsilon`` is the BatchNorm's, None
    where it is folded. ``last`` is the layer whose map the next unit reads.
    """

    convolution: Convolution
    padding: Padding | Literal["same"]
    tensors: dict[str, Array]
    epsilon: float | None
    activation: Activation
    last: Layer


class Walk:
    """A network, and who reads what: what no output needs is left out."""

    def __init__(self, network: Network) -> None:
        self.network = network
        needed, open_ = {network.image.name}, [network.output]
        while open_:
            name = open_.pop()
            if name not in needed:
                needed.add(name)
                open_ += network.layers[name].inputs
        self.layers = {name: layer for name, layer in network.layers.items() if name in needed}
        self._users: dict[str, list[Layer]] = {name: [] for name in self.layers}
        for layer in self.layers.values():
            for name in dict.fromkeys(layer.inputs):
                self._users[name].append(layer)

    def users(self, layer: Layer) -> list[Layer]:
        return self._users[layer.name]

    def only_user(self, layer: Layer) -> Layer | None:
        """None where nothing reads it, or more than one layer does."""
        users = self.users(layer)
        return users[0] if len(users) == 1 and layer.name != self.network.output else None

    def blame_unknown(self, layer: Layer) -> None:
        """MisfitError where a layer that is not known reads ``layer``: it is the first that does not fit."""
        for user in self.users(layer):
            if isinstance(user, Unknown):
                raise MisfitError(user, user.why)

    def next(self, layer: Layer) -> Layer | None:
        """The only reader; None at the end. MisfitError where there are several."""
        self.blame_unknown(layer)
        users = self.users(layer)
        if len(users) > 1:
            raise MisfitError(layer, f"{len(users)} layers read it: {', '.join(one.label for one in users[:3])}")
        return users[0] if users else None

    def unit(self, first: Layer, where: str) -> Unit:
        """The unit that begins with ``first``, a convolution or the zeros before one; ``where`` is for messages."""
        zeros = Padding()
        convolution = first
        if isinstance(first, Zeros):
            zeros = first.sides
            following = self.only_user(first)
            if following is None:
                raise MisfitError(first, "zeros that no convolution alone reads")
            convolution = following
        if not isinstance(convolution, Convolution):
            raise MisfitError(convolution, f"{describe(convolution)} where {where} has a convolution")
        padding = convolution.padding
        if zeros:
            if padding == "same":
                raise MisfitError(first, "zeros before a convolution that has its own")
            padding = Padding(*(one + other for one, other in zip(zeros.sides, padding.sides, strict=True)))
        _check_bias(convolution)
        scales, last = self._scales(convolution)
        tensors, epsilon = _merged(convolution, scales)
        activation, last = self.activation(last)
        return Unit(convolution, padding, tensors, epsilon, activation, last)

    def dense(self, first: Dense | Convolution) -> tuple[Array, Array | None, Activation, Layer]:
        """Weight (classes x features), bias, and activation of a dense layer, or of a convolution of one pixel."""
        _check_bias(first)
        scales, last = self._scales(first)
        weight, bias = _folded(first, scales) if scales else (first.weight, first.bias)
        activation, last = self.activation(last)
        return weight.reshape(weight.shape[:2]), bias, activation, last

    def activation(self, last: Layer) -> tuple[Activation, Layer]:
        """What clips ``last``, in one step or several, and the last of these."""
        low, high = -inf, inf
        while isinstance(clip := self.only_user(last), Clip):
            low, high, last = max(low, clip.low), min(high, clip.high), clip
        kinds: dict[tuple[float, float], Activation] = {(-inf, inf): None, (0, inf): "relu", (0, 6): "relu6"}
        if (low, high) not in kinds:
            raise MisfitError(last, f"clips to [{low:g}, {high:g}], which is neither ReLU6 nor ReLU")
        return kinds[low, high], last

    def _scales(self, last: Layer) -> tuple[list[BatchNorm | Scale], Layer]:
        found: list[BatchNorm | Scale] = []
        while isinstance(layer := self.only_user(last), BatchNorm | Scale):
            found.append(layer)
            last = layer
        return found, last


def _check_bias(layer: Convolution | Dense) -> None:
    if layer.bias is not None and layer.bias.shape != (len(layer.weight),):
        raise MisfitError(layer, f"a bias of {layer.bias.size} numbers for {len(layer.weight)} channels")


def _merged(layer: Convolution, scales: list[BatchNorm | Scale]) -> tuple[dict[str, Array], float | None]:
    """Bit for bit where the file has a convolution and a BatchNorm, or a convolution with a bias; else folded."""
    match scales:
        case []:
            bias = np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias
            return {"weight": layer.weight, "bias": bias}, None
        case [BatchNorm() as norm]:
            if not 0 < norm.epsilon <= 1:
                raise MisfitError(norm, f"an epsilon of {norm.epsilon:g}")
            for name in ("gamma", "beta", "mean", "var"):
                if getattr(norm, name).shape != (len(layer.weight),):
                    raise MisfitError(norm, f"{name} has not one value for each of {len(layer.weight)} channels")
            mean = norm.mean if layer.bias is None else norm.mean - layer.bias
            tensors = {"gamma": norm.gamma, "beta": norm.beta, "mean": mean, "var": norm.var}
            return {"weight": layer.weight, **tensors}, norm.epsilon
    weight, bias = _folded(layer, scales)
    return {"weight": weight, "bias": bias}, None


def _folded(layer: Convolution | Dense, scales: list[BatchNorm | Scale]) -> tuple[Array, Array]:
    """Weight and bias that do the work of all, computed in float64."""
    with np.errstate(all="ignore"):  # ``fit`` tells what is not finite
        return _fold(layer, scales)


def _fold(layer: Convolution | Dense, scales: list[BatchNorm | Scale]) -> tuple[Array, Array]:
    channels = len(layer.weight)
    factor = np.ones(channels)
    bias = np.zeros(channels) if layer.bias is None else layer.bias.astype(np.float64)
    for scale in scales:
        if isinstance(scale, BatchNorm):
            by = scale.gamma.astype(np.float64) / np.sqrt(scale.var.astype(np.float64) + scale.epsilon)
            offset = scale.beta - scale.mean.astype(np.float64) * by
        else:
            by, offset = scale.factor.astype(np.float64), scale.offset.astype(np.float64)
        if any(value.shape not in ((), (1,), (channels,)) for value in (by, offset)):
            raise MisfitError(scale, f"not one number for each of {channels} channels")
        factor, bias = factor * by, bias * by + offset
    weight = layer.weight.astype(np.float64) * factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return weight.astype(np.float32), bias.astype(np.float32)


def describe(layer: Layer) -> str:
    """What it is, for people."""
    match layer:
        case Convolution():
            height, width = layer.weight.shape[2:]
            kind = f"convolution {height}x{width}" + (f" in {layer.groups} groups" if layer.groups > 1 else "")
            return f"{kind}, {layer.weight.shape[1] * layer.groups} to {len(layer.weight)} channels"
        case Clip(low=0.0, high=6.0):
            return "ReLU6"
        case Clip(low=0.0):
            return "ReLU"
        case Unknown():
            return layer.why
    return {"Sum": "a sum", "Mean": "the mean over the map", "Zeros": "zeros"}.get(
        type(layer).__name__, type(layer).__name__
    )
