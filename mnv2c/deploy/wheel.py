"""A built library as a wheel, to be installed where there is numpy and no mnv2c.

What comes in: a ``Build``. What goes out: a ``Wheel``, the same bytes from the same build: the shared library,
``binding``, and a module that puts them together; as PyPA's "Binary distribution format" has it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import keyword
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from mnv2c import __version__
from mnv2c.deploy.network import Build
from mnv2c.errors import LibraryError

_MODULE = '''\
"""@network@, compiled by mnv2c @version@ for @target@, its weights inside. It needs numpy alone.

    import @module@

    with @module@.load(threads=4) as net:
        logits = net.run_image(frame, "bgr")  # of any size; or net.run_rgb(pixels), net.run(x)
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from .binding import Network, NetworkError

__all__ = ["Network", "NetworkError", "load"]


def load(*, threads: int = 1, instruction_set: str | None = None, cpus: list[int] | None = None) -> Network:
    """``threads`` share the work, the caller included, and run on the processors ``cpus`` (default: any);
    ``instruction_set`` is one of @instruction_sets@ (default: the best that this machine has)."""
    library = ctypes.CDLL(str(Path(__file__).with_name("lib@module@.so")))
    return Network(
        library,
        "@module@",
        @input_shape@,
        @output_shapes@,
        threads=threads,
        instruction_set=instruction_set,
        cpus=cpus,
    )
'''

_METADATA = """\
Metadata-Version: 2.1
Name: @name@
Version: @version@
Summary: @network@ for @target@, compiled by mnv2c
Requires-Python: >=3.9
Requires-Dist: numpy
"""

_WHEEL = """\
Wheel-Version: 1.0
Generator: mnv2c @mnv2c@
Root-Is-Purelib: false
Tag: @tag@
"""

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment of a zip file
_MODE = 0o100644


@dataclass(frozen=True)
class Wheel:
    """``name`` of the file and its ``content``; ``module`` is what it is imported by, ``tag`` says where it runs."""

    name: str
    content: bytes
    module: str
    tag: str


def make_wheel(build: Build) -> Wheel:
    """LibraryError where the build lacks its shared library, that is damaged, or Python has a module of its name."""
    manifest, module = build.manifest, build.interface.identifier
    if keyword.iskeyword(module) or module in (*sys.stdlib_module_names, "numpy"):
        raise LibraryError(f"{build.directory}: {module} means something else to Python; give the spec another name")
    library = build.checked(build.shared_library).read_bytes()
    digest = hashlib.sha256(library).hexdigest()
    names = {
        "module": module,
        "name": re.sub("_+", "_", module).strip("_").lower(),
        "network": manifest.name,
        "target": manifest.target.name,
        "mnv2c": __version__,
        "version": f"{__version__}+sha{digest[:8]}",  # so that pip takes other weights for another version
        "tag": f"py3-none-{_platform(build, library)}",
        "instruction_sets": ", ".join(build.interface.instruction_sets),
        "input_shape": repr(build.interface.input_shape),
        "output_shapes": repr({output.name: output.shape for output in build.interface.outputs}),
    }
    about = f"{names['name']}-{names['version']}.dist-info"
    files = {
        f"{module}/__init__.py": _filled(_MODULE, names),
        f"{module}/binding.py": (resources.files("mnv2c.deploy") / "binding.py").read_bytes(),
        f"{module}/{build.shared_library.name}": library,
        f"{about}/METADATA": _filled(_METADATA, names),
        f"{about}/WHEEL": _filled(_WHEEL, names),
    }
    files[f"{about}/RECORD"] = _record(files, f"{about}/RECORD")
    return Wheel(f"{names['name']}-{names['version']}-{names['tag']}.whl", _zipped(files), module, names["tag"])


def _platform(build: Build, library: bytes) -> str:
    """By the glibc that the library was linked for, or that a compiler other than zig made it need."""
    minors = [int(build.manifest.target.link.rpartition(".")[2]), *map(int, re.findall(rb"GLIBC_2\.(\d+)\0", library))]
    return f"manylinux_2_{max(minors)}_{build.architecture}"


def _filled(text: str, names: Mapping[str, str]) -> bytes:
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()


def _record(files: Mapping[str, bytes], itself: str) -> bytes:
    lines = [f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()]
    return "".join([*lines, f"{itself},,\n"]).encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Not compressed: weights hardly shrink, and no two versions of zlib give the same bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path, content in files.items():
            info = zipfile.ZipInfo(path, _LONG_AGO)
            info.create_system, info.external_attr = 3, _MODE << 16  # as on Unix, wherever it is made
            file.writestr(info, content)
    return archive.getvalue()
