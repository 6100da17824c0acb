"""``image.c`` against Pillow: every format, sizes from one pixel to the largest, rows apart; sanitized, and on Arm."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from programs import call, need, sanitizer_flags
from shared_data import PHOTOGRAPHS, needs_shared_data

from mnv2c.measure.images import Rgb, read_rgb, seeded_image
from mnv2c.runtime import source
from mnv2c.targets import ARM, ARMV7, Target
from mnv2c.toolchain import find_qemu, find_toolchain, link_program

HERE = Path(__file__).parent
RGB, BGR, RGBX, BGRX, YUYV, NV12, YUV420 = range(1, 8)
CROP, STRETCH = range(2)
BT601, BT601_FULL, BT709 = range(3)
Size = tuple[int, int]  # height and width
Program = tuple[list[str], Size]  # its command, and the size of its network
NETWORKS = [(224, 224), (97, 131), (33, 6)]

SIZES = [
    (224, 224),
    (480, 640),
    (61, 355),
    (40, 50),
    (97, 131),
    (1, 1),
    (1, 700),
    (700, 1),
    (640, 480),
    (3, 16384),
    (16384, 2),
]
EVEN_SIZES = [(224, 224), (240, 320), (62, 354), (2, 2), (16384, 2)]


@dataclass(frozen=True)
class Frame:
    """What ``fit.c`` reads: ``planes`` are (rows, bytes of a row), each to lie in rows that are ``gap`` bytes apart."""

    format: int
    width: int
    height: int
    planes: Sequence[NDArray[np.uint8]]
    fit: int = CROP
    matrix: int = BT601
    gap: int = 0
    strides: Sequence[int] = field(default=())

    def __bytes__(self) -> bytes:
        blocks = [_with_gaps(plane, self.gap) for plane in self.planes]
        strides = self.strides or [plane.shape[1] + self.gap for plane in self.planes]
        missing = [0] * (3 - len(blocks))
        numbers = (self.format, self.width, self.height, self.fit, self.matrix)
        numbers = (*numbers, *strides, *missing, *map(len, blocks), *missing)
        return np.array(numbers, "<i4").tobytes() + b"".join(blocks)


def _with_gaps(plane: NDArray[np.uint8], gap: int) -> bytes:
    """The last row ends with its last pixel."""
    rows = np.pad(plane, ((0, 0), (0, gap)), constant_values=99).tobytes()
    return rows[: len(rows) - gap]


def sources_of_fit(directory: Path, network: Size) -> tuple[list[str], list[str]]:
    """The sources of the program for a network of that size, without its library, and flags."""
    constants = {"BATCH": 1, "HEIGHT": network[0], "WIDTH": network[1]}
    header = source("mnv2c.h").replace("/* @outputs@ */", "float *logits")
    lines = "".join(f"#define MNV2C_{name} {value}\n" for name, value in constants.items())
    (directory / "mnv2c.h").write_text(header.replace("/* @constants@ */", lines), encoding="utf-8")
    for name in ("image.c", "image.h"):
        (directory / name).write_text(source(name), encoding="utf-8")
    return [str(HERE / "fit.c"), "image.c"], [f"-I{directory}", "-Wall", "-Wextra", "-Wconversion", "-Werror"]


def fit(command: Sequence[str], frames: Sequence[Frame], network: Size) -> list[Rgb]:
    """What the program makes of frames that must be right."""
    done = subprocess.run(command, input=b"".join(map(bytes, frames)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer = np.dtype([("status", "<i4"), ("rgb", "u1", (*network, 3))])
    answers = np.frombuffer(done.stdout, answer)
    assert len(answers) == len(frames)
    assert not answers["status"].any()
    return list(answers["rgb"])


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def sanitized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Under sanitizers."""
    directory = tmp_path_factory.mktemp("fit")
    sources, flags = sources_of_fit(directory, request.param)
    flags += sanitizer_flags("address,undefined", directory)
    call(need("cc"), "-std=c11", *flags, *sources, "-o", directory / "fit", cwd=directory)
    return [str(directory / "fit")], request.param


def by_pillow(pixels: Rgb, network: Size, fit: int, directory: Path) -> Rgb:
    """As ``mnv2c run`` reads a photograph."""
    Image.fromarray(pixels).save(directory / "image.bmp")
    height, width = network
    return read_rgb(directory / "image.bmp", height=height, width=width, fit="stretch" if fit == STRETCH else "crop")


def across_then_down(pixels: Rgb, network: Size, fit: int) -> Rgb:
    """By Pillow too, in the order in which ``image.c`` rounds, which not all versions of Pillow take by themselves."""
    (height, width), (rows, columns) = pixels.shape[:2], network
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    if fit == CROP and (height, width) != network:
        scale = 0.875 * min(width / columns, height / rows)
        left, top = (width - scale * columns) / 2, (height - scale * rows) / 2
        right, bottom = left + scale * columns, top + scale * rows
    bilinear = Image.Resampling.BILINEAR
    across = Image.fromarray(pixels).resize((columns, height), bilinear, box=(left, 0, right, height))
    return np.asarray(across.resize((columns, rows), bilinear, box=(0, top, columns, bottom)))


def check_rgb(found: Rgb, pixels: Rgb, network: Size, fit: int, directory: Path) -> None:
    np.testing.assert_array_equal(found, across_then_down(pixels, network, fit))
    assert np.abs(found.astype(int) - by_pillow(pixels, network, fit, directory)).max() <= 1


def rgb_frames(pixels: Rgb, *, fit: int = CROP, gap: int = 0) -> list[Frame]:
    """The same image in each of the formats that are R, G and B."""
    height, width, _ = pixels.shape
    bgr, x = pixels[..., ::-1], np.full((height, width, 1), 77, np.uint8)
    orders = {RGB: [pixels], BGR: [bgr], RGBX: [pixels, x], BGRX: [bgr, x]}
    return [
        Frame(order, width, height, [np.concatenate(parts, axis=2).reshape(height, -1)], fit=fit, gap=gap)
        for order, parts in orders.items()
    ]


def yuv(seed: int, height: int, width: int, *, rows: int) -> list[NDArray[np.uint8]]:
    """Y, U and V of an image; a U and V for every two pixels of a row, and of ``rows``."""
    y, u, v = np.moveaxis(seeded_image(seed, (height, width, 3), seed=11), 2, 0)
    return [y, u[::rows, ::2], v[::rows, ::2]]


def yuv_frame(format: int, planes: Sequence[NDArray[np.uint8]], *, fit: int, matrix: int, gap: int) -> Frame:
    y, u, v = planes
    height, width = y.shape
    if format == YUYV:
        laid = [np.stack([y[:, ::2], u, y[:, 1::2], v], axis=2).reshape(height, -1)]
    elif format == NV12:
        laid = [y, np.stack([u, v], axis=2).reshape(height // 2, -1)]
    else:
        laid = [y, u, v]
    return Frame(format, width, height, laid, fit=fit, matrix=matrix, gap=gap)


def converted(planes: Sequence[NDArray[np.uint8]], matrix: int) -> Rgb:
    """By the definitions in ITU-R BT.601 and BT.709: Y = kr R + kg G + kb B, U and V its differences to B and R."""
    kr, kb = (0.2126, 0.0722) if matrix == BT709 else (0.299, 0.114)
    kg = 1 - kr - kb
    height, width = planes[0].shape
    y, u, v = (
        plane.astype(float).repeat(height // len(plane), 0).repeat(width // plane.shape[1], 1) for plane in planes
    )
    black, luma, chroma = (0, 255, 255) if matrix == BT601_FULL else (16, 219, 224)
    y, u, v = (y - black) / luma, (u - 128) / chroma, (v - 128) / chroma
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / kg
    return np.rint(255 * np.stack([red, green, blue], axis=2)).clip(0, 255).astype(np.uint8)


def test_rgb_is_pillow_s_to_the_bit(sanitized: Program, tmp_path: Path) -> None:
    command, network = sanitized
    for size in SIZES:
        pixels = seeded_image(1, (*size, 3))
        for how, gap in ((CROP, 0), (STRETCH, 13)):
            for found in fit(command, rgb_frames(pixels, fit=how, gap=gap), network):
                check_rgb(found, pixels, network, how, tmp_path)


@pytest.mark.parametrize("matrix", [BT601, BT601_FULL, BT709])
def test_yuv_is_pillow_s_within_a_step(sanitized: Program, tmp_path: Path, matrix: int) -> None:
    command, network = sanitized
    for size in EVEN_SIZES:
        for format, rows in ((YUYV, 1), (NV12, 2), (YUV420, 2)):
            planes = yuv(format, *size, rows=rows)
            for how, gap in ((CROP, 6), (STRETCH, 0)):
                (found,) = fit(command, [yuv_frame(format, planes, fit=how, matrix=matrix, gap=gap)], network)
                wanted = across_then_down(converted(planes, matrix), network, how)
                assert np.abs(found.astype(int) - wanted).max() <= 1, (size, format, how)


@needs_shared_data
def test_photographs(sanitized: Program, tmp_path: Path) -> None:
    command, network = sanitized
    for path in sorted(PHOTOGRAPHS.iterdir()):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for found in fit(command, rgb_frames(pixels), network):
            check_rgb(found, pixels, network, CROP, tmp_path)


@pytest.mark.parametrize("target", [ARM, ARMV7], ids=lambda target: target.name)
def test_the_same_on_arm(target: Target, tmp_path: Path) -> None:
    """Though its compiler makes one rounding of a multiplication and an addition."""
    network = (97, 131)
    need({"aarch64": "qemu-aarch64-static", "armv7l": "qemu-arm-static"}[target.architecture])
    sources, flags = sources_of_fit(tmp_path, network)
    link_program(find_toolchain(target), tmp_path, sources, output="fit", static=True, flags=flags)
    command = [find_qemu(target.architecture), str(tmp_path / "fit")]
    for size in ((480, 640), (61, 355), (40, 50)):
        pixels = seeded_image(2, (*size, 3))
        for how in (CROP, STRETCH):
            (found,) = fit(command, rgb_frames(pixels, fit=how)[:1], network)
            check_rgb(found, pixels, network, how, tmp_path)
