"""A trained model's file as a spec and weights of ours, and what is to be said of it.

What comes in: a path, and what the user knows that the file does not say. What goes out: an ``Imported``, of which
nothing is written yet; ``WeightsError``, one line, for a model of another family, ``SpecError`` where an override is
wrong.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array
from mnv2c.spec.frontend import parameter_shapes
from mnv2c.spec.table import PerChannel, Spec, read_spec
from mnv2c.spec.yaml_writer import write_spec
from mnv2c.weights.fit import META, Trained, fit
from mnv2c.weights.layers import Network
from mnv2c.weights.reading import read_network
from mnv2c.weights.recognise import Recognised, recognise
from mnv2c.weights.table import PAPER
from mnv2c.weights.units import MisfitError


@dataclass(frozen=True)
class Imported:
    """``spec`` and ``weights`` are what a build takes; ``network`` and ``found`` what they were made of."""

    path: Path
    network: Network
    found: Recognised
    spec: Spec
    weights: dict[str, Array]

    def yaml(self) -> str:
        """The text of the spec's file."""
        return write_spec(self.spec, comments=[f"{WRITTEN_BY} of {self.path.name}: {self.network.origin}"])

    def npz(self) -> bytes:
        """The content of the weights' file: the same from the same model."""
        meta = {"padding": self.spec.padding, "bn_eps": float(self.spec.batchnorm_epsilon)}
        stream = io.BytesIO()
        np.savez(stream, **self.weights, **{META: np.array(json.dumps(meta))})  # type: ignore[arg-type]
        return stream.getvalue()


WRITTEN_BY = "written by mnv2c import"
"""How the files of ours begin; others are never replaced."""


def import_model(path: Path, name: str, *, overrides: Sequence[str] = (), softmax: bool = False) -> Imported:
    """The model in ``path`` as a spec called ``name``; ``softmax`` has the library end in one."""
    network = read_network(path)
    found = found_in(path, network, name)
    spec = read_spec(write_spec(_with_softmax(found.spec) if softmax else found.spec), f"{name}.yaml", overrides)
    if network.layout is not None and spec.padding not in found.paddings:
        raise WeightsError(f"{path}: its zeros are those of padding {found.spec.padding}, not of {spec.padding}")
    weights = fit(path, found.weights, parameter_shapes(spec, found.weights))
    return Imported(path, network, found, spec, weights)


def found_in(path: Path, network: Network, name: str) -> Recognised:
    """What ``recognise`` finds; WeightsError that names the first layer of another family."""
    try:
        return recognise(network, name)
    except MisfitError as misfit:
        raise WeightsError(f"{path}: not a MobileNetV2: {' '.join(str(misfit).split())}") from misfit


def _with_softmax(spec: Spec) -> Spec:
    if not spec.classifier:
        raise WeightsError("--softmax is for networks that classify; this one has no classifier")
    *rows, last = spec.classifier
    return replace(spec, classifier=(*rows, replace(last, activation="softmax")))


def load_from_model(path: Path, spec: Spec) -> dict[str, Array]:
    """The weights of the model in ``path`` for ``spec``; WeightsError with every fault where they are for another."""
    network = read_network(path)
    found = found_in(path, network, spec.name)
    trained = Trained(padding=spec.padding, batchnorm_epsilon=spec.batchnorm_epsilon)
    tensors: dict[str, Any] = dict(found.weights)
    if network.layout is not None:
        padding = spec.padding if spec.padding in found.paddings else found.spec.padding
        epsilon = found.spec.batchnorm_epsilon
        tensors[META] = np.array(json.dumps({"padding": padding, "bn_eps": float(epsilon)}))
    weights = fit(path, tensors, parameter_shapes(spec, found.weights), spec=trained)
    faults = _differences(spec, found, network)
    if faults:
        raise WeightsError("\n    ".join([f"{path}: these weights are for another network:", *faults]))
    return weights


def _differences(spec: Spec, found: Recognised, network: Network) -> list[str]:
    """What shapes do not show: strides, activations, and preprocessing where the file has it."""
    faults = []
    ours, theirs = (
        [stride for row in one.bottlenecks for stride in (row.s, *[1] * (row.n - 1))] for one in (spec, found.spec)
    )
    ours, theirs = [spec.stem.s, *ours], [found.spec.stem.s, *theirs]
    if network.layout is not None and ours != theirs:
        faults.append(f"strides {theirs} of stem and blocks, the spec says {ours}")
    wanted, has = ([row.activation for row in one.classifier[:-1]] for one in (spec, found.spec))
    if wanted != has:
        faults.append(f"activations {has} between the dense layers, the spec says {wanted}")
    if found.preprocessing_known and (spec.input.mean, spec.input.scale) != (
        found.spec.input.mean,
        found.spec.input.scale,
    ):
        mean, scale = (option(value) for value in (found.spec.input.mean, found.spec.input.scale))
        faults.append(f'other preprocessing; give --set "mean={mean}" --set "scale={scale}"')
    return faults


def option(values: PerChannel) -> str:
    """A mean or a scale as ``--set`` takes it."""
    return f"{values[0]:g}" if len(set(values)) == 1 else f"[{', '.join(f'{value:g}' for value in values)}]"


def describe(imported: Imported) -> tuple[dict[str, str], list[str]]:
    """What was recognised, by its name; and what the file does not say, each with what was taken and the option that
    sets it."""
    spec, found, network = imported.spec, imported.found, imported.network
    folded = {0: f"not folded, epsilon {spec.batchnorm_epsilon:g}", found.convolutions: "folded into the convolutions"}
    facts = {
        "format": network.origin,
        "table": _table(spec),
        "input": f"RGB, {spec.input.height}x{spec.input.width}"
        + (f", {network.layout} in the file" if network.layout else ""),
        "classifier": _classifier(imported),
        "activation": "ReLU6",
        "padding": f"{spec.padding}, as {'TensorFlow' if spec.padding == 'same' else 'PyTorch'}",
        "batchnorm": folded.get(found.folded, f"folded in {found.folded} of {found.convolutions} convolutions"),
    }
    if found.preprocessing_known:
        facts["preprocessing"] = f"x = (pixel - {option(spec.input.mean)}) / {option(spec.input.scale)}"
    if len(found.epsilons) > 1:
        facts["batchnorm"] += f" (the file has {', '.join(f'{one:g}' for one in found.epsilons)}; var makes up for it)"
    if network.notes:
        facts["changed"] = "; ".join(network.notes)
    return facts, _unknown(imported)


def _table(spec: Spec) -> str:
    is_paper = tuple(row.c for row in spec.bottlenecks) == PAPER
    blocks = sum(row.n for row in spec.bottlenecks)
    return (
        f"the paper's, width multiplier {spec.width_multiplier:g}, {blocks} blocks"
        if is_paper
        else f"not the paper's channels: {len(spec.bottlenecks)} rows, {blocks} blocks, as they are"
    )


def _classifier(imported: Imported) -> str:
    rows = imported.spec.classifier
    if not rows:
        return f"none: the mean over the map, {imported.spec.head_channels} features"
    hidden = "".join(f"{row.c} features{_activated(row.activation)}, " for row in rows[:-1])
    softmax = ", then softmax" if rows[-1].activation == "softmax" else ""
    left_out = "" if softmax or not imported.found.softmax else "; its softmax is left out (--softmax keeps it)"
    return f"{hidden}{rows[-1].c} classes{softmax}{left_out}"


def _activated(activation: str | None) -> str:
    return {"relu": " with ReLU", "relu6": " with ReLU6"}.get(activation or "", "")


def _unknown(imported: Imported) -> list[str]:
    spec, found = imported.spec, imported.found
    lines = list(imported.network.assumed)
    if not found.resolution_known:
        lines.append(f"resolution: {spec.input.height}x{spec.input.width} taken; else --set resolution=N")
    if not found.preprocessing_known:
        mean, scale = option(spec.input.mean), option(spec.input.scale)
        whose = "TensorFlow" if found.spec.padding == "same" else "PyTorch"
        lines.append(
            f"preprocessing: x = (pixel - {mean}) / {scale} taken, usual in {whose}; else "
            '--set "mean=[R, G, B]" --set "scale=[R, G, B]"'
        )
    return lines
