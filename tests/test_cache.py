"""What is kept between commands: it does not grow with the builds, and can be emptied."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import check_refused, mnv2c

from mnv2c import cache
from mnv2c.errors import ToolError
from mnv2c.targets import X86
from mnv2c.toolchain import compile_c, find_zig, link_shared


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnv2c"


def _compile(number: int, directory: Path) -> None:
    directory.mkdir()
    (directory / "a.c").write_text(f"char a[{1 << 20}] = {{{number}}};\n")
    zig = find_zig(X86.zig_triple)
    link_shared(zig, directory, compile_c(zig, directory, "a.c"), output="a.so")
    assert (directory / "a.so").stat().st_size > 1 << 20
    assert sorted(path.name for path in directory.iterdir()) == ["a.c", "a.o", "a.so"]


def test_it_does_not_grow_with_what_is_compiled(place: Path, tmp_path: Path) -> None:
    _compile(1, tmp_path / "1")
    before = cache.size()
    _compile(2, tmp_path / "2")
    assert abs(cache.size() - before) < 1 << 16, "nothing of either is there"


def test_doctor_shows_its_size_and_empties_it(place: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(place.parent)}
    (place / "zig" / "o").mkdir(parents=True)
    (place / "zig" / "o" / "object").write_bytes(bytes(3_000_000))
    (place / "relay-0.19.0-python3.11").mkdir()
    (place / "relay-0.19.0-python3.11" / "ready").write_bytes(bytes(500_000))
    assert cache.size() == 3_500_000
    shown = mnv2c("doctor", environment=environment).stdout
    assert f"MB in {place} (mnv2c doctor --clean empties it)" in shown
    assert f"{place} is empty" in mnv2c("doctor", "--clean", environment=environment).stdout
    assert cache.size() == 0
    assert not [path for path in place.iterdir() if path.is_dir()]
    assert mnv2c("doctor", "--clean", environment=environment).returncode == 0, "once more is no mistake"


def test_it_is_not_emptied_under_somebody(place: Path) -> None:
    with cache.using("zig") as used:
        (used / "object").touch()
        done = mnv2c("doctor", "--clean", environment={"XDG_CACHE_HOME": str(place.parent)})
        check_refused(done, str(used), "is being made or used by another process; wait for its end")
        with cache.using("zig"):
            assert (used / "object").exists(), "two may use it"


def test_nothing_but_our_folders_is_removed(place: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    place.mkdir(parents=True)
    (place / "link").symlink_to(precious)
    (place / "note").touch()
    assert cache.clear() == 0
    assert (precious / "file").exists()
    assert sorted(path.name for path in place.iterdir()) == ["link", "note"]


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ToolError, match="no home directory for mnv2c's cache: set XDG_CACHE_HOME to another place"):
        cache.directory()
