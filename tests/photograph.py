"""An image file for tests that need any."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mnv2c.measure.images import seeded_image


def photograph(path: Path, *, size: tuple[int, int] = (200, 120)) -> Path:
    """Something with edges in it, of this width and height."""
    pixels = seeded_image(0, (size[1], size[0], 3), seed=3)
    Image.fromarray(pixels).save(path)
    return path
