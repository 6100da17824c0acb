"""Writes .npz files whose every part may be wrong.

What comes in: headers, data, members. What goes out: bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

_MAGIC = b"\x93NUMPY\x01\x00"


def npz(members: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def npy(header: Any, data: bytes) -> bytes:
    text = (repr(header) + "\n").encode(errors="replace")[:0xFFFF]
    return _MAGIC + len(text).to_bytes(2, "little") + text + data
