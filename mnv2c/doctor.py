"""Says whether this machine has what mnv2c needs, and how to get what it lacks: ``mnv2c doctor``.

What comes in: nothing. What goes out: one ``Finding`` per thing; those that are required decide the exit status.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from mnv2c import cache, processes
from mnv2c.backends.relay import environment
from mnv2c.deploy.gpu_here import gpu_here
from mnv2c.deploy.native import cpu_name
from mnv2c.errors import Mnv2cError, TargetError
from mnv2c.scratch import Scratch
from mnv2c.targets import X86, native_target
from mnv2c.toolchain import compile_c, find_qemu, find_zig

_PYTHON = (3, 10)
_IMPORTS = {"apache-tvm": "tvm", "apache-tvm-ffi": "tvm_ffi", "pillow": "PIL", "pyyaml": "yaml"}
_OPTIONAL_PACKAGES = {
    "onnxruntime": "validates faster, and is what `bench --against onnxruntime` compares with: pip install onnxruntime",
    "openvino": "is what `bench --against openvino` compares with: pip install openvino",
    "nvidia-cuda-nvrtc-cu12": "compiles for NVIDIA GPUs (--target cuda): pip install 'mnv2c[cuda]'",
    "ai-edge-litert": "is what `bench --against litert` compares with (XNNPACK): pip install ai-edge-litert",
    "safetensors": "reads trained models of that format (mnv2c import): pip install 'mnv2c[import]'",
    "h5py": "reads Keras models, .h5 and .keras (mnv2c import): pip install 'mnv2c[import]'",
}
_OPTIONAL_TOOLS = {
    "cc": "compiles your own programs against a library (mnv2c itself needs none): apt install gcc",
    "pkg-config": "tells a C compiler where a library lies: apt install pkg-config",
    "cmake": "builds programs that say find_package: apt install cmake",
    "qemu-aarch64": "counts instructions (mnv2c cost): apt install qemu-user",
    "llvm-mca": "estimates an Arm core's cycles (mnv2c cost): apt install llvm-19",
    "ssh": "runs libraries on a board (--runner ssh:USER@HOST): apt install openssh-client",
}
_WIDTH = 2 + max(map(len, _OPTIONAL_PACKAGES))


@dataclass(frozen=True)
class Finding:
    """``state`` is what was found; ``advice`` says how to get it, empty where nothing is wrong."""

    name: str
    required: bool
    state: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


def examine() -> Iterator[Finding]:
    """Looks at one thing after the other; the imports of packages take some seconds."""
    yield _python()
    yield from _packages()
    yield _compiler()
    yield _processor()
    for name, advice in _OPTIONAL_PACKAGES.items():
        version = _version(name)
        yield Finding(name, False, version or "not installed", "" if version else advice)
    for name, advice in _OPTIONAL_TOOLS.items():
        path = shutil.which(name)
        yield Finding(name, False, path or "not found", "" if path else advice)
    for architecture in ("aarch64", "armv7l"):
        yield _emulator(architecture)
    yield _gpu()
    yield _relay()
    yield _cache()


def format_finding(finding: Finding) -> str:
    """One line, a second one for the advice."""
    mark = "ok" if finding.ok else "MISSING" if finding.required else "-"
    line = f"{mark:8}{finding.name:{_WIDTH}}{finding.state}"
    return line if finding.ok else f"{line}\n{'':8}{'':{_WIDTH}}{finding.advice}"


def _python() -> Finding:
    version = platform.python_version()
    wanted = ".".join(map(str, _PYTHON))
    advice = "" if sys.version_info >= _PYTHON else f"install Python {wanted} or newer"
    return Finding("python", True, version, advice)


def _packages() -> Iterator[Finding]:
    """Each package that mnv2c is declared to need, in the version it is pinned to, and whether it can be imported."""
    for requirement in importlib.metadata.requires("mnv2c") or []:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*([^;]*)", requirement)
        if match is None:  # with a `; extra == ...`: optional
            continue
        name, wanted = match[1], match[2].strip()
        install = f"pip install '{name}{wanted}'"
        version = _version(name)
        if version is None:
            yield Finding(name, True, "not installed", install)
        elif wanted.startswith("==") and version != wanted.removeprefix("=="):
            yield Finding(name, True, f"{version}, but mnv2c is made for {wanted.removeprefix('==')}", install)
        else:
            fault = _import_fault(_IMPORTS.get(name, name))
            state = version if not fault else f"{version}, which cannot be imported: {fault}"
            yield Finding(name, True, state, fault and f"pip install --force-reinstall '{name}{wanted}'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_fault(module: str) -> str:
    """Why a package cannot be imported, empty where it can; in a process of its own, for it may crash."""
    done = processes.run([sys.executable, "-c", f"import {module}"])
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ends Python with status {done.returncode}"


def _compiler() -> Finding:
    """Compiles a line of C: that needs zig, its cache directory and room in the temporary one."""
    try:
        toolchain = find_zig(X86.zig_triple)
        with Scratch() as scratch:
            (scratch / "probe.c").write_text("int mnv2c_probe(void) { return 0; }\n", encoding="utf-8")
            compile_c(toolchain, scratch, "probe.c")
    except Mnv2cError as error:
        return Finding("C compilation", True, "fails", str(error))
    except OSError as error:
        advice = f"{error.strerror}; set TMPDIR to a directory that can be written"
        return Finding("C compilation", True, "fails", advice)
    return Finding("C compilation", True, f"works, zig {toolchain.version}")


def _emulator(architecture: str) -> Finding:
    """Runs libraries for boards here (``--runner qemu``)."""
    name = f"qemu, {architecture}"
    try:
        return Finding(name, False, find_qemu(architecture))
    except Mnv2cError as error:
        return Finding(name, False, "not found", str(error))


def _relay() -> Finding:
    """Another way to the same kernels (``--backend relay``)."""
    if environment.is_installed():
        return Finding("Relay", False, f"TVM {environment.TVM} in {environment.directory()}")
    return Finding("Relay", False, "not installed", f"a second graph IR (--backend relay): {environment.INSTALL}")


def _cache() -> Finding:
    """It grows with the targets that are built for, not with the builds."""
    try:
        state = f"{cache.size() / 1e6:.1f} MB in {cache.directory()} (mnv2c doctor --clean empties it)"
        return Finding("cache", False, state)
    except Mnv2cError as error:
        return Finding("cache", False, "none", str(error))


def _gpu() -> Finding:
    """Runs libraries for GPUs; building them needs none."""
    try:
        gpu = gpu_here()
    except TargetError as error:
        return Finding("NVIDIA GPU", False, str(error), "runs libraries for GPUs here: driver 525 or newer")
    version = f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
    return Finding("NVIDIA GPU", False, f"{gpu.name}, sm_{gpu.capability}, driver for CUDA {version}")


def _processor() -> Finding:
    """Building for other machines works anywhere; running here needs an instruction set that libraries have."""
    try:
        isa = native_target().instruction_sets[0]
    except Mnv2cError as error:
        return Finding("processor", False, cpu_name(), str(error))
    return Finding("processor", False, f"{cpu_name()}, up to {isa.mcpu} (--instruction-set {isa.name})")
