"""``bench``: what it measures is right; how fast anything is, no test says."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest
from command_line import mnv2c, succeed, succeed_json
from small_library import copy_of, damage_reference

from mnv2c.measure.engines import OTHERS


def _is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


INSTALLED = [name for name, package in OTHERS.items() if _is_installed(package)]


def test_the_library_alone(small_library: Path) -> None:
    result = succeed_json("bench", small_library, "--rounds", "2")
    assert result["threads"] == 1
    assert list(result["engines"]) == ["mnv2c"]
    engine = result["engines"]["mnv2c"]
    assert 0 < engine["min_ms"] <= engine["median_ms"]


@pytest.mark.parametrize("threads", [1, 2])
def test_beside_other_engines(small_library: Path, threads: int) -> None:
    if not INSTALLED:
        pytest.skip("no engine to compare with: pip install 'mnv2c[bench]'")
    names = ",".join(INSTALLED)
    result = succeed_json("bench", small_library, "--against", names, "--rounds", "2", "--threads", str(threads))
    assert result["threads"] == threads
    assert list(result["engines"]) == ["mnv2c", *INSTALLED]
    for name in INSTALLED:
        engine = result["engines"][name]
        assert engine["version"][0].isdigit()
        assert engine["max_abs_difference"] < 1e-3
        assert 0 < engine["min_ms"] <= engine["median_ms"]


def test_layers_and_the_peak(small_library: Path) -> None:
    result = succeed_json("bench", small_library, "--rounds", "2", "--layers")
    assert result["peak_gflops"] > 0
    assert [layer["name"] for layer in result["layers"]][-2:] == ["pool", "fc"]
    assert all(layer["min_ms"] > 0 for layer in result["layers"])


def test_the_text_names_the_processor(small_library: Path) -> None:
    text = succeed("bench", small_library, "--rounds", "1", "--layers")
    assert " on " in text.splitlines()[0]
    assert "measured FMA peak" in text


@pytest.mark.parametrize("name", OTHERS)
def test_a_missing_engine_says_how_to_get_it(small_library: Path, tmp_path: Path, name: str) -> None:
    package = OTHERS[name]
    module = tmp_path / f"{package.replace('-', '_')}.py"
    module.write_text(f"raise ModuleNotFoundError({package!r})\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = mnv2c("bench", small_library, "--against", name, environment={"PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"mnv2c: error: {name} is not installed: pip install {package},")


@pytest.mark.skipif("onnxruntime" not in INSTALLED, reason="needs onnxruntime: pip install 'mnv2c[bench]'")
def test_a_wrong_result_is_not_timed(small_library: Path, tmp_path: Path) -> None:
    library = copy_of(small_library, tmp_path)
    damage_reference(library, "fc.bias")
    done = mnv2c("bench", library, "--against", "onnxruntime")
    assert done.returncode == 1
    assert "onnxruntime's logits differ" in done.stderr
    assert done.stdout == ""
