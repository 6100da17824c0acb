"""Kernels: the one signature that all have (``abi``), and one package for each kind of device."""

from __future__ import annotations

from mnv2c.kernels.abi import Device


def device(kind: str) -> Device:
    """The kernels for targets of a kind (``Target.kind``)."""
    if kind == "cuda":
        from mnv2c.kernels.cuda.device import CUDA

        return CUDA
    from mnv2c.kernels.cpu.device import CPU

    return CPU
