"""Images of every format that is read, and files of labels."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from fuzz.limits import Fuzz, command
from fuzz.mutations import ESCAPES, changed_bytes, no_file
from PIL import Image

from mnv2c.measure.images import FITS, read_labels, read_rgb, seeded_image

MODES = {
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "gif": ("L", "P"),
    "jpeg": ("L", "RGB", "CMYK"),
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "ppm": ("1", "L", "RGB", "I"),
    "tiff": ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"),
    "webp": ("RGB", "RGBA"),
}
_PIXELS = Image.fromarray(seeded_image(0, (20, 24, 3)))


def written(kind: str, mode: str) -> bytes:
    stream = io.BytesIO()
    image = (
        Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24)) if mode == "I;16" else _PIXELS.convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(stream, kind, **({"exif": exif} if kind in ("jpeg", "png", "webp") else {}))
    return stream.getvalue()


IMAGES = {(kind, mode): written(kind, mode) for kind, modes in MODES.items() for mode in modes}


def test_images_as_bytes(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        kind, mode = draw.choice(list(IMAGES))
        path = folder / f"a.{kind}"
        path.write_bytes(changed_bytes(draw, IMAGES[kind, mode], others=list(IMAGES.values())))
        height, width = draw.choice(((32, 32), (20, 24), (1, 500), (224, 224)))
        return lambda: read_rgb(path, height=height, width=width, fit=draw.choice(FITS))

    fuzz(case)


_ZEROS = zlib.compress(bytes(4 * 8000 * 8000))
"""What unfolds to an image as large as one may be."""


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Of a PNG file."""
    found, place = [], 8
    while place < len(content):
        (size,) = struct.unpack_from(">I", content, place)
        found.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    """Every sum right."""
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_images_by_their_structure(fuzz: Fuzz) -> None:
    """PNG, whose sums are right: other sizes, other depths, chunks that come twice, that are gone, that unfold."""

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        parts = chunks(IMAGES["png", draw.choice(MODES["png"])])
        number = draw.randrange(len(parts))
        kind, data = parts[number]
        match draw.randrange(6):
            case 0:
                sides = [draw.choice((0, 1, 24, 30_000, 1 << 16, (1 << 31) - 1, 1 << 31)) for _ in range(2)]
                parts[0] = (b"IHDR", struct.pack(">II", *sides) + parts[0][1][8:])
            case 1:
                depth, colours = draw.choice((1, 2, 4, 8, 16, 255)), draw.choice((0, 1, 2, 3, 4, 6, 255))
                parts[0] = (b"IHDR", parts[0][1][:8] + bytes([depth, colours]) + parts[0][1][10:])
            case 2:
                parts[number : number + 1] = draw.choice(([], [parts[number]] * 2, [parts[number]] * 1000))
            case 3:
                parts[0] = (b"IHDR", struct.pack(">II", *[draw.choice((1000, 8000))] * 2) + parts[0][1][8:])
                parts[1:-1] = [(b"IDAT", draw.choice((zlib.compress(bytes(1 << 10)), _ZEROS)))]
            case 4:
                text = b"a\0\0" + draw.choice((_ZEROS, draw.randbytes(100)))
                parts.insert(1, (draw.choice((b"zTXt", b"iCCP", b"eXIf", b"tEXt", b"tRNS")), text))
            case _:
                parts[number] = (kind, changed_bytes(draw, data))
        path = folder / "a.png"
        path.write_bytes(png(parts))
        return lambda: read_rgb(path, height=32, width=32, fit=draw.choice(FITS))

    fuzz(case)


LABELS = "".join(f"label {number}, \u00e9\u4e2d\n" for number in range(20)).encode()
LONG = (LABELS * 100_000, b"\n" * (17 << 20), b"\0" * 20)


def test_labels(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path = folder / "labels.txt"
        path.write_bytes(changed_bytes(draw, LABELS) if draw.random() < 0.9 else draw.choice(LONG))
        if draw.random() < 0.1:
            no_file(draw, path)
        return lambda: read_labels(path, classes=20)

    fuzz(case)


def test_run(build: Path, fuzz: Fuzz) -> None:
    """The command, with names and labels that a terminal would obey."""
    names = ("a.png", "a\x1b[2J.png", "\u202e.png", os.fsdecode(b"\xff.png"), "-a", "a\nb.png")

    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path, labels = folder / draw.choice(names), folder / "labels"
        path.write_bytes(IMAGES["png", "RGB"])
        lines = ["cat"] * 15 + [draw.choice(("\x1b[2Jdog\x07\x9b31m", "a" * 5000, ESCAPES, "\u2028", " \t "))]
        draw.shuffle(lines)
        labels.write_bytes("\n".join(lines).encode(errors=draw.choice(("replace", "replace", "surrogatepass"))))
        if draw.random() < 0.2:
            no_file(draw, draw.choice((path, labels)))
        more = draw.choice(((), ("--json",), ("--top", "16"), ("--fit", "pad")))
        return lambda: command("run", build, path, "--labels", labels, *more)

    fuzz(case)
