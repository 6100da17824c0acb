"""An image file for tests that need any."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mnv2c.measure.validate import seeded_images


def photograph(path: Path, *, size: tuple[int, int] = (200, 120)) -> Path:
    """Something with edges in it, of this width and height."""
    pixels = seeded_images(1, (size[1], size[0], 3), seed=3)["seeded input 0"]
    Image.fromarray(pixels).save(path)
    return path
