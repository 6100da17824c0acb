"""Specs and tuning records that come with mnv2c: found from anywhere, and missed where they are not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import SPECS, Finished, mnv2c, obey_permissions, succeed, succeed_json
from mini_spec import MINI

import mnv2c as package
from mnv2c.shipped import spec_names


def test_every_spec_is_found_by_its_name(tmp_path: Path) -> None:
    widths = ("0.35", "0.5", "0.75", "1.0", "1.3", "1.4")
    assert spec_names() == ["mnv1_0.5", "mnv1_1.0", *(f"mnv2_{width}" for width in widths), "resnet_50"]
    for name in spec_names():
        named = succeed("show", name, "--emit", "ir", cwd=tmp_path)
        assert named == succeed("show", SPECS / f"{name}.yaml", "--emit", "ir", cwd=tmp_path)


def test_a_users_file_goes_before_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "mnv2_1.0").write_text(MINI, encoding="utf-8")
    assert succeed_json("show", "mnv2_1.0", cwd=tmp_path)["name"] == "mini"


def test_a_folder_does_not_hide_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "mnv2_1.0").mkdir()
    assert succeed_json("show", "mnv2_1.0", cwd=tmp_path)["name"] == "mnv2_1.0"


def test_the_records_are_those_of_the_specs(tmp_path: Path) -> None:
    """Every kernel of the spec has a record of its own."""
    succeed("build", "mnv2_1.0", "--set", "resolution=96", "--require-tuned", "--out", "library", cwd=tmp_path)


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A folder with a copy of the package and of its specs, from which commands import it; no records."""
    shutil.copytree(Path(package.__file__).parent, tmp_path / "mnv2c", ignore=shutil.ignore_patterns("schedules"))
    shutil.copytree(SPECS, tmp_path / "specs", dirs_exist_ok=True)
    return tmp_path


def in_it(installation: Path, *arguments: str) -> Finished:
    environment = {"PYTHONPATH": str(installation)}
    return mnv2c(*arguments, cwd=installation, environment=environment, before=obey_permissions)


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_missing_records_are_an_error(installation: Path, folder: str) -> None:
    if folder == "empty":
        (installation / "schedules").mkdir()
    build = ("build", "mnv2_0.35", "--set", "resolution=32", "--target", "x86-v2")
    done = in_it(installation, *build)
    assert done.returncode == 1
    assert "the tuning records that come with mnv2c are missing; install mnv2c again" in done.stderr
    assert not (installation / "build").exists()
    done = in_it(installation, *build, "--untuned")
    assert done.returncode == 0, done.stderr


def test_tuning_in_an_installation_of_somebody_else(installation: Path) -> None:
    (installation / "schedules").mkdir(mode=0o555)
    done = in_it(installation, "tune", "mnv2_0.35", "--set", "resolution=32", "--trials", "1")
    assert done.returncode == 1
    assert "cannot be written to: keep yours elsewhere with --schedules DIR" in done.stderr
