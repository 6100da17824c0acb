"""The GPU of this machine on which libraries run: the first that NVIDIA's driver knows."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from mnv2c.errors import TargetError

_CAPABILITY = (75, 76)  # cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class GpuHere:
    """``capability`` times ten: 90 for 9.0; ``driver`` is the newest CUDA that it takes, 12090 for 12.9."""

    name: str
    capability: int
    driver: int


def gpu_here() -> GpuHere:
    """Asks the driver. TargetError where there is none, or no GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise TargetError("no NVIDIA driver: libcuda.so.1 cannot be loaded") from error
    name, driver, device = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    numbers = [ctypes.c_int() for _ in _CAPABILITY]
    steps = [
        ("cuInit", (0,)),
        ("cuDriverGetVersion", (ctypes.byref(driver),)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceGetName", (name, len(name), device)),
        *(
            ("cuDeviceGetAttribute", (ctypes.byref(number), attribute, device))
            for number, attribute in zip(numbers, _CAPABILITY, strict=True)
        ),
    ]
    for function, arguments in steps:
        if status := getattr(cuda, function)(*arguments):
            raise TargetError(f"no NVIDIA GPU: {function} failed with CUresult {status}")
    major, minor = (number.value for number in numbers)
    return GpuHere(name.value.decode(errors="replace"), 10 * major + minor, driver.value)
