"""What a machine answers over ssh: a stand-in for ssh says what the real program has said, changed."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command_line import mnv2c
from fuzz.limits import Fuzz, command
from fuzz.mutations import ESCAPES, changed_bytes, changed_tree

from mnv2c.deploy import ssh

_RECORDS = '#!/bin/sh\nfor last; do :; done\nsh -c "$last" | tee "${0%/*}/said"\n'
_SAYS = """\
#!/bin/sh
here=${0%/*}
exec 3<&0
cat <&3 >/dev/null &
[ -e "$here/endless" ] && cat "$here/said" /dev/zero
cat "$here/said"
cat "$here/errors" >&2
exec >&-
wait
exit $(cat "$here/status")
"""
_FRAME = struct.Struct("<IiQQ")  # of runner.c: magic, status, nanoseconds, and how long the payload is
_MASKS = (0xFFFFFFFF, 0xFFFFFFFF, (1 << 64) - 1, (1 << 64) - 1)


def stand_in(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ssh").write_text(script)
    (folder / "ssh").chmod(0o755)
    return folder


def on_path(folder: Path) -> dict[str, str]:
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def said(build: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str | Path, ...], bytes]:
    """What the program says to each command that may run elsewhere, here."""
    folder = stand_in(tmp_path_factory.mktemp("ssh"), _RECORDS)
    found = {}
    for arguments in (
        ("run", build, build.parent / "a.png", "--runner", "ssh:board"),
        ("validate", build, "--inputs", "1", "--layers", "--runner", "ssh:board"),
        ("bench", build, "--rounds", "1", "--runner", "ssh:board"),
    ):
        done = mnv2c(*arguments, environment=on_path(folder))
        assert done.returncode == 0, done.stderr
        found[arguments] = (folder / "said").read_bytes()
    return found


def frames(stream: bytes) -> Iterator[list[Any]]:
    """Magic, status, nanoseconds, length and payload of each."""
    while stream:
        *head, size = _FRAME.unpack_from(stream)
        yield [*head, size, stream[_FRAME.size : _FRAME.size + size]]
        stream = stream[_FRAME.size + size :]


def packed(frame: Any) -> bytes:
    """Whatever has become of it."""
    if not isinstance(frame, list) or len(frame) != 5:
        return repr(frame).encode(errors="replace")
    *head, payload = frame
    numbers = [int(one) & mask if isinstance(one, int) else 0 for one, mask in zip(head, _MASKS, strict=True)]
    content = payload if isinstance(payload, bytes) else repr(payload).encode(errors="replace")
    return struct.pack("<IIQQ", *numbers) + content


def changed(draw: Random, stream: bytes) -> bytes:
    """A line of greeting, and frames."""
    greeting, _, rest = stream.partition(b"\n")
    if draw.random() < 0.3:
        return changed_bytes(draw, stream)
    if draw.random() < 0.2:
        name = draw.choice((ESCAPES.encode(errors="replace"), b"\xff\xfe", b"x" * (1 << 20), b"", b"\n" * 1000))
        return greeting[: draw.randrange(len(greeting))] + name + b"\n" + rest
    told = list(frames(rest))
    number = draw.randrange(len(told))
    if draw.random() < 0.5:
        told[number][4] = changed_bytes(draw, told[number][4])
        told[number][3] = len(told[number][4])
    else:
        told = changed_tree(draw, told, values=(0x4132766D, 0x4C32766D, told[number]))
    return greeting + b"\n" + b"".join(map(packed, told))


def test_peers(said: dict[tuple[str | Path, ...], bytes], fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        arguments = draw.choice(list(said))
        place = stand_in(folder / "bin", _SAYS)
        (place / "said").write_bytes(changed(draw, said[arguments]))
        (place / "errors").write_bytes(draw.choice((b"", b"No space left\n", ESCAPES.encode(errors="replace") * 100)))
        (place / "status").write_text(str(draw.choice((0, 0, 1, 126, 127, 139, 255))))
        if draw.random() < 0.03:
            (place / "endless").touch()

        def feed() -> object:
            os.environ |= on_path(place)
            ssh._archive = lambda build: bytes(1 << 16)  # type: ignore[attr-defined] # linked each time, it is the same
            return command(*arguments)

        return feed

    fuzz(case)
