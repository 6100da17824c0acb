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
EMULATORS = {"pi4": "qemu-aarch64-static", "armv7": "qemu-arm-static"}


def build(directory: Path, changes: tuple[str, ...], target: str) -> Path:
    overrides = [word for change in changes for word in ("--set", change)]
    succeed("build", SPECS / "mnv2_0.35.yaml", *overrides, "--target", target, "--out", directory)
    return directory


def check(library: Path, *options: str) -> None:
    result = succeed_json("validate", library, "--layers", *options)
    assert result["max_abs_error"] <= 1e-4
    assert result["first_diverging_layer"] is None
    assert len(result["layers"]) == 54


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
