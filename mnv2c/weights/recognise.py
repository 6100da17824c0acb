"""Finds the table in a trained network: what its layers compute decides, not what they are called.

What comes in: a ``Network``. What goes out: a ``Recognised``: the spec that describes it, its weights under our names,
and what was found out. ``MisfitError`` names the first layer that is not as the family has it, and why.

``_ROWS`` are the kinds of blocks that are known, each tried in turn at the map where the last one ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mnv2c.ir.graph import Array, Padding
from mnv2c.spec.frontend import extent
from mnv2c.spec.table import DenseActivation, DenseRow, Head, InputSpec, PaddingConvention, PerChannel, Spec, Stem
from mnv2c.weights.layers import (
    Convolution,
    Dense,
    Layer,
    Mean,
    Network,
    Preprocessing,
    Scale,
    Softmax,
    Sum,
    Unknown,
    Zeros,
)
from mnv2c.weights.table import Block, rows_of, unscaled
from mnv2c.weights.units import MisfitError, Unit, Walk, describe

RESOLUTION = 224
TENSORFLOW = Preprocessing((127.5,) * 3, (127.5,) * 3)
PYTORCH = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_CONVENTIONS: tuple[PaddingConvention, ...] = ("same", "symmetric")


@dataclass(frozen=True)
class Recognised:
    """``softmax`` says that the file ends in one, which the spec leaves out; ``resolution_known`` and
    ``preprocessing_known`` that the file has them, and ``folded`` how many of its ``convolutions`` had no BatchNorm.
    ``paddings`` are the conventions that its zeros may be, at its resolution."""

    spec: Spec
    weights: dict[str, Array]
    softmax: bool
    folded: int
    convolutions: int
    resolution_known: bool
    preprocessing_known: bool
    epsilons: tuple[float, ...]
    paddings: frozenset[PaddingConvention]


def recognise(network: Network, name: str) -> Recognised:
    """The network as a spec called ``name``. ``MisfitError`` where it is of another family."""
    return _Recogniser(network).run(name)


@dataclass
class _Recogniser:
    """``units`` by our names so far; ``height`` and ``width`` of the last map; ``conventions`` that all paddings so far
    may be."""

    network: Network
    units: dict[str, Unit] = field(default_factory=dict)
    conventions: set[PaddingConvention] = field(default_factory=lambda: set(_CONVENTIONS))

    def run(self, name: str) -> Recognised:
        image = self.network.image
        self.walk = Walk(self.network)
        self.height, self.width = image.height or RESOLUTION, image.width or RESOLUTION
        preprocessing, last = self._preprocessing(image)
        stem, last = self._stem(last)
        blocks: list[Block] = []
        while (block := self._block(last, len(blocks))) is not None:
            blocks.append(block[0])
            last = block[1]
        if not blocks:
            raise MisfitError(last, "no inverted residual behind the stem")
        head = self._unit("head", self._convolution_behind(last), activation="relu6")
        classifier, dense, softmax = self._classifier(head.last)
        weights = {
            f"{layer}.{part}": value for layer, unit in self.units.items() for part, value in unit.tensors.items()
        }
        padding: PaddingConvention = "same" if "same" in self.conventions else "symmetric"
        assumed = preprocessing or (TENSORFLOW if padding == "same" else PYTORCH)
        epsilon = self._epsilon(weights)
        channels = unscaled(len(stem.convolution.weight), rows_of(blocks), len(head.convolution.weight))
        spec = Spec(
            name=name,
            width_multiplier=channels.width_multiplier,
            channel_divisor=channels.divisor,
            classifier=classifier,
            input=InputSpec(
                height=image.height or RESOLUTION,
                width=image.width or RESOLUTION,
                mean=assumed.mean,
                scale=assumed.scale,
            ),
            padding=padding,
            batchnorm_epsilon=epsilon,
            stem=Stem(channels.stem, stem.convolution.strides[0]),
            bottlenecks=channels.rows,
            head=Head(channels.head),
        )
        return Recognised(
            spec=spec,
            weights=weights | dense,
            softmax=softmax,
            folded=sum(unit.epsilon is None for unit in self.units.values()),
            convolutions=len(self.units),
            resolution_known=image.height is not None and image.width is not None,
            preprocessing_known=preprocessing is not None,
            epsilons=tuple(sorted({unit.epsilon for unit in self.units.values() if unit.epsilon is not None})),
            paddings=frozenset(self.conventions),
        )

    def _preprocessing(self, last: Layer) -> tuple[Preprocessing | None, Layer]:
        """What is done to every pixel before the first convolution, outside the layers and in them: ``factor * pixel +
        offset``; None where nothing says."""
        factor, offset = np.ones(3), np.zeros(3)
        if self.network.preprocessing is not None:
            factor = 1 / np.array(self.network.preprocessing.scale)
            offset = -factor * np.array(self.network.preprocessing.mean)
        found = False
        while isinstance(scale := self.walk.only_user(last), Scale):
            factor = factor * scale.factor
            offset = offset * scale.factor + scale.offset
            last, found = scale, True
        if not found:
            return self.network.preprocessing, last
        if not (np.isfinite(factor) & (factor > 0) & np.isfinite(offset)).all():
            raise MisfitError(last, "takes the pixels by something else than a factor above zero and an offset")
        return Preprocessing(_three(-offset / factor), _three(1 / factor)), last

    def _stem(self, last: Layer) -> tuple[Unit, Layer]:
        first = self._convolution_behind(last)
        stem = self._unit("stem", first, kernel=3, activation="relu6")
        return stem, stem.last

    def _block(self, entry: Layer, number: int) -> tuple[Block, Layer] | None:
        """The block that begins at ``entry``, and its last map; None where the head begins."""
        if self._is_head(entry):
            return None
        for parse in _ROWS:
            found = parse(self, entry, f"block{number}")
            if found is not None:
                return found
        raise MisfitError(self._convolution_behind(entry), "begins no block that is known")

    def _is_head(self, entry: Layer) -> bool:
        """A 1x1 convolution whose map is no depthwise convolution's, but goes into the mean, or out."""
        first = self._convolution_behind(entry)
        if not isinstance(first, Convolution) or not _is_pointwise(first):
            return False
        unit = self.walk.unit(first, "the head")
        following = self.walk.users(unit.last)
        return not following or any(isinstance(layer, Mean) for layer in following)

    def _convolution_behind(self, entry: Layer) -> Layer:
        """The reader of ``entry`` that is no shortcut."""
        self.walk.blame_unknown(entry)
        readers = [layer for layer in self.walk.users(entry) if not isinstance(layer, Sum)]
        if not readers:
            raise MisfitError(entry, "the network ends here, before its head")
        if len(readers) > 1:
            raise MisfitError(entry, f"{len(readers)} layers read it: {', '.join(one.label for one in readers[:3])}")
        first = readers[0]
        unpadded = self.walk.only_user(first) if isinstance(first, Zeros) and not first.sides else None
        return unpadded or first

    def _unit(
        self, name: str, first: Layer, *, kernel: int = 1, depthwise: bool = False, activation: str | None
    ) -> Unit:
        """Adds the unit that begins with ``first``, as the family has it there."""
        where = f"{name} of MobileNetV2"
        unit = self.walk.unit(first, where)
        convolution = unit.convolution
        channels = convolution.weight.shape[1] * convolution.groups
        wanted = f"{'depthwise ' if depthwise else ''}convolution {kernel}x{kernel}"
        shape = (kernel, kernel) if kernel > 1 or not depthwise else convolution.weight.shape[2:]
        is_depthwise = convolution.groups == channels == len(convolution.weight) and channels > 1
        if (
            convolution.weight.shape[2:] != shape
            or (depthwise != is_depthwise)
            or (not depthwise and convolution.groups != 1)
        ):
            raise MisfitError(convolution, f"{describe(convolution)}, where {where} has a {wanted}")
        strides = set(convolution.strides)
        if len(strides) > 1 or not strides <= ({1, 2} if kernel > 1 else {1}) or convolution.dilations != (1, 1):
            raise MisfitError(
                convolution, f"strides {convolution.strides}, dilations {convolution.dilations}, not as {where}"
            )
        if unit.activation != activation:
            self.walk.blame_unknown(unit.last)
            raise MisfitError(unit.last, f"{_shown(unit.activation)} where {where} has {_shown(activation)}")
        self._pad(unit, kernel)
        self.units[name] = unit
        return unit

    def _pad(self, unit: Unit, kernel: int) -> None:
        """Which conventions its zeros may be, and the extents of its map."""
        stride, padding = unit.convolution.strides[0], unit.padding
        fitting: dict[PaddingConvention, tuple[int, int]] = {}
        for convention in _CONVENTIONS:
            top, bottom, height = extent(self.height, kernel, stride, convention)
            left, right, width = extent(self.width, kernel, stride, convention)
            if padding == Padding(top, left, bottom, right) or (padding == "same" and convention == "same"):
                fitting[convention] = (height, width)
        if (
            padding == "same"
            and extent(self.height, kernel, stride, "symmetric") == extent(self.height, kernel, stride, "same")
            and extent(self.width, kernel, stride, "symmetric") == extent(self.width, kernel, stride, "same")
        ):
            fitting["symmetric"] = fitting["same"]
        if not self.conventions & fitting.keys():
            zeros = padding if padding == "same" else ",".join(map(str, padding.sides))
            raise MisfitError(
                unit.convolution,
                f"zeros {zeros} (top, left, bottom, right) around a map of {self.height}x{self.width}, neither as "
                "TensorFlow's SAME nor as PyTorch's symmetric padding, or not as in the layers before",
            )
        self.conventions &= fitting.keys()
        self.height, self.width = fitting[min(self.conventions)]

    def _classifier(self, last: Layer) -> tuple[tuple[DenseRow, ...], dict[str, Array], bool]:
        """The mean over the map, and the dense layers behind it; whether a softmax ends them."""
        mean = self.walk.next(last)
        if mean is None:
            raise MisfitError(last, "the network ends here; add the mean over the map (GlobalAveragePool) behind it")
        if not isinstance(mean, Mean):
            raise MisfitError(mean, f"{describe(mean)} where MobileNetV2 has the mean over the map")
        if mean.extents not in (None, (self.height, self.width)):
            raise MisfitError(mean, f"the mean over {mean.extents}, not over the map of {self.height}x{self.width}")
        rows: list[DenseRow] = []
        tensors: list[tuple[Array, Array | None]] = []
        softmax = False
        last = mean
        while (layer := self.walk.next(last)) is not None:
            if isinstance(layer, Softmax) and rows:
                softmax, last = True, layer
                continue
            if softmax or not isinstance(layer, Dense | Convolution):
                raise MisfitError(layer, f"{describe(layer)} in the classifier")
            if isinstance(layer, Convolution) and not (_is_pointwise(layer) and layer.strides == (1, 1)):
                raise MisfitError(layer, f"{describe(layer)} in the classifier")
            weight, bias, activation, last = self.walk.dense(layer)
            rows.append(DenseRow(len(weight), cast(DenseActivation | None, activation)))
            tensors.append((weight, bias))
        names = [*(f"hidden{number}" for number in range(len(rows) - 1)), "fc"][: len(rows)]
        dense: dict[str, Array] = {}
        for name, (weight, bias) in zip(names, tensors, strict=True):
            dense[f"{name}.weight"] = weight
            if bias is not None:
                dense[f"{name}.bias"] = bias
        return tuple(rows), dense, softmax

    def _epsilon(self, weights: dict[str, Array]) -> float:
        """The one of all BatchNorms; where there are several, that of most, and the others' are put into ``var``."""
        epsilons = Counter(unit.epsilon for unit in self.units.values() if unit.epsilon is not None)
        if not epsilons:
            return 1e-3
        epsilon, _ = epsilons.most_common(1)[0]
        for name, unit in self.units.items():
            if unit.epsilon not in (None, epsilon):
                assert unit.epsilon is not None, "None is in the tuple"
                moved = unit.tensors["var"].astype(np.float64) + unit.epsilon - epsilon
                if (moved < 0).any():
                    raise MisfitError(
                        unit.convolution, f"a BatchNorm epsilon of {unit.epsilon:g}, elsewhere {epsilon:g}"
                    )
                weights[f"{name}.var"] = moved.astype(np.float32)
        return _rounded(epsilon)


def _inverted_residual(recogniser: _Recogniser, entry: Layer, name: str) -> tuple[Block, Layer] | None:
    """Expansion, but for t = 1, depthwise convolution, projection; the shortcut where stride is 1 and channels stay."""
    first = recogniser._convolution_behind(entry)
    inputs = _channels(recogniser, first)
    t = 1
    if isinstance(first, Convolution) and _is_pointwise(first):
        expand = recogniser._unit(f"{name}.expand", first, activation="relu6")
        expanded = len(expand.convolution.weight)
        t = expanded // inputs
        if expanded % inputs or t == 1:
            raise MisfitError(
                expand.convolution, f"expands {inputs} channels to {expanded}, not by a whole factor above 1"
            )
        first = recogniser._convolution_behind(expand.last)
    depthwise = recogniser._unit(f"{name}.dw", first, kernel=3, depthwise=True, activation="relu6")
    project = recogniser._unit(f"{name}.project", recogniser._convolution_behind(depthwise.last), activation=None)
    channels, stride = len(project.convolution.weight), depthwise.convolution.strides[0]
    last = project.last
    follower = recogniser.walk.only_user(last)
    shortcut = isinstance(follower, Sum) and set(follower.inputs) == {last.name, entry.name}
    if shortcut != (stride == 1 and channels == inputs):
        has = "has a shortcut" if shortcut else "has no shortcut"
        raise MisfitError(
            project.convolution, f"{name}, of stride {stride} with {inputs} to {channels} channels, {has}"
        )
    if shortcut:
        assert follower is not None, "it is a Sum"
        last = follower
    return Block(t=t, channels=channels, stride=stride), last


_ROWS: Sequence[Callable[[_Recogniser, Layer, str], tuple[Block, Layer] | None]] = (_inverted_residual,)


def _channels(recogniser: _Recogniser, first: Layer) -> int:
    """How many the map has that a convolution, or zeros before one, reads."""
    layer: Layer | None = first
    while layer is not None and not isinstance(layer, Convolution):
        if isinstance(layer, Unknown) or not isinstance(layer, Zeros):
            raise MisfitError(layer, f"{describe(layer)} where a block begins")
        layer = recogniser.walk.only_user(layer)
    if layer is None:
        raise MisfitError(first, "no convolution behind it")
    return int(layer.weight.shape[1]) * layer.groups


def _is_pointwise(layer: Convolution) -> bool:
    return layer.weight.shape[2:] == (1, 1) and layer.groups == 1


def _shown(activation: str | None) -> str:
    return {"relu6": "ReLU6", "relu": "ReLU"}.get(activation or "", "no activation")


def _three(values: NDArray[np.float64]) -> PerChannel:
    red, green, blue = map(_rounded, values.tolist())
    return red, green, blue


def _rounded(value: float) -> float:
    """What float32 made of a decimal number, as that number: 0.001, not 0.0010000000474974513."""
    return float(f"{value:.7g}") + 0.0  # not -0
