"""Reads photographs and labels as a network takes them.

What comes in: image files of any size and kind that Pillow reads; a text file with a label per line. What goes out:
uint8 RGB (height, width, 3), stretched to the network's size by Pillow's antialiased bilinear filter; labels by class.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnv2c.errors import Mnv2cError
from mnv2c.spelling import did_you_mean

Rgb = NDArray[np.uint8]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""What is taken for an image in a directory; a file named by itself may be called anything."""

_LONGEST_LABELS = 16 << 20


class ImageError(Mnv2cError):
    """An image or a file of labels that cannot be read, or that does not fit the network."""


def read_rgb(path: Path, *, height: int, width: int) -> Rgb:
    """The photograph upright, as RGB, the whole of it stretched to ``height`` x ``width``.

    This is how the ImageNet weights of TensorFlow's converted networks are fed: no crop, aspect ratio given up.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
                return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)
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


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files of ``paths`` as they are, directories replaced by the images that lie in them, by name."""
    return [image for path in paths for image in _images_in(path)]


def _images_in(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    try:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if not found:
        raise ImageError(f"{path}: no images in this directory (looked for {', '.join(SUFFIXES)})")
    yield from found


def read_labels(path: Path, *, classes: int) -> list[str]:
    """A label per class; ImageError where the file has more or fewer."""
    try:
        if path.stat().st_size > _LONGEST_LABELS:
            raise ImageError(f"{path}: too large for a file of labels")
        labels = path.read_text(encoding="utf-8-sig").splitlines()
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
