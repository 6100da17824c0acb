"""Tensors by name, without a graph: state dicts of PyTorch libraries, and files of our own names.

What comes in: tensors as a reader found them. What goes out: a ``Network``, in which names and shapes say which layer a
tensor is of, and the architecture of the library that the names are of says what no tensor shows: ``assumed`` lists
that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array, Padding
from mnv2c.spec.table import PaddingConvention
from mnv2c.weights.layers import (
    BatchNorm,
    Clip,
    Convolution,
    Dense,
    Image,
    Layer,
    Mean,
    Network,
    Preprocessing,
    Sum,
)
from mnv2c.weights.table import REPEATS, STRIDES, Block, rows_of

Tensors = Mapping[str, NDArray[Any]]

_CONVOLUTION = {"weight": "weight", "bias": "bias"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
_IGNORED = ("num_batches_tracked",)
_DEPTHWISE, _EXPANDED = ("dw", "project"), ("expand", "dw", "project")


@dataclass(frozen=True)
class Known:
    """What a file beside the tensors says; None where it does not."""

    padding: PaddingConvention | None = None
    epsilon: float | None = None
    resolution: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class _Dialect:
    """How a library calls its tensors. ``anchor`` ends the name of the stem's weight; ``translate`` gives our name of
    what is behind the anchor's prefix, None for what is no convolution or BatchNorm of it."""

    library: str
    anchor: str
    padding: PaddingConvention
    epsilon: float
    translate: Callable[[list[str]], dict[str, str]]


def network_of(path: Path, tensors: Tensors, origin: str, known: Known) -> Network:
    """The network that ``tensors`` are of. WeightsError, one line, where the names are no library's that is known."""
    names = [name for name in tensors if not name.endswith(_IGNORED)]
    for dialect in _DIALECTS:
        stems = [name for name in names if name == dialect.anchor or name.endswith(f".{dialect.anchor}")]
        if stems:
            prefix = min(stems, key=len).removesuffix(dialect.anchor)
            return _Reading(path, tensors, dialect, known).network(names, prefix, origin)
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise WeightsError(
        f"{path}: {len(names)} tensors ({few}), not named as torchvision, timm or transformers name those of a "
        "MobileNetV2; export the model to ONNX"
    )


class _Reading:
    """``layers`` so far."""

    def __init__(self, path: Path, tensors: Tensors, dialect: _Dialect, known: Known) -> None:
        self._path, self._tensors, self._dialect = path, tensors, dialect
        self._padding = known.padding or dialect.padding
        self._epsilon = known.epsilon or dialect.epsilon
        self._known = known
        self._layers: dict[str, Layer] = {}

    def network(self, names: list[str], prefix: str, origin: str) -> Network:
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        ours = {prefix + theirs: name for theirs, name in self._dialect.translate(inside).items()}
        self._ours = {name: self._tensors[theirs] for theirs, name in ours.items()}
        self._labels = {name.rpartition(".")[0]: theirs.rpartition(".")[0] for theirs, name in reversed(ours.items())}
        height, width = self._known.resolution or (None, None)
        image = Image(name="image", inputs=(), label="the image", height=height, width=width, channels=3)
        self._layers["image"] = image
        last = self._unit("stem", "image", kernel=3, stride=2)
        strides = self._strides()
        for number, stride in enumerate(strides):
            last = self._block(f"block{number}", last, stride)
        last = self._unit("head", last)
        last = self._add(Mean(name="pool", inputs=(last,), label="the mean over the map"))
        rest = sorted((name for name in names if name not in ours), key=_natural)
        output, hidden = self._classifier(rest, last)
        return Network(
            origin=f"{origin}, named as in {self._dialect.library}",
            layers=self._layers,
            output=output,
            layout=None,
            assumed=self._assumed(hidden),
            preprocessing=self._known.preprocessing,
            library=self._dialect.library,
        )

    def _assumed(self, hidden: int) -> tuple[str, ...]:
        library = self._dialect.library
        said = [f"strides: the paper's, {', '.join(map(str, STRIDES))} for its rows; else import an ONNX export"]
        if self._known.padding is None:
            other = "same" if self._padding == "symmetric" else "symmetric"
            said.append(f"padding: {self._padding} taken, as in {library}; else --set padding={other}")
        if self._known.epsilon is None:
            said.append(
                f"BatchNorm's epsilon: {self._epsilon:g} taken, as in {library}; else --set batchnorm_epsilon=X"
            )
        if hidden:
            said.append('activation between the dense layers: ReLU taken; else --set "classifier[0].activation=relu6"')
        return tuple(said)

    def _strides(self) -> list[int]:
        """Of every block, from the rows that equal blocks make: the paper's."""
        blocks: list[Block] = []
        inputs = len(self._tensor("stem.weight", 4))
        while f"block{len(blocks)}.dw.weight" in self._ours:
            block = f"block{len(blocks)}"
            expanded = len(self._tensor(f"{block}.dw.weight", 4))
            blocks.append(Block(expanded // inputs, len(self._tensor(f"{block}.project.weight", 4)), 1))
            inputs = blocks[-1].channels
        rows = rows_of(blocks)
        repeats = [row.n for row in rows]
        if _has_rows_of(blocks, REPEATS):
            repeats = list(REPEATS)
        if len(repeats) != len(STRIDES):
            raise WeightsError(
                f"{self._path}: {len(blocks)} blocks in {len(rows)} rows, not the paper's 7, so that their strides "
                "cannot be known from tensors alone; export the model to ONNX"
            )
        return [stride for n, first in zip(repeats, STRIDES, strict=True) for stride in (first, *[1] * (n - 1))]

    def _block(self, block: str, entry: str, stride: int) -> str:
        last = entry
        if f"{block}.expand.weight" in self._ours:
            last = self._unit(f"{block}.expand", last)
        last = self._unit(f"{block}.dw", last, kernel=3, stride=stride)
        last = self._unit(f"{block}.project", last, linear=True)
        channels, inputs = len(self._ours[f"{block}.project.weight"]), self._channels(entry)
        if stride == 1 and channels == inputs:
            last = self._add(Sum(name=f"{block}.add", inputs=(last, entry), label=f"the shortcut of {block}"))
        return last

    def _channels(self, entry: str) -> int:
        layer = entry.removesuffix(".relu6").removesuffix(".bn").replace(".add", ".project")
        return len(self._ours[f"{layer}.weight"])

    def _unit(self, layer: str, entry: str, *, kernel: int = 1, stride: int = 1, linear: bool = False) -> str:
        weight = self._tensor(f"{layer}.weight", 4)
        label = self._labels[layer]
        bias = self._tensor(f"{layer}.bias", 1) if f"{layer}.bias" in self._ours else None
        zeros = Padding(*[kernel // 2] * 4)
        last = self._add(
            Convolution(
                name=layer,
                inputs=(entry,),
                label=label,
                weight=weight,
                bias=bias,
                strides=(stride, stride),
                padding=zeros if self._padding == "symmetric" else "same",
                groups=len(weight) if layer.endswith(".dw") else 1,
            )
        )
        if f"{layer}.var" in self._ours:
            values = {part: self._tensor(f"{layer}.{part}", 1) for part in ("gamma", "beta", "mean", "var")}
            norm = BatchNorm(name=f"{layer}.bn", inputs=(last,), label=label, epsilon=self._epsilon, **values)
            last = self._add(norm)
        if not linear:
            last = self._add(Clip(name=f"{layer}.relu6", inputs=(last,), label=label, low=0.0, high=6.0))
        return last

    def _classifier(self, names: list[str], last: str) -> tuple[str, int]:
        """Every other matrix is a dense layer, in the order of their names; how many have one behind them."""
        weights = [name for name in names if name.endswith("weight")]
        biases = [name for name in names if name.endswith("bias")]
        strange = [name for name in names if name not in (*weights, *biases)]
        strange += [name for name in weights if self._tensors[name].ndim not in (2, 4)]
        if strange:
            raise WeightsError(f"{self._path}: not a MobileNetV2: {strange[0]}: no layer of that family has it")
        for number, name in enumerate(weights):
            weight = self._float(name)
            bias = name.removesuffix("weight") + "bias"
            label = name.rpartition(".")[0] or name
            last = self._add(
                Dense(
                    name=f"dense{number}",
                    inputs=(last,),
                    label=label,
                    weight=weight.reshape(weight.shape[:2]) if weight.size == np.prod(weight.shape[:2]) else weight,
                    bias=self._float(bias) if bias in biases else None,
                )
            )
            if number < len(weights) - 1:
                last = self._add(Clip(name=f"dense{number}.relu", inputs=(last,), label=label, low=0.0, high=inf))
        return last, max(len(weights) - 1, 0)

    def _add(self, layer: Layer) -> str:
        self._layers[layer.name] = layer
        return layer.name

    def _tensor(self, name: str, axes: int) -> Array:
        if name not in self._ours:
            layer, _, part = name.rpartition(".")
            raise WeightsError(f"{self._path}: not a MobileNetV2: it has no tensor for {part} of {layer}")
        value = np.asarray(self._ours[name], np.float32)
        if value.ndim != axes:
            raise WeightsError(
                f"{self._path}: not a MobileNetV2: {self._labels[name.rpartition('.')[0]]} is {value.shape}"
            )
        return value

    def _float(self, name: str) -> Array:
        return np.asarray(self._tensors[name], np.float32)


def _has_rows_of(blocks: list[Block], repeats: tuple[int, ...]) -> bool:
    """Whether so many blocks in turn are equal: narrow networks have two of the paper's rows in one width."""
    turns = list(accumulate(repeats, initial=0))
    rows = [blocks[start:end] for start, end in pairwise(turns)]
    return turns[-1] == len(blocks) and all(
        len(set(row[1:])) <= 1 and row[-1].channels == row[0].channels for row in rows
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name count as numbers: ``features.10`` stands behind ``features.9``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", name)]


def _leaf(layer: str, kinds: Mapping[str, str], leaf: str) -> str | None:
    return f"{layer}.{kinds[leaf]}" if leaf in kinds else None


def _torchvision(names: list[str]) -> dict[str, str]:
    """``features.N``: the stem, blocks with ``conv.``, the head; convolutions and BatchNorms take turns in each."""
    groups: dict[int, dict[str, list[str]]] = {}
    for name in names:
        match = re.fullmatch(r"features\.([0-9]{1,4})\.(?:conv\.)?((?:[0-9]{1,4}\.){1,2})([a-z_]+)", name)
        if match:
            groups.setdefault(int(match[1]), {}).setdefault(match[2], []).append(name)
    found: dict[str, str] = {}
    for number, (index, layers) in enumerate(sorted(groups.items())):
        is_block = any(name.startswith(f"features.{index}.conv.") for names in layers.values() for name in names)
        block = f"block{number - 1}."
        ordered = sorted(layers, key=_natural)
        folded = not any(name.endswith("running_var") for names in layers.values() for name in names)
        each = 1 if folded else 2
        roles = {2: _DEPTHWISE, 3: _EXPANDED}.get(len(ordered) // each, ()) if is_block else ("",)
        titles = [f"{block}{role}" if is_block else "head" if number else "stem" for role in roles]
        for position, layer in enumerate(ordered[: each * len(titles)]):
            kinds = _CONVOLUTION if position % each == 0 else _NORM
            for name in layers[layer]:
                our = _leaf(titles[position // each], kinds, name.rpartition(".")[2])
                if our is not None:
                    found[name] = our
    return found


def _timm(names: list[str]) -> dict[str, str]:
    """``conv_stem``, ``blocks.STAGE.REPEAT``, ``conv_head``."""
    top = {"conv_stem": "stem", "bn1": "stem", "conv_head": "head", "bn2": "head"}
    separable = {"conv_dw": "dw", "bn1": "dw", "conv_pw": "project", "bn2": "project"}
    inverted = {
        "conv_pw": "expand", "bn1": "expand", "conv_dw": "dw", "bn2": "dw", "conv_pwl": "project", "bn3": "project",
    }  # fmt: skip
    pattern = re.compile(r"blocks\.([0-9]{1,4})\.([0-9]{1,4})\.([a-z0-9_]+)\.([a-z_]+)")
    matches = {name: match for name in names if (match := pattern.fullmatch(name))}
    places = sorted({(int(match[1]), int(match[2])) for match in matches.values()})
    expanded = {(int(match[1]), int(match[2])) for match in matches.values() if match[3] == "conv_pwl"}
    found: dict[str, str] = {}
    for name in names:
        layer, _, leaf = name.rpartition(".")
        if name in matches:
            place = int(matches[name][1]), int(matches[name][2])
            layer = matches[name][3]
            role = (inverted if place in expanded else separable).get(layer)
            title = None if role is None else f"block{places.index(place)}.{role}"
        else:
            title = top.get(layer)
        our = title and _leaf(title, _NORM if layer.startswith("bn") else _CONVOLUTION, leaf)
        if our:
            found[name] = our
    return found


def _transformers(names: list[str]) -> dict[str, str]:
    """``conv_stem`` has the stem and the first block; ``layer.N`` the others; ``conv_1x1`` is the head."""
    roles = {"expand_1x1": "expand", "conv_3x3": "dw", "reduce_1x1": "project"}
    pattern = re.compile(
        r"(conv_stem|layer\.[0-9]{1,4}|conv_1x1)\.(?:([a-z0-9_]+)\.)?(convolution|normalization)\.([a-z_]+)"
    )
    found: dict[str, str] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if not match:
            continue
        group, inner, kind, leaf = match.groups()
        number = int(group.partition(".")[2]) + 1 if group.startswith("layer.") else 0
        title = f"block{number}.{roles[inner]}" if inner in roles else "head" if group == "conv_1x1" else "stem"
        our = _leaf(title, _CONVOLUTION if kind == "convolution" else _NORM, leaf)
        if our:
            found[name] = our
    return found


def _ours(names: list[str]) -> dict[str, str]:
    pattern = re.compile(r"(stem|head|block[0-9]{1,4}\.(expand|dw|project))\.(weight|bias|gamma|beta|mean|var)")
    return {name: name for name in names if pattern.fullmatch(name)}


_DIALECTS = (
    _Dialect("transformers", "conv_stem.first_conv.convolution.weight", "same", 1e-3, _transformers),
    _Dialect("timm", "conv_stem.weight", "symmetric", 1e-5, _timm),
    _Dialect("torchvision", "features.0.0.weight", "symmetric", 1e-5, _torchvision),
    _Dialect("mnv2c", "stem.weight", "same", 1e-3, _ours),
)
