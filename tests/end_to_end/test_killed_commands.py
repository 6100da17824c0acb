"""Whatever ends a command, at whatever moment: nothing is half written, and after the next one nothing of ours is left.

``python -m pytest tests/end_to_end/test_killed_commands.py --moments 40`` ends each so many times by each signal.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import REPOSITORY, mnv2c
from mini_spec import MINI
from model_files import torchvision_names, write_safetensors
from small_library import SMALL

from mnv2c.deploy.network import read_build
from mnv2c.spec.table import load_spec
from mnv2c.targets import native_target
from mnv2c.tuning.records import Database
from mnv2c.weights.npz import read_npz
from mnv2c.weights.seeded import seeded_weights

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ENDED = {0, 130, 143, *(-one for one in SIGNALS)}
"""It may have been faster than the signal; in Python's last moments, when all is done, the system ends it."""


class Place:
    """Where a command works: with temporary files and an output of its own."""

    def __init__(self, directory: Path) -> None:
        self.temporary, self.out = directory / "temporary", directory / "out"
        self.temporary.mkdir()
        self.out.mkdir()

    def check_nothing_runs(self) -> None:
        """Nothing that was started with these temporary files is left."""
        mark, alive = f"TMPDIR={self.temporary}\0".encode(), [0]
        for _ in range(1200):
            alive = [number for number in _processes() if mark in _environment(number)]
            if not alive:
                return
            time.sleep(0.05)
        pytest.fail(f"{[_command(number) for number in alive]} still run")

    def check_clean(self) -> None:
        assert [path for path in self.temporary.iterdir() if path.name != ".ses"] == [], ".ses is onnxruntime's"
        assert [path for path in self.out.rglob("*") if path.name.endswith(".partial")] == []


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return b""


def _command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "?"


def _check_build(out: Path) -> None:
    """Every file is that of one build."""
    if (out / "library").exists():
        build = read_build(out / "library")
        for path in build.manifest.files:
            build.checked(out / "library" / path)


def _check_records(out: Path) -> None:
    assert len(Database(out).load(native_target().instruction_sets[0].mcpu).complaints) <= 1, "a line may be cut short"


def _check_import(out: Path) -> None:
    if (out / "net.yaml").exists():
        load_spec(out / "net.yaml")
    if (out / "net.npz").exists():
        read_npz(out / "net.npz")


def _check_nothing(out: Path) -> None:
    assert list(out.iterdir()) == []


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's file."""
    spec = load_spec(Path(SMALL[0]), ["resolution=96"])
    return write_safetensors(
        tmp_path_factory.mktemp("model") / "net.safetensors", torchvision_names(seeded_weights(spec, 1))
    )


@pytest.fixture(params=["build", "tune", "import", "validate", "bench"])
def command(
    request: pytest.FixtureRequest, tmp_path: Path, small_library: Path, small_armv7_library: Path, model: Path
) -> tuple[Callable[[Path], tuple[str | Path, ...]], Callable[[Path], None]]:
    """Its arguments, for an output folder, and what is checked there."""
    mini = tmp_path / "mini.yaml"
    mini.write_text(MINI, encoding="utf-8")
    run = ("validate", small_armv7_library, "--runner", "qemu", "--inputs", "1")
    return {
        "build": (lambda out: ("build", mini, "--target", "x86", "--out", out / "library"), _check_build),
        "tune": (lambda out: ("tune", mini, "--trials", "5", "--schedules", out), _check_records),
        "import": (lambda out: ("import", model, "--out", out / "net"), _check_import),
        "validate": (lambda out: run, _check_nothing),
        "bench": (lambda out: ("bench", small_library, "--layers", "--rounds", "3"), _check_nothing),
    }[request.param]


@pytest.mark.parametrize("how", SIGNALS)
def test_nothing_is_half_written_and_nothing_left(
    command: tuple[Callable[[Path], tuple[str | Path, ...]], Callable[[Path], None]],
    how: signal.Signals,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    arguments, check = command
    place = Place(tmp_path)
    environment = {"TMPDIR": str(place.temporary)}
    moments = random.Random(f"{request.node.name}")
    for _ in range(request.config.getoption("--moments")):
        _end_at(moments, [str(one) for one in arguments(place.out)], environment, how)
        check(place.out)
        if how != signal.SIGKILL:
            place.check_nothing_runs()
            place.check_clean()
    place.check_nothing_runs()
    done = mnv2c(*arguments(place.out), environment=environment)
    assert done.returncode == 0, done.stderr
    check(place.out)
    place.check_nothing_runs()
    place.check_clean()


def _end_at(moments: random.Random, arguments: list[str], environment: dict[str, str], how: signal.Signals) -> None:
    """After one of its first lines: before them, the system ends it."""
    lines, more = moments.randrange(1, 8), moments.uniform(0, 1.5)
    with subprocess.Popen(
        [sys.executable, "-m", "mnv2c", *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stderr is not None
        for _ in range(lines):
            run.stderr.readline()
        time.sleep(more)
        run.send_signal(how)
        told = run.stderr.read().decode()
    assert run.returncode in ENDED, told
    if run.returncode in (130, 143):
        assert told.count("mnv2c: error: ") == 1
        assert "Traceback" not in told
        assert "Exception ignored" not in told
