"""``manifest.json``: what a built library says of itself, written and read here alone.

What comes in: a ``Manifest``, or a directory that ``mnv2c build`` wrote. What goes out: its bytes, or the ``Manifest``;
and what else ``validate`` and ``bench`` need: the ONNX reference, and pixels normalised as the library does it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mnv2c.backends import Backend
from mnv2c.errors import LibraryError
from mnv2c.files import read_ordinary
from mnv2c.ir.graph import Array
from mnv2c.precision import Precision

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
MANIFEST = "manifest.json"
_DIGEST = "sha256"


@dataclass(frozen=True)
class Output:
    """One output of the network: its edge in the graph; ``shape`` begins with the batch."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"


@dataclass(frozen=True)
class Interface:
    """How a program calls the library.

    ``identifier`` is the C prefix and the stem of the files' names; ``instruction_sets`` stand best first;
    ``input_shape`` is (batch, height, width, channels), of float32 or, for raw RGB, of uint8; ``outputs`` stand in the
    order of the C functions' arguments.
    """

    identifier: str
    instruction_sets: tuple[str, ...]
    input_shape: tuple[int, int, int, int]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Preprocessing:
    """x = (pixel - mean) / scale, one of each per channel."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class SpecSource:
    """The layer table: its text, and the SHA-256 of that in hexadecimal."""

    sha256: str
    text: str


@dataclass(frozen=True)
class WeightsSource:
    """A file's name and SHA-256, or the seed of an initialisation; ``origin`` says which in words."""

    origin: str
    sha256: str | None
    seed: int | None


@dataclass(frozen=True)
class TargetSource:
    """What the library was built for: ``triple`` is LLVM's, ``link`` the linker's, with its glibc floor."""

    name: str
    triple: str
    link: str

    @property
    def architecture(self) -> str:
        """As ``uname -m`` names it: ``x86_64``, ``aarch64``, ``armv7l``."""
        return self.triple.split("-")[0]


@dataclass(frozen=True)
class Layer:
    """A layer's name in the graph, the name of the kernel that computes it, its multiply-adds, and the bytes of all
    that it reads and writes, once each.

    ``band`` is how many rows of its block's output are computed at a time, where what is inside the block never exists
    whole, and ``chain`` the number that the layers of such a block have in common; else None.
    """

    name: str
    kernel: str
    macs: int
    moved_bytes: int
    band: int | None = None
    chain: int | None = None


@dataclass(frozen=True)
class Block:
    """What a block of a kernel takes on a GPU, as its compiler says: ``threads``, ``registers`` of each, and bytes that
    each spills; ``shared_bytes`` of memory."""

    threads: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Kernel:
    """How one kernel is scheduled for one instruction set.

    ``origin``: by a tuning record of this very workload (``exact``), by one of another workload (``transferred``), or
    by ``rule``. ``tasks`` is how many parts of it threads can share, on a GPU blocks: each takes ``block``, which is
    none on a CPU and where PTX is left to the driver.
    """

    origin: Literal["exact", "transferred", "rule"]
    schedule: str
    tasks: int
    block: Block | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the library is and how it came about; the same from the same inputs.

    ``versions`` are those of the tools, by name; ``kernels`` by instruction set and name; ``files`` has the SHA-256 in
    hexadecimal of every other file by relative path with ``/``: ``codegen.library.Library.of`` fills it in.
    """

    format: Literal["mnv2c manifest 3"] = "mnv2c manifest 3"
    """Tells our manifest from other people's, and its version from later ones."""
    name: str
    precision: Precision
    backend: Backend
    interface: Interface
    preprocessing: Preprocessing
    spec: SpecSource
    weights: WeightsSource
    versions: Mapping[str, str]
    target: TargetSource
    arena_bytes: int
    weights_bytes: int
    layers: tuple[Layer, ...]
    kernels: Mapping[str, Mapping[str, Kernel]]
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The content of ``manifest.json``, in UTF-8: the fields, and last of all the SHA-256 of them."""
        return signed(asdict(self))

    @staticmethod
    def from_json(content: bytes) -> Manifest:
        """The inverse of ``to_json``. ValueError where ``content`` is anything else, be it by one byte."""
        try:
            fields = json.loads(content)
            if isinstance(fields, dict):
                fields.pop(_DIGEST, None)
            manifest: Manifest = _as(Manifest, fields)
        except (OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from error
        _check(manifest)
        if manifest.to_json() != content:
            raise ValueError("changed since it was written")
        return manifest


def signed(fields: Mapping[str, Any]) -> bytes:
    """``fields`` as a manifest has them, with the digest that tells whether anybody has changed them."""
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    return (json.dumps({**fields, _DIGEST: digest}, indent=2) + "\n").encode()


def read_manifest(directory: Path) -> Manifest:
    """What the build in ``directory`` says of itself. LibraryError where there is none, or it is damaged."""
    path = directory / MANIFEST
    if not directory.is_dir():
        command = f"mnv2c build SPEC --out {shlex.quote(str(directory))}"
        raise LibraryError(f"{directory}: no such directory; `{command}` makes one")
    try:
        return Manifest.from_json(read_ordinary(path))
    except FileNotFoundError as error:
        raise LibraryError(f"{directory}: no {MANIFEST} in it, so it is not a library that mnv2c built") from error
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LibraryError(f"{path}: changed, damaged, or not mnv2c's; build the library again") from error


def read_reference(directory: Path) -> onnx.ModelProto:
    """The ONNX model of the network before any pass. LibraryError where it is missing, or not as it was built."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    manifest = read_manifest(directory)
    content = read_file(directory, manifest, MODEL)
    interface, path = manifest.interface, directory / MODEL
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise LibraryError(f"{path}: no ONNX model; build the library again") from error
    if [_shape(one) for one in model.graph.input] != [interface.input_shape] or {
        one.name: _shape(one) for one in model.graph.output
    } != {output.name: output.shape for output in interface.outputs}:
        raise LibraryError(f"{path}: of another network than the library; build it again")
    return model


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(extent.dim_value for extent in value.type.tensor_type.shape.dim)


def read_file(directory: Path, manifest: Manifest, name: str) -> bytes:
    """The content of a file of the build, by its relative path. LibraryError where it is missing, or not as it was
    built."""
    path = directory / name
    try:
        content = read_ordinary(path)
    except FileNotFoundError as error:
        raise LibraryError(f"{path}: missing; build the library again") from error
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror}") from error
    if manifest.files.get(name) != hashlib.sha256(content).hexdigest():
        raise LibraryError(f"{path}: not as it was built; build the library again")
    return content


def input_shape(directory: Path) -> tuple[int, int, int]:
    """Height, width and channels of an image that the library takes. LibraryError as ``read_manifest``."""
    _, height, width, channels = read_manifest(directory).interface.input_shape
    return height, width, channels


def normalise(directory: Path, pixels: NDArray[np.uint8]) -> Array:
    """``(pixel - mean) / scale``, float32, as the library in ``directory`` does it.

    ``pixels`` are uint8 of any shape, channels last; the result has the same. LibraryError as ``read_manifest``.
    """
    preprocessing = read_manifest(directory).preprocessing
    mean, scale = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.scale))
    return (pixels.astype(np.float32) - mean) / scale


def _as(kind: Any, value: object) -> Any:
    """``value`` from JSON as the annotation ``kind`` says, to the last field; ValueError where it is something else."""
    form, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = _kinds_of_fields(kind)
        if isinstance(value, dict) and value.keys() == kinds.keys():
            return kind(**{name: _as(kinds[name], one) for name, one in value.items()})
    elif form is tuple and isinstance(value, list):
        kinds_of_items = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_as(one, item) for one, item in zip(kinds_of_items, value, strict=True))
    elif form is Mapping and isinstance(value, dict):
        return {name: _as(parts[1], one) for name, one in value.items()}
    elif form is UnionType:  # X | None
        return None if value is None else _as(parts[0], value)
    elif form is Literal and (type(value), value) in [(type(one), one) for one in parts]:
        return value
    elif kind is float and type(value) in (int, float) and math.isfinite(number := float(value)):  # type: ignore[arg-type]
        return number
    elif kind in (int, str) and type(value) is kind:
        return value
    raise ValueError(f"expected {kind}")


@functools.cache
def _kinds_of_fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(manifest: Manifest) -> None:
    """ValueError where fields of the right types cannot be what a build wrote."""
    interface, preprocessing = manifest.interface, manifest.preprocessing
    names = [output.name for output in interface.outputs]
    shapes = [interface.input_shape, *(output.shape for output in interface.outputs)]
    channels = interface.input_shape[-1]
    right = (
        re.fullmatch(r"[A-Za-z]\w*", interface.identifier, re.ASCII)  # part of paths and of C
        and interface.instruction_sets
        and names
        and len(set(names)) == len(names)
        and all(shape and min(shape) > 0 for shape in shapes)
        and len(preprocessing.mean) == len(preprocessing.scale) == channels
        and all(preprocessing.scale)
        and all(".." not in PurePosixPath(path).parts and path[:1] not in ("", "/") for path in manifest.files)
    )
    if not right:
        raise ValueError("fields that contradict each other")
