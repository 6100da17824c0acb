"""Reads photographs and labels as a network takes them; makes images where there are none.

What comes in: image files of any size and kind that Pillow reads; a text file with a label per line. What goes out:
uint8 RGB (height, width, 3) of the network's size; labels by class.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnv2c.errors import Mnv2cError
from mnv2c.files import read_ordinary
from mnv2c.spelling import did_you_mean

Rgb = NDArray[np.uint8]
Name = TypeVar("Name")

Fit = Literal["crop", "stretch", "pad"]
FITS: tuple[Fit, ...] = get_args(Fit)
"""How a photograph of another shape comes to the network's size, always by Pillow's antialiased bilinear filter.

``crop``: resized until it covers the size over 0.875, and the middle of that, as ImageNet networks are evaluated: of
1000 photographs the trained 1.0 has 90.7 % right, stretched 85.8 %. ``stretch``: all of it, its aspect ratio given up.
``pad``: all of it, its aspect ratio kept, black beside it.
"""

_CENTRE = 0.875  # 224 of 256 pixels
_FILTER = Image.Resampling.BILINEAR

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""What is taken for an image in a directory; a file named by itself may be called anything."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # not those that Pillow leaves to other programs
_LARGEST = 1 << 28
_LONGEST_LABELS = 16 << 20


class ImageError(Mnv2cError):
    """An image or a file of labels that cannot be read, or that does not fit the network."""


def read_rgb(path: Path, *, height: int, width: int, fit: Fit) -> Rgb:
    """The photograph upright, as uint8 RGB (height, width, 3); see ``FITS``. ImageError where it cannot be read."""
    Image.init()  # else those that are asked for by name are not all there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            content = io.BytesIO(read_ordinary(path, _LARGEST))  # where a length that lies is no more than there is
            with Image.open(content, formats=_FORMATS) as image:
                ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(_fitted(_rgb(image), (width, height), fit), dtype=np.uint8)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image{_suggest(path)}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image that can be read; give a PNG, JPEG or BMP file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: too many pixels to be a photograph; scale it down first") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: a directory; name the images in it") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
    ) as error:  # Pillow raises all of these on damaged files
        raise ImageError(f"{path}: the image is damaged or cannot be read: {_one_line(error)}") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Without a copy more than it takes. Grey of 16 bits, which Pillow would cut at 255, as 8; ValueError for values
    whose range nobody knows."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are {'floats' if image.mode == 'F' else '32-bit numbers'}; convert it to 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """``image`` in ``size`` (width, height). What has that size has been fitted before."""
    if image.size == size:
        return image
    if fit == "stretch":
        return image.resize(size, _FILTER)
    width, height = size
    across, down = image.width / width, image.height / height  # pixels of the image for one of ours
    if fit == "crop":
        # Only the middle of the image is resized: nothing grows, however long and narrow an image is.
        scale = _CENTRE * min(across, down)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        return image.resize(size, _FILTER, box=(left, top, left + scale * width, top + scale * height))
    scale = max(across, down)
    inner = image.resize((max(1, round(image.width / scale)), max(1, round(image.height / scale))), _FILTER)
    padded = Image.new("RGB", size)
    padded.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return padded


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files of ``paths`` as they are, directories replaced by the images that lie in them, by name.

    ImageError where one is missing, or a directory has none.
    """
    return [image for path in paths for image in _images_in(path)]


def _images_in(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.exists():
        raise ImageError(f"{path}: no such image{_suggest(path)}")
    try:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise ImageError(f"{path}: no images in this directory (looked for {', '.join(SUFFIXES)})")
    yield from found


def batches(images: Iterable[tuple[Name, Rgb]], size: int) -> Iterator[tuple[list[Name], Rgb]]:
    """The names of up to ``size`` images, and their pixels, (size, height, width, 3).

    The last batch is filled up with its last image, so that it has fewer names than pixels.
    """
    stream = iter(images)
    while batch := list(islice(stream, size)):
        pixels = [image for _, image in batch]
        yield [name for name, _ in batch], np.stack(pixels + pixels[-1:] * (size - len(batch)))


def seeded_image(index: int, shape: tuple[int, ...], *, seed: int = 0) -> Rgb:
    """An image with something in it, the same everywhere: coarse coloured squares under fine noise.

    ``shape`` is (height, width, channels).
    """
    height, width, channels = shape
    draw = np.random.default_rng([seed, index])
    coarse = draw.integers(0, 256, (-(-height // 16), -(-width // 16), channels))
    squares = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    noisy = squares + draw.integers(-32, 33, shape)
    return noisy.clip(0, 255).astype(np.uint8)


def read_labels(path: Path, *, classes: int) -> list[str]:
    """A label per class; ImageError where the file has more or fewer."""
    try:
        content = read_ordinary(path, _LONGEST_LABELS + 1)
        if len(content) > _LONGEST_LABELS:
            raise ImageError(f"{path}: too large for a file of labels")
        labels = content.decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file of labels{_suggest(path)}") from error
    except UnicodeDecodeError as error:
        raise ImageError(f"{path}: not UTF-8 text; labels are one per line") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    while labels and not labels[-1].strip():
        labels.pop()
    if len(labels) != classes:
        raise ImageError(f"{path}: {len(labels)} labels for {classes} classes{_background_hint(len(labels), classes)}")
    return [label.strip() for label in labels]


def _background_hint(labels: int, classes: int) -> str:
    if classes == labels + 1:
        return "; the network has a background class first: put a line `background` before the others"
    if classes == labels - 1:
        return "; the network has no background class: take that line, the first, out of the file"
    return "; they belong to another network"


def _suggest(path: Path) -> str:
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = did_you_mean(path.name, names)
    return f"; did you mean {path.parent / close}?" if close else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
