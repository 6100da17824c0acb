"""Tuning records: what a build takes from them, and ``mnv2c records``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from command_line import succeed
from fuzz.limits import Fuzz, command
from fuzz.mutations import changed_bytes, changed_text, changed_tree, json_bytes

from mnv2c.shipped import SCHEDULES
from mnv2c.targets import core_named, kind_of
from mnv2c.tuning.export import RECORD_FILE, WORKLOAD_FILE
from mnv2c.tuning.lookup import from_records
from mnv2c.tuning.records import Record

FILES = sorted(SCHEDULES.glob("*/*.jsonl"))
LINES = {path: path.read_text(encoding="utf-8").splitlines() for path in FILES}
FOLDERS = ("x86-64-v9", "cortex-a53", "sm_90", "x")


def records(draw: Random) -> tuple[Path, list[str]]:
    """The lines of a few kernels, and the file that they are from."""
    path = draw.choice(FILES)
    first = draw.randrange(len(LINES[path]))
    return path, LINES[path][first : first + draw.randint(1, 8)]


def changed_lines(draw: Random, lines: Sequence[str]) -> bytes:
    if draw.random() < 0.3:
        return changed_text(draw, "".join(f"{line}\n" for line in lines))
    number = draw.randrange(len(lines))
    changed = [json_bytes(changed_tree(draw, json.loads(line))) for line in lines[number:][:1]]
    return b"".join(
        line + b"\n" for line in (*map(str.encode, lines[:number]), *changed, *map(str.encode, lines[number:]))
    )


def test_records_in_a_build(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path, lines = records(draw)
        isa, processor = path.parent.name, path.stem
        (folder / isa).mkdir()
        (folder / isa / path.name).write_bytes(changed_lines(draw, lines))
        workload = Record.parse(draw.choice(lines), processor, kind_of(isa)).workload
        _, instruction_set = core_named(isa)
        complaints: list[str] = []
        return lambda: from_records(folder, [instruction_set], complaints.append)(workload, instruction_set)

    fuzz(case)


def test_the_command_records(fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        path, lines = records(draw)
        place = folder / draw.choice((path.parent.name,) * 9 + FOLDERS)
        place.mkdir()
        (place / draw.choice((path.name,) * 9 + ("\x1b[2J.jsonl", ".jsonl"))).write_bytes(changed_lines(draw, lines))
        (folder / "other").mkdir()
        action = draw.choice((("list",), ("check",), ("prune",), ("show", "o"), ("merge", str(folder / "other"))))
        return lambda: command("records", *action, "--schedules", folder, *draw.choice(((), ("--json",))))

    fuzz(case)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    """A few records in MetaSchedule's format, by file, and for what."""
    path, folder = FILES[0], tmp_path_factory.mktemp("records")
    (folder / "ours" / path.parent.name).mkdir(parents=True)
    (folder / "ours" / path.parent.name / path.name).write_text("".join(f"{line}\n" for line in LINES[path][:4]))
    succeed("records", "export", folder / "theirs", "--schedules", folder / "ours")
    place = folder / "theirs" / path.parent.name
    return place.name, {name: (place / name).read_bytes() for name in (WORKLOAD_FILE, RECORD_FILE)}


def test_records_of_metaschedule(exported: tuple[str, dict[str, bytes]], fuzz: Fuzz) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        isa, files = exported
        place, ours = folder / "theirs" / isa, folder / "ours"
        place.mkdir(parents=True)
        ours.mkdir()
        for name, content in files.items():
            lines = content.splitlines()
            if draw.random() < 0.7:
                number = draw.randrange(len(lines))
                lines[number] = json_bytes(changed_tree(draw, json.loads(lines[number])))
            content = b"".join(line + b"\n" for line in lines)
            (place / name).write_bytes(changed_bytes(draw, content) if draw.random() < 0.2 else content)
        return lambda: command("records", "import", place.parent, "--schedules", ours)

    fuzz(case)
