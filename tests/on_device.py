"""Makes the files that ``tests/cuda/on_device.sh`` needs on a machine with a GPU and neither TVM nor Python::

    python tests/on_device.py FOLDER [TARGET [PRECISION]]       # cuda:sm_90 fp32
    FOLDER/on_device.sh                             # there

In it: examples of kernels with their operands and what they compute, a program that tries the calls on streams, and
1.0 at 224 for batches of 1, 8 and 32 with images and the logits of its ONNX reference: about 60 MB.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from command_line import succeed
from gpu_kernels import by_rule
from kernel_examples import FUSED, IN_FP16, ON_TENSOR_CORES, TRIED, example, tolerance
from shared_data import PHOTOGRAPHS, TRAINED
from small_library import SMALL

from mnv2c.deploy.manifest import normalise, read_manifest, read_reference
from mnv2c.kernels.cuda.device import CUDA
from mnv2c.kernels.cuda.lower import CudaKernel, program
from mnv2c.kernels.cuda.nvrtc import compile_cubin
from mnv2c.measure.images import read_rgb, seeded_image
from mnv2c.measure.validate import TOLERANCES
from mnv2c.precision import Precision
from mnv2c.reference.evaluator import Reference
from mnv2c.targets import target_named
from mnv2c.toolchain import find_toolchain, link_program
from mnv2c.workloads import Dense, Workload

_SOURCES = Path(__file__).parent / "cuda"
_IMAGES = 4
BATCHES = (1, 8, 32)
EXAMPLES: dict[Precision, tuple[Workload, ...]] = {"fp32": (*TRIED, *FUSED), "tf32": ON_TENSOR_CORES, "fp16": IN_FP16}


def make(
    folder: Path,
    target: str,
    *,
    network: Sequence[str],
    batches: Sequence[int],
    workloads: Sequence[Workload],
    precision: Precision = "fp32",
) -> list[CudaKernel]:
    """Fills ``folder``; ``network`` are the arguments of ``mnv2c build``. Returns the single kernels."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_SOURCES / "on_device.sh", folder)
    kernels = _kernels(folder, target, workloads)
    lines = [_network(folder, target, network, batch, precision) for batch in batches]
    (folder / "networks.txt").write_text("".join(lines), encoding="utf-8")
    for name in ("kernels_on_device", "network_on_device"):
        _program(folder, target, name)
    small = folder / "small"
    succeed("build", *SMALL, "--target", target, "--out", small)
    (static,) = (small / "lib").glob("*.a")
    _program(folder, target, "streams", "-I", str(small / "include"), str(static))
    shutil.rmtree(small)
    return kernels


def _kernels(folder: Path, target: str, workloads: Sequence[Workload]) -> list[CudaKernel]:
    """``kernels.cubin``, and as ``kernels_on_device.c`` reads them ``kernels.txt`` and ``kernels.bin``."""
    kernels = [by_rule(workload) for workload in workloads]
    isa = target_named(target).instruction_sets[0]
    (folder / "kernels.cubin").write_bytes(compile_cubin(program(kernels), isa.mcpu).code)
    data, lines = bytearray(), []
    for workload, kernel in zip(workloads, kernels, strict=True):
        inputs, constants, expected = example(workload)
        expected = expected.astype(workload.outputs[0].dtype)
        operands = [*inputs, *CUDA.pack(workload, constants), expected]
        relative, absolute = tolerance(workload)
        allowed = relative * float(np.abs(expected).max()) + absolute
        fields = [kernel.symbol, allowed, *kernel.grid, *kernel.block, len(kernel.operands)]
        for number in kernel.operands:
            operand = np.ascontiguousarray(operands[number])
            content, is_output = operand.tobytes(), number == len(operands) - 1
            fields += [len(data), len(content), operand.itemsize if is_output else 0]
            data += content
        lines.append(" ".join(map(str, fields)) + "\n")
    (folder / "kernels.bin").write_bytes(data)
    (folder / "kernels.txt").write_text("".join(lines), encoding="utf-8")
    return kernels


def _network(folder: Path, target: str, arguments: Sequence[str], batch: int, precision: Precision) -> str:
    """A library, images for it and their logits; the line of ``networks.txt``."""
    build = folder / "build"
    succeed(
        "build", *arguments, "--set", f"batch={batch}", "--target", target, "--precision", precision, "--out", build
    )
    interface = read_manifest(build).interface
    _, *shape = interface.input_shape
    library, images, logits = f"batch{batch}.so", "images.rgb", "images.logits"  # the same for every batch
    shutil.copy(build / "lib" / f"lib{interface.identifier}.so", folder / library)
    pixels = np.stack(_images(shape))
    reference = Reference(read_reference(build))
    whole = pixels[np.arange(-(-_IMAGES // batch) * batch) % _IMAGES]  # the reference takes its batch alone
    parts = [reference.run(normalise(build, whole[i : i + batch])) for i in range(0, len(whole), batch)]
    (name,) = (output.name for output in interface.outputs)
    computed = np.concatenate([part[name] for part in parts])[:_IMAGES]
    (folder / images).write_bytes(pixels.tobytes())
    (folder / logits).write_bytes(computed.astype(np.float32).tobytes())
    shutil.rmtree(build)
    sizes = f"{batch} {pixels[0].nbytes} {computed.shape[1]}"
    return f"{library} {interface.identifier} {sizes} {images} {logits} {TOLERANCES[precision]}\n"


def _images(shape: Sequence[int]) -> list[np.ndarray]:
    """Photographs where they are here and fit, else seeded ones."""
    found = sorted(PHOTOGRAPHS.glob("*.png"))[:_IMAGES]
    height, width, _ = shape
    if len(found) < _IMAGES or (height, width) != (224, 224):
        return [seeded_image(index, tuple(shape)) for index in range(_IMAGES)]
    return [read_rgb(path, height=height, width=width, fit="crop") for path in found]


def _program(folder: Path, target: str, name: str, *further: str) -> None:
    """From its source; runs on any Linux of the target's architecture with glibc 2.28."""
    shutil.copy(_SOURCES / "driver.h", folder)
    shutil.copy(_SOURCES / f"{name}.c", folder)
    inputs = [f"{name}.c", *further, "-ldl"]
    link_program(
        find_toolchain(target_named(target)), folder, inputs, output=name, static=False, flags=("-D_GNU_SOURCE",)
    )
    (folder / f"{name}.c").unlink()
    (folder / "driver.h").unlink()


if __name__ == "__main__":
    weights = ("--weights", str(TRAINED)) if TRAINED.exists() else ()
    given, defaults = sys.argv[1:], ("", "cuda:sm_90", "fp32")
    directory, target, precision = (*given, *defaults[len(given) :])
    folder = Path(directory)
    network = ("mnv2_1.0", "--set", "classes=1001", *weights)
    light = [
        one for one in EXAMPLES[precision] if one.macs < 1_000_000 or not isinstance(one, Dense)
    ]  # 5 MB of weights
    made = make(folder, target, network=network, batches=BATCHES, workloads=light, precision=precision)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(json.dumps(sizes, indent=2), f"\n{sum(sizes.values()) / 1e6:.1f} MB, {len(made)} kernels")
