"""Reads what Keras saves, ``.h5`` of any version and ``.keras``, without Keras.

What comes in: a path. What goes out: its ``Network``, from the graph that the file has as JSON and the tensors beside
it. Models inside models are taken apart; layers that do nothing to an image when they are not trained are left out.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv2c.errors import ToolError, WeightsError
from mnv2c.weights.hdf5 import read_hdf5
from mnv2c.weights.keras_layers import Graph, Tensors
from mnv2c.weights.layers import MOST_BYTES, Network

_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_LONGEST_CONFIG = 1 << 24
_MOST_FILE = 2 * MOST_BYTES  # with what an optimizer keeps
_ROOT = "model_weights/"


def read_h5(path: Path) -> Network:
    """A whole model in HDF5; WeightsError, one line, where it cannot be read or holds weights alone."""
    if path.stat().st_size > _MOST_FILE:
        raise WeightsError(f"{path}: {path.stat().st_size >> 20} MiB: this is no MobileNetV2")
    arrays, text = _hdf5(path, path)
    if not text:
        raise WeightsError(
            f"{path}: holds no model, only weights or something else; save the whole model: model.save('NAME.keras')"
        )
    tensors = {name.removeprefix(_ROOT): value for name, value in arrays.items() if name.startswith(_ROOT)}
    return _network(path, text, _ByName(tensors), "Keras .h5")


def read_keras(path: Path) -> Network:
    """A Keras 3 archive: JSON, and HDF5 inside a ZIP."""
    try:
        with zipfile.ZipFile(path) as archive:
            text = _member(archive, _CONFIG, _LONGEST_CONFIG).decode("utf-8", "replace")
            weights = _member(archive, _WEIGHTS, _MOST_FILE)
            metadata = _member(archive, _METADATA, _LONGEST_CONFIG) if _METADATA in archive.namelist() else b"{}"
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise WeightsError(f"{path}: damaged, or no Keras model ({' '.join(str(error).split())})") from error
    arrays, _ = _hdf5(path, weights)
    version = re.search(rb'"keras_version": *"([0-9.]{1,20})"', metadata)
    origin = f"Keras {version[1].decode()}" if version else "Keras"
    return _network(path, text, _ByNumber(arrays), origin)


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """ValueError where it is larger than ``most``, whatever the archive says."""
    with archive.open(name) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{name} is larger than {most >> 20} MiB")
    return content


def _hdf5(path: Path, source: Path | bytes) -> tuple[dict[str, NDArray[Any]], str]:
    try:
        return read_hdf5(source)
    except ToolError as error:
        raise ToolError(f"{path}: {error}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _network(path: Path, text: str, tensors: Tensors, origin: str) -> Network:
    try:
        return Graph(json.loads(text), tensors).network(origin)
    except RecursionError as error:
        raise WeightsError(f"{path}: models inside models without an end") from error
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: its description of the model is no JSON") from error
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise WeightsError(f"{path}: its description of the model is not as Keras writes it ({error!r})") from error
    except ValueError as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split())}") from error


class _ByName:
    """``.h5``: ``TOP/.../LAYER/KIND``, where TOP is the layer of the outermost model, and KIND may end in ``:0``."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._found: dict[tuple[str, str, str], list[NDArray[Any]]] = {}
        for path, value in tensors.items():
            top, *_, layer, kind = path.split("/") if path.count("/") > 1 else ("", "", "")
            self._found.setdefault((top, layer, kind.partition(":")[0]), []).append(value)

    def enter(self, containers: tuple[tuple[str, int], ...], names: tuple[str, ...], kinds: tuple[str, ...]) -> Any:
        """The tensors of the layer that is the last of ``names``, the path from the outermost model inwards."""
        values = []
        for kind in kinds:
            found = self._found.get((names[0], names[-1], kind), [])
            if len(found) > 1:
                raise ValueError(f"{names[-1]} has several tensors {kind}")
            values.append(found[0] if found else None)
        return values


class _ByNumber:
    """``.keras``: ``layers/KIND_NUMBER/.../vars/INDEX``, where layers of one class are counted in each model."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = {path.replace("_layer_checkpoint_dependencies\\", "layers/"): v for path, v in tensors.items()}

    def enter(self, containers: tuple[tuple[str, int], ...], names: tuple[str, ...], kinds: tuple[str, ...]) -> Any:
        """As ``_ByName.enter``; ``containers`` has class and number of each of ``names`` in its model."""
        folders = [f"{_snake(name)}_{number}" if number else _snake(name) for name, number in containers]
        place = "/".join(f"layers/{folder}" for folder in folders)
        return [self._tensors.get(f"{place}/vars/{index}") for index in range(len(kinds))]


def _snake(name: str) -> str:
    """As Keras names folders after classes: ``BatchNormalization`` is ``batch_normalization``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
