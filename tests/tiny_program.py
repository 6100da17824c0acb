"""A Program written by hand: three layers, their kernels small C functions, and numpy's word for what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv2c.codegen.assemble import assemble, interface, kernels, layers
from mnv2c.codegen.program import Call, CompiledKernel, KernelObject, Operand, Program
from mnv2c.deploy.manifest import Manifest, Preprocessing, SpecSource, TargetSource, WeightsSource
from mnv2c.ir.graph import Padding, TensorType
from mnv2c.targets import V2, X86, InstructionSet, Target
from mnv2c.toolchain import compile_c, find_zig

HEIGHT, WIDTH, CHANNELS, CLASSES = 40, 6, 3, 7
SCALE = np.array([0.5, -1.0, 2.0], np.float32)
BIAS = np.array([0.1, 0.2, 0.3], np.float32)
WEIGHT = np.linspace(-1, 1, CLASSES * CHANNELS, dtype=np.float32).reshape(CLASSES, CHANNELS)
OFFSET = np.linspace(0, 1, CLASSES, dtype=np.float32)

# stem: x * scale + bias, inside a border of one row or column of zeros; mirror: its rows from right to left, plus
# themselves, through the scratch; classifier: the mean over pixels, times a matrix. A task is a row or a class.
_KERNELS = """
#include <stdint.h>
enum { H = 40, W = 6, C = 3, ROW = (W + 2) * C, CLASSES = 7 };
#define KERNEL(name) int32_t PREFIX_##name(void *const *operands, void *scratch, int32_t begin, int32_t end)
#define STEM(type, load)                                                                       \\
    const type *x = operands[0];                                                               \\
    const float *weight = operands[1], *bias = operands[2];                                    \\
    for (int32_t task = begin; task < end; task++) {                                           \\
        int32_t row = task % H;                                                                \\
        float *output = (float *)operands[3] + task / H * (H + 2) * ROW, *y = output + (row + 1) * ROW; \\
        if (row == 0) for (int i = 0; i < ROW; i++) output[i] = 0;                             \\
        if (row == H - 1) for (int i = 0; i < ROW; i++) y[ROW + i] = 0;                        \\
        for (int c = 0; c < C; c++) y[c] = y[ROW - C + c] = 0;                                 \\
        for (int i = 0; i < W * C; i++) y[C + i] = load(x[task * W * C + i]) * weight[i % C] + bias[i % C]; \\
    }                                                                                          \\
    (void)scratch;                                                                             \\
    return 0;
#define SAME(value) (value)
#define NORMALISED(value) (((float)(value) - 127.5f) / 127.5f)
KERNEL(stem) { STEM(float, SAME) }
KERNEL(stem_uint8) { STEM(uint8_t, NORMALISED) }
KERNEL(mirror) {
    float *output = operands[2], *copy = scratch;
    for (int32_t task = begin; task < end; task++) {
        int32_t start = (task / H * (H + 2) + task % H + 1) * ROW;
        const float *x = (const float *)operands[0] + start, *residual = (const float *)operands[1] + start;
        for (int i = 0; i < W; i++)
            for (int c = 0; c < C; c++) copy[i * C + c] = x[(W - i) * C + c];
        for (int i = 0; i < W * C; i++) output[task * W * C + i] = copy[i] + residual[C + i];
    }
    return 0;
}
KERNEL(classifier) {
    const float *weight = operands[1], *bias = operands[2];
    float *output = operands[3];
    for (int32_t task = begin; task < end; task++) {
        const float *x = (const float *)operands[0] + task / CLASSES * H * W * C;
        int32_t k = task % CLASSES;
        double sum = 0;
        if (x[0] > 1e6f) return 1;
        for (int i = 0; i < H * W; i++)
            for (int c = 0; c < C; c++) sum += (double)x[i * C + c] * weight[k * C + c];
        output[task] = (float)(sum / (H * W)) + bias[k];
    }
    (void)scratch;
    return 0;
}
"""

_TASKS = {"stem": (HEIGHT, 1), "stem_uint8": (HEIGHT, 1), "mirror": (HEIGHT, 10), "classifier": (CLASSES, CLASSES)}
"""How many of an image, and how many are worth a thread."""


def reference(x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """What every layer computes of images (N, H, W, C), by layer."""
    stem = x * SCALE + BIAS
    mirror = stem[:, :, ::-1] + stem
    return {"stem": stem, "block1.mirror": mirror, "classifier": mirror.mean(axis=(1, 2)) @ WEIGHT.T + OFFSET}


def image(seed: int, *, batch: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(batch, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)


def tiny_program(
    directory: Path,
    *,
    identifier: str = "tiny_1_0",
    target: Target = X86,
    batch: int = 1,
    outputs: tuple[str, ...] = ("logits",),
) -> Program:
    """``directory`` is for the compiler to work in.

    ``outputs`` are ``logits`` and, where it is named, ``map``: what the mirror computes, which the classifier reads.
    """
    weights, places = _pack({"scale": SCALE, "bias": BIAS, "weight": WEIGHT, "offset": OFFSET})
    stem_bytes = batch * (HEIGHT + 2) * (WIDTH + 2) * CHANNELS * 4 // 64 * 64 + 64
    map_type, logits_type = TensorType((batch, HEIGHT, WIDTH, CHANNELS)), TensorType((batch, CLASSES))
    types = {"logits": logits_type, "map": map_type}
    given = {name: Operand("output", number) for number, name in enumerate(outputs)}
    stem, mirror = Operand("arena", 0), given.get("map", Operand("arena", stem_bytes))
    calls = (
        Call(
            layer="stem",
            comment="scale and bias */ per channel",
            kernel="stem",
            operands=(Operand("input"), places["scale"], places["bias"], stem),
            type=map_type,
            border=Padding(1, 1, 1, 1),
            kernel_uint8="stem_uint8",
            macs=map_type.elements,
            moved_bytes=map_type.nbytes + SCALE.nbytes + BIAS.nbytes + stem_bytes,
        ),
        Call(
            layer="block1.mirror",
            comment="each row and its mirror image",
            kernel="mirror",
            operands=(stem, stem, mirror),
            type=map_type,
            moved_bytes=stem_bytes + map_type.nbytes,
        ),
        Call(
            layer="classifier",
            comment="mean, then a matrix",
            kernel="classifier",
            operands=(mirror, places["weight"], places["offset"], given["logits"]),
            type=logits_type,
            moved_bytes=map_type.nbytes + WEIGHT.nbytes + OFFSET.nbytes + logits_type.nbytes,
        ),
    )
    return Program(
        name="tiny_1.0",
        identifier=identifier,
        target=target,
        input=map_type,
        outputs={name: types[name] for name in outputs},
        kernels=tuple(_TASKS),
        kernel_objects=tuple(_kernel_set(directory, identifier, cpu, batch) for cpu in target.instruction_sets),
        calls=calls,
        arena_bytes=stem_bytes + map_type.nbytes,
        weights=weights,
    )


def tiny_manifest(program: Program) -> Manifest:
    """As ``driver`` makes it, but that no spec and no weights stand behind the program."""
    return Manifest(
        precision="fp32",
        backend="relax",
        name=program.name,
        interface=interface(program),
        preprocessing=Preprocessing((127.5,) * CHANNELS, (127.5,) * CHANNELS),
        spec=SpecSource("", "written by hand"),
        weights=WeightsSource("written by hand", None, None),
        versions={},
        target=TargetSource(program.target.name, program.target.triple, program.target.zig_triple),
        arena_bytes=program.arena_bytes,
        weights_bytes=len(program.weights),
        layers=layers(program),
        kernels=kernels(program),
    )


def build_with_two_outputs(directory: Path) -> Path:
    """A library for two images: their map, which is no longer in the arena by then, and their logits."""
    program = tiny_program(directory, target=baseline_target(), batch=2, outputs=("map", "logits"))
    assemble(program, tiny_manifest(program), extra={}).write(directory / "build")
    return directory / "build"


def baseline_target() -> Target:
    """One instruction set, for tests that do not choose."""
    return Target("x86-v2", "", X86.triple, X86.zig_triple, (V2,))


def _pack(arrays: dict[str, NDArray[np.float32]]) -> tuple[bytes, dict[str, Operand]]:
    data, places = b"", {}
    for name, array in arrays.items():
        places[name] = Operand("weights", len(data))
        data += array.tobytes() + b"\0" * (-array.nbytes % 64)
    return data, places


def _kernel_set(directory: Path, identifier: str, cpu: InstructionSet, batch: int) -> KernelObject:
    prefix = f"{identifier}_{cpu.name}"
    source = directory / f"{prefix}.c"
    source.write_text(_KERNELS.replace("PREFIX", prefix), encoding="utf-8")
    (name,) = compile_c(
        find_zig(X86.zig_triple),
        directory,
        source.name,
        flags=(f"-mcpu={cpu.mcpu.replace('-', '_', 1).replace('-', '_')}",),
    )
    kernels = tuple(
        CompiledKernel(kernel, f"{prefix}_{kernel}", batch * tasks, grain, WIDTH * CHANNELS * 4, "rule", "")
        for kernel, (tasks, grain) in _TASKS.items()
    )
    return KernelObject(cpu, (directory / name).read_bytes(), kernels)
