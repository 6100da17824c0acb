"""What specs may ask for beside the paper's table, validated layer by layer: odd channels, batches, rectangles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import SPECS, succeed, succeed_json
from programs import need

import mnv2c

CHANGES: dict[str, tuple[str, ...]] = {
    "odd channels": ("channel_divisor=1", "width_multiplier=0.33", "resolution=64"),
    "batch of 4": ("input.batch=4", "resolution=96"),
    "192x256": ("input.resolution=[192, 256]",),
    "all at once": ("channel_divisor=1", "width_multiplier=0.33", "input.batch=3", "input.resolution=[64, 96]"),
}
OTHER_ROWS: tuple[str, ...] = (
    "bottlenecks=[{separable: {c: 48, n: 2, s: 2}}, {residual: {c: 96, n: 2, s: 2}}, {residual: {c: 72, n: 1, s: 1}}]",
    "bottlenecks[2].residual.r=3",
    "stem={c: 32, s: 2, kernel: 7, pool: 2}",
    "activation=relu",
    "padding=symmetric",
    "input.batch=2",
    "input.resolution=[97, 64]",
)
"""As MobileNetV1 and ResNet have them, with both kinds of shortcut."""
LAYERS = 21  # of them
EMULATORS = {"pi4": "qemu-aarch64-static", "armv7": "qemu-arm-static"}


def build(directory: Path, changes: tuple[str, ...], target: str) -> Path:
    overrides = [word for change in changes for word in ("--set", change)]
    succeed("build", SPECS / "mnv2_0.35.yaml", *overrides, "--target", target, "--out", directory)
    return directory


def check(library: Path, *options: str, layers: int = 54) -> None:
    result = succeed_json("validate", library, "--layers", *options)
    assert result["max_abs_error"] <= 1e-4
    assert result["first_diverging_layer"] is None
    assert len(result["layers"]) == layers


@pytest.mark.parametrize("change", CHANGES)
def test_on_every_instruction_set(tmp_path: Path, change: str) -> None:
    library = build(tmp_path / "library", CHANGES[change], "x86")
    if "channel_divisor=1" in CHANGES[change]:
        names = json.loads((library / "manifest.json").read_text(encoding="utf-8"))["kernels"]["v3"]
        channels = [int(name.split("_")[2]) for name in names if name.startswith("depthwise")]
        assert {count % 2 for count in channels} == {0, 1}, "odd counts, and even ones that 8 does not divide"
        assert any(count % 8 and count % 2 == 0 for count in channels)
    with mnv2c.load(library) as net:
        runnable = net.instruction_sets[net.instruction_sets.index(net.instruction_set) :]
    for name in runnable:
        check(library, "--inputs", "5", "--threads", "2", "--instruction-set", name)


@pytest.mark.parametrize("target", EMULATORS)
@pytest.mark.parametrize("change", CHANGES)
def test_on_boards(tmp_path: Path, change: str, target: str) -> None:
    need(EMULATORS[target])
    check(build(tmp_path / "library", CHANGES[change], target), "--inputs", "1", "--runner", "qemu")


def test_rows_of_other_networks_on_every_instruction_set(tmp_path: Path) -> None:
    library = build(tmp_path / "library", OTHER_ROWS, "x86")
    with mnv2c.load(library) as net:
        runnable = net.instruction_sets[net.instruction_sets.index(net.instruction_set) :]
    for name in runnable:
        check(library, "--inputs", "3", "--threads", "2", "--instruction-set", name, layers=LAYERS)


@pytest.mark.parametrize("target", EMULATORS)
def test_rows_of_other_networks_on_boards(tmp_path: Path, target: str) -> None:
    need(EMULATORS[target])
    library = build(tmp_path / "library", OTHER_ROWS, target)
    check(library, "--inputs", "1", "--runner", "qemu", layers=LAYERS)
