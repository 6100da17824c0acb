"""``on_device.sh`` and its files, as they go to a machine with a GPU: run here against the stand-in for the driver."""

from __future__ import annotations

import subprocess
from pathlib import Path

from emulated import stand_in
from gpu_kernels import kernels_of
from kernel_examples import FUSED, IN_FP16, TRIED
from on_device import make
from small_library import SMALL

BATCHES = (1, 3)
WORKLOADS = (*TRIED[::7], *FUSED[::3])


def test_the_script_passes_in_fp16(tmp_path: Path) -> None:
    folder, workloads = tmp_path / "files", IN_FP16[::9]
    single = make(folder, "cuda:sm_90", network=SMALL, batches=BATCHES[:1], workloads=workloads, precision="fp16")
    network = kernels_of(SMALL[0], [value for value in SMALL if "=" in value], "fp16")
    streams = kernels_of(SMALL[0], [value for value in SMALL if "=" in value])
    kernels = {kernel.symbol: kernel for kernel in (*single, *network, *streams)}
    driver = stand_in(list(kernels.values()), tmp_path)
    right = subprocess.run(
        [folder / "on_device.sh"], env={**driver, "ROUNDS": "1"}, capture_output=True, text=True, check=False
    )
    assert right.returncode == 0, right.stdout + right.stderr
    assert f"{len(workloads)} kernels, 0 wrong" in right.stdout
    assert "mnv2_0_35, batch 1, sm_90: 4 images" in right.stdout


def test_the_script_passes_and_fails_where_a_kernel_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    single = make(folder, "cuda:sm_90", network=SMALL, batches=BATCHES, workloads=WORKLOADS)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 64e6
    settings = [value for value in SMALL if "=" in value]
    networks = [kernels_of(SMALL[0], [*settings, f"batch={batch}"]) for batch in BATCHES]
    kernels = {kernel.symbol: kernel for kernel in (*single, *(kernel for found in networks for kernel in found))}
    driver = stand_in(list(kernels.values()), tmp_path)
    command = [folder / "on_device.sh"]
    right = subprocess.run(command, env={**driver, "ROUNDS": "1"}, capture_output=True, text=True, check=False)
    assert right.returncode == 0, right.stdout + right.stderr
    assert f"{len(WORKLOADS)} kernels, 0 wrong" in right.stdout
    assert "streams, graphs and threads: all as they should" in right.stdout
    for batch in BATCHES:
        assert f"mnv2_0_35, batch {batch}, sm_90: 4 images" in right.stdout
    assert right.stdout.endswith("all as it should be\n")

    networks = folder / "networks.txt"
    networks.write_text(networks.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    (folder / "images.logits").write_bytes((folder / "images.logits").read_bytes()[::-1])
    wrong = subprocess.run(command, env={**driver, "ROUNDS": "1"}, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stdout.count("FAILED") == 1
    assert "FAILED: ./network_on_device ./batch1.so" in wrong.stdout
