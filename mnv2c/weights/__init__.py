"""Where a graph's weights come from: a trained file of any format, or a seeded initialisation.

``reading`` has a reader for each format, which gives ``layers``; ``recognise`` finds the table in these, ``importing``
makes a spec of it, and ``fit`` judges the tensors.

What comes in: a path or none, the spec, a seed. What goes out: one float32 array per parameter, and their origin.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mnv2c.ir.graph import Array
from mnv2c.spec.frontend import parameter_shapes
from mnv2c.spec.table import Spec
from mnv2c.weights.fit import Trained, fit
from mnv2c.weights.importing import load_from_model
from mnv2c.weights.npz import read_npz
from mnv2c.weights.reading import NPZ, format_of, model_file
from mnv2c.weights.seeded import seeded_weights


@dataclass(frozen=True)
class WeightsOrigin:
    """For the screen and the manifest: a file's name (no folder) and SHA-256, or the seed of an initialisation."""

    description: str
    sha256: str | None = None
    seed: int | None = None

    def __str__(self) -> str:
        return self.description if self.sha256 is None else f"{self.description}, sha256 {self.sha256}"


def load_weights(path: Path | None, spec: Spec, seed: int) -> tuple[dict[str, Array], WeightsOrigin]:
    """The weights of ``path`` where one is given, else seeded ones; float32, named and shaped as ``parameter_shapes``.

    A file may be an .npz of our own names, or a trained model of any format that ``reading`` knows; it may hold each
    convolution with its BatchNorm or folded, and dense layers with a bias or without. Raises ``WeightsError`` where it
    cannot be read or does not fit ``spec``, or where ``seed`` is negative.
    """
    if path is None:
        return seeded_weights(spec, seed), WeightsOrigin(f"seeded initialisation, seed {seed}", seed=seed)
    file = model_file(path)
    if format_of(file) == NPZ:
        tensors = read_npz(file, lambda names: parameter_shapes(spec, names))
        trained = Trained(padding=spec.padding, batchnorm_epsilon=spec.batchnorm_epsilon)
        weights = fit(file, tensors, parameter_shapes(spec, tensors), spec=trained)
    else:
        weights = load_from_model(path, spec)
    return weights, WeightsOrigin(path.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
