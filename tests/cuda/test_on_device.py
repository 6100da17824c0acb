"""``on_device.sh`` and its files, as they go to a machine with a GPU: run here against the stand-in for the driver."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from emulated import stand_in
from gpu_kernels import kernels_of
from kernel_examples import FUSED, IN_FP16, TRIED
from no_skips import WITHOUT_GPU
from on_device import EXAMPLES, make
from small_library import SMALL

from mnv2c.deploy.gpu_here import gpu_here
from mnv2c.errors import TargetError
from mnv2c.precision import PRECISIONS, Precision
from mnv2c.targets import in_precision, target_named

BATCHES = (1, 3)
WORKLOADS = (*TRIED[::7], *FUSED[::3])


def test_the_script_passes_in_fp16(tmp_path: Path) -> None:
    folder, workloads = tmp_path / "files", IN_FP16[::9]
    single = make(folder, "cuda:sm_90", network=SMALL, batches=BATCHES[:1], workloads=workloads, precision="fp16")
    settings = [value for value in SMALL if "=" in value]
    networks = [kernels_of(SMALL[0], settings, precision) for precision in ("fp16", "fp32")]
    kernels = {kernel.symbol: kernel for kernel in (*single, *(kernel for found in networks for kernel in found))}
    done = on_device(folder, stand_in(list(kernels.values()), tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(workloads)} kernels, 0 wrong" in done.stdout
    assert "mnv2_0_35, batch 1, sm_90: 4 images" in done.stdout


@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_the_gpu_of_this_machine(precision: Precision, tmp_path: Path) -> None:
    try:
        target = in_precision(target_named(f"cuda:sm_{gpu_here().capability}"), precision)
    except TargetError:
        pytest.skip(WITHOUT_GPU)
    make(tmp_path, target.name, network=SMALL, batches=BATCHES, workloads=EXAMPLES[precision], precision=precision)
    done = on_device(tmp_path, os.environ)
    assert done.returncode == 0, done.stdout + done.stderr


def on_device(folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The script, which times nothing long."""
    settings = {**environment, "ROUNDS": "1"}
    return subprocess.run([folder / "on_device.sh"], env=settings, capture_output=True, text=True, check=False)


def test_the_script_passes_and_fails_where_a_kernel_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    single = make(folder, "cuda:sm_90", network=SMALL, batches=BATCHES, workloads=WORKLOADS)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 64e6
    settings = [value for value in SMALL if "=" in value]
    networks = [kernels_of(SMALL[0], [*settings, f"batch={batch}"]) for batch in BATCHES]
    kernels = {kernel.symbol: kernel for kernel in (*single, *(kernel for found in networks for kernel in found))}
    driver = stand_in(list(kernels.values()), tmp_path)
    right = on_device(folder, driver)
    assert right.returncode == 0, right.stdout + right.stderr
    assert f"{len(WORKLOADS)} kernels, 0 wrong" in right.stdout
    assert "streams, graphs and threads: all as they should" in right.stdout
    for batch in BATCHES:
        assert f"mnv2_0_35, batch {batch}, sm_90: 4 images" in right.stdout
    assert right.stdout.endswith("all as it should be\n")

    networks = folder / "networks.txt"
    networks.write_text(networks.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    (folder / "images.logits").write_bytes((folder / "images.logits").read_bytes()[::-1])
    wrong = on_device(folder, driver)
    assert wrong.returncode == 1
    assert wrong.stdout.count("FAILED") == 1
    assert "FAILED: ./network_on_device ./batch1.so" in wrong.stdout
