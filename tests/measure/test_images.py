"""Photographs come to the network's size as ``FITS`` says, upright, whatever their shape; batches are filled up."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from photograph import photograph
from PIL import Image

from mnv2c.measure.images import FITS, Fit, ImageError, Rgb, batches, find_images, read_labels, read_rgb

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(path: Path, size: tuple[int, int]) -> Path:
    """A photograph of ``size`` (width, height) whose quarters are red, green / blue, white."""
    width, height = size
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    Image.fromarray(pixels).save(path)
    return path


def corners(pixels: Rgb) -> list[tuple[int, ...]]:
    return [tuple(map(int, pixels[row, column])) for row in (0, -1) for column in (0, -1)]


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (300, 100), (100, 300), (6, 40)])
def test_the_corners_stay_where_they_are(tmp_path: Path, fit: Fit, size: tuple[int, int]) -> None:
    pixels = read_rgb(quarters(tmp_path / "a.png", size), height=32, width=48, fit=fit)
    assert pixels.shape == (32, 48, 3)
    assert corners(pixels) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(("size", "want"), [((1000, 600), (48, 32)), ((600, 1000), (48, 32)), ((700, 512), (224, 224))])
def test_crop_is_resizing_and_cutting_out_the_middle(
    tmp_path: Path, size: tuple[int, int], want: tuple[int, int]
) -> None:
    """What a photograph shows lies where the usual two steps put it: cover the size over 0.875, take the middle."""
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    Image.fromarray(np.stack([across, down, across], axis=-1).astype(np.uint8)).save(tmp_path / "ramps.png")
    found = read_rgb(tmp_path / "ramps.png", height=want[1], width=want[0], fit="crop")
    scale = max(want[0] / width, want[1] / height) / 0.875
    with Image.open(tmp_path / "ramps.png") as image:
        whole = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (whole.width - want[0]) // 2, (whole.height - want[1]) // 2
    usual = np.asarray(whole.crop((left, top, left + want[0], top + want[1])))
    assert np.abs(found.astype(int) - usual).max() <= 4  # half a pixel, where the middle lies between two


def test_crop_leaves_the_border_out_and_stretch_does_not(tmp_path: Path) -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[4:-4, 4:-4] = 200
    Image.fromarray(pixels).save(tmp_path / "framed.png")
    assert read_rgb(tmp_path / "framed.png", height=50, width=50, fit="crop").min() == 200
    assert corners(read_rgb(tmp_path / "framed.png", height=50, width=50, fit="stretch")) == [(0, 0, 0)] * 4


def test_pad_keeps_everything_and_the_aspect_ratio(tmp_path: Path) -> None:
    pixels = read_rgb(quarters(tmp_path / "wide.png", (80, 20)), height=40, width=40, fit="pad")
    assert not pixels[:15].any()
    assert not pixels[25:].any()
    assert corners(pixels[15:25]) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (20_000, 3)])
def test_shapes_that_no_camera_makes(tmp_path: Path, fit: Fit, size: tuple[int, int]) -> None:
    Image.new("RGB", size, GREEN).save(tmp_path / "line.png")
    pixels = read_rgb(tmp_path / "line.png", height=32, width=48, fit=fit)
    assert pixels.shape == (32, 48, 3)
    green = (pixels == GREEN).all(axis=2)
    assert green.any() if fit == "pad" else green.all()


@pytest.mark.parametrize("fit", FITS)
def test_what_has_the_size_stays_as_it_is(tmp_path: Path, fit: Fit) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", height=32, width=48, fit=fit), pixels)


@pytest.mark.parametrize("fit", FITS)
def test_upright(tmp_path: Path, fit: Fit) -> None:
    upright = quarters(tmp_path / "upright.png", (90, 60))
    with Image.open(upright) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # taken with the camera turned: to be turned by 90 degrees clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    first, second = (read_rgb(path, height=30, width=40, fit=fit) for path in (upright, tmp_path / "turned.png"))
    np.testing.assert_array_equal(first, second)


def test_a_missing_image_is_found_before_any_is_read(tmp_path: Path) -> None:
    present = quarters(tmp_path / "cat.png", (4, 4))
    with pytest.raises(ImageError, match=r"cta\.png: no such image; did you mean .*cat\.png\?"):
        find_images([present, tmp_path / "cta.png"])


def test_the_last_batch_is_filled_up() -> None:
    images = [(f"image {number}", np.full((2, 3, 3), number, np.uint8)) for number in range(5)]
    found = [(names, pixels[:, 0, 0, 0].tolist()) for names, pixels in batches(images, 3)]
    assert found == [(["image 0", "image 1", "image 2"], [0, 1, 2]), (["image 3", "image 4"], [3, 4, 4])]
    assert list(batches([], 3)) == []


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_of_sixteen_bits_is_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    found = read_rgb(tmp_path / f"grey.{suffix}", height=16, width=16, fit="stretch")
    np.testing.assert_array_equal(found, np.stack([values >> 8] * 3, axis=-1))


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "floats.tiff")
    with pytest.raises(ImageError, match="its pixels are floats; convert it to 8 bits"):
        read_rgb(tmp_path / "floats.tiff", height=8, width=8, fit="stretch")


def test_no_other_program_draws_an_image(tmp_path: Path) -> None:
    (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(ImageError, match="not an image that can be read"):
        read_rgb(tmp_path / "drawing.eps", height=8, width=8, fit="stretch")


def test_a_length_that_lies_takes_no_memory(tmp_path: Path) -> None:
    """Python makes room for as much as a file is asked for: this took 2 GB."""
    content = photograph(tmp_path / "a.png").read_bytes()
    place = content.rindex(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(content[:place] + b"\x7f\xff\xff\xf0" + content[place + 4 :])
    tracemalloc.start()
    try:
        with contextlib.suppress(ImageError):
            read_rgb(tmp_path / "a.png", height=32, width=32, fit="crop")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 24


def test_grey_of_16_bits_takes_little_memory(tmp_path: Path) -> None:
    """Of what NumPy holds; 64-bit numbers of every pixel took 1.8 GB of the largest images."""
    pixels = np.zeros((1000, 1000), np.uint16)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    tracemalloc.start()
    try:
        read_rgb(tmp_path / "grey.png", height=32, width=32, fit="crop")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 5 * pixels.nbytes


def test_labels_that_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels")
    for path in (tmp_path / "labels", Path("/dev/zero")):
        with pytest.raises(ImageError, match="cannot be read: not a file"):
            read_labels(path, classes=10)
