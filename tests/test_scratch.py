"""Folders for what is on its way: gone with whoever made them, or with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mnv2c import scratch
from mnv2c.scratch import Scratch, beside


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, as for a process that has made none yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._sweep_once.cache_clear()
    return tmp_path


def _killed(place: Path, code: str = "os.kill(os.getpid(), 9)") -> Path:
    """The folder that a killed process left."""
    program = f"import os; from mnv2c.scratch import Scratch; s = Scratch(); print(s.path, flush=True); {code}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(place)}, capture_output=True, check=False
    )
    return Path(done.stdout.decode().strip())


def test_it_is_empty_and_gone_afterwards(place: Path) -> None:
    with Scratch() as folder:
        assert folder.parent == place
        assert list(folder.iterdir()) == []
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
    assert list(place.iterdir()) == []


def test_it_goes_with_its_object_and_with_the_process(place: Path) -> None:
    kept = Scratch()
    assert kept.path.is_dir()
    kept.close()
    kept.close()
    assert not kept.path.exists()
    del kept
    forgotten = Scratch()
    path = forgotten.path
    del forgotten
    assert not path.exists()
    assert not _killed(place, "pass").exists()


def test_the_next_one_removes_what_a_killed_command_left(place: Path) -> None:
    left = _killed(place)
    (left / "file").touch()
    with Scratch() as folder:
        assert list(place.iterdir()) == [folder]


def test_nothing_else_is_touched(place: Path) -> None:
    """Neither what somebody holds, nor what only looks like ours, nor links."""
    with Scratch() as held:
        others = [place / name for name in ("mnv2c-scratch-abc", "mnv2c-scratch-abcdefgh.old", "mnv2c-12345678")]
        for other in others:
            other.mkdir()
        target = place / "of-the-user"
        target.mkdir()
        (target / "precious").touch()
        link = place / "mnv2c-scratch-11111111"
        link.symlink_to(target)
        scratch._sweep_once.cache_clear()
        with Scratch() as second:
            assert set(place.iterdir()) == {held, *others, target, link, second}
            assert (target / "precious").exists()


def test_what_another_user_left_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = _killed(place)
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    with Scratch():
        assert left.exists()


def test_it_is_held_as_long_as_a_fork_of_its_maker_lives(place: Path) -> None:
    """Our maker is killed, a fork still writes there."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    code = f"os.read({reader}, 1) if os.fork() == 0 else os.kill(os.getpid(), 9)"
    program = f"import os; from mnv2c.scratch import Scratch; s = Scratch(); print(s.path, flush=True); {code}"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        pass_fds=[reader],
    ) as maker:
        assert maker.stdout is not None
        left = Path(maker.stdout.readline().decode().strip())
        maker.wait()
        with Scratch():
            assert left.exists()
        os.close(writer)
        assert maker.stdout.read() == b"", "the fork ends"
    os.close(reader)
    scratch._sweep_once.cache_clear()
    with Scratch():
        assert not left.exists()


@pytest.mark.parametrize("folder", [False, True])
def test_beside_a_file_or_a_folder(folder: bool, tmp_path: Path) -> None:
    """What a killed writer of the same left is gone, what a living one or one of another has is not."""
    code = f"""
import os
from pathlib import Path
from mnv2c.scratch import beside
with beside(Path({str(tmp_path / "net")!r}), folder={folder}) as partial:
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".net.mine.partial", ".net.0123456.partial", ".nets.01234567.partial")]
    for other in others:
        other.touch()
    with beside(tmp_path / "net", folder=folder) as one, beside(tmp_path / "net", folder=folder) as two:
        assert one.parent == two.parent == tmp_path
        assert one.is_dir() == two.is_dir() == folder
        assert set(tmp_path.iterdir()) == {one, two, *others}
        assert not left.exists()
        one.rename(tmp_path / "net")
    assert set(tmp_path.iterdir()) == {tmp_path / "net", *others}


def test_a_file_beside_has_the_users_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with beside(tmp_path / "net") as partial:
        assert partial.stat().st_mode == (tmp_path / "plain").stat().st_mode
