"""Models of torchvision, timm, transformers and Keras, in every format that these save: imported, built, and what the
library computes of four photographs beside what PyTorch does. Where ``MNV2C_TORCH_PYTHON`` names a Python with them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import succeed
from no_skips import WITHOUT_TORCH
from numpy.typing import NDArray
from sampled import sampled
from shared_data import PHOTOGRAPHS

import mnv2c
from mnv2c.measure.images import read_rgb, seeded_image

TORCH = os.environ.get("MNV2C_TORCH_PYTHON", "")
FROM_TORCH = [
    f"{name}.{suffix}"
    for name in (
        "torchvision_1.0_224",
        "torchvision_0.35_96",
        "timm_0.5_160",
        "timm_110d_128",
        "transformers_1.0_192",
        "transformers_0.75_160",
    )
    for suffix in ("script.onnx", "dynamo.onnx", "safetensors", "pth")
]
FROM_KERAS = [f"{name}.{suffix}" for name in ("keras_0.5_128", "keras_tuned_96") for suffix in ("h5", "keras")]

pytestmark = pytest.mark.skipif(not TORCH, reason=WITHOUT_TORCH)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    found = sorted(PHOTOGRAPHS.glob("*.png"))[:4]
    if found:
        return np.stack([read_rgb(path, height=224, width=224, fit="crop") for path in found])
    return np.stack([seeded_image(number, (224, 224, 3)) for number in range(4)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: NDArray[np.uint8]) -> Path:
    made = tmp_path_factory.mktemp("torch")
    np.save(made / "images.npy", images)
    program = Path(__file__).parents[1] / "torch_program.py"
    done = subprocess.run([TORCH, program, made, made / "images.npy"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.fixture(scope="module")
def without_tvm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which PyTorch's Python finds mnv2c, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "mnv2c").symlink_to(Path(mnv2c.__file__).resolve().parent)
    return {**os.environ, "PYTHONPATH": str(folder), "KERAS_BACKEND": "torch"}


@pytest.mark.parametrize("file", [*FROM_TORCH, *FROM_KERAS])
def test_the_library_computes_what_its_origin_does(
    folder: Path, images: NDArray[np.uint8], file: str, tmp_path: Path, without_tvm: dict[str, str]
) -> None:
    name, side = file.rpartition("_")[0], int(file.rpartition("_")[2].partition(".")[0])
    by_torch = file.endswith(".pth")
    command = [
        TORCH if by_torch else sys.executable,
        "-m",
        "mnv2c",
        "import",
        folder / file,
        "-o",
        tmp_path / "net",
        "--set",
        f"resolution={side}",
    ]
    environment = without_tvm if by_torch else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    files = (tmp_path / "net.yaml", "--weights", tmp_path / "net.npz")
    succeed("build", *files, "--target", "native", "--untuned", "--out", tmp_path / "library")
    with np.load(folder / f"{name}_{side}.npz") as archive:
        wanted = archive["logits"]
    with mnv2c.load(tmp_path / "library") as net:
        found = np.concatenate([net.run_rgb(pixels[None]) for pixels in sampled(images, side)])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        ("torch.save(model, path)", r"holds more than tensors \(torch"),
        ("torch.jit.script(model).save(path)", "a TorchScript program"),
        ("torch.save([1, 2], path)", "holds no state dict, but a list"),
        ("torch.save(model.state_dict(), path); os.truncate(path, 2000)", "damaged or truncated"),
        ("torch.save({'epoch': 1, 'state_dict': model.state_dict()}, path)", "3 features with ReLU, 2 classes"),
    ],
)
def test_what_torch_saves_besides_state_dicts(
    save: str, words: str, tmp_path: Path, without_tvm: dict[str, str]
) -> None:
    head = "model.classifier = torch.nn.Sequential(torch.nn.Linear(1280, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))"
    program = (
        f"import os, sys, torch, torchvision; path = sys.argv[1]; model = torchvision.models.mobilenet_v2(); {head}; "
    )
    subprocess.run([TORCH, "-c", program + save, tmp_path / "model.pth"], check=True, capture_output=True)
    command = [TORCH, "-m", "mnv2c", "import", tmp_path / "model.pth", "-o", tmp_path / "net"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=without_tvm)
    assert re.search(words, done.stdout + done.stderr), done.stderr
    assert done.returncode == (0 if "classes" in words else 1)
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("file", ["torchvision_0.35_96.pth", "timm_0.5_160.safetensors", "keras_tuned_96.keras"])
def test_the_check_runs_the_file_in_its_own_engine(
    folder: Path, file: str, tmp_path: Path, without_tvm: dict[str, str]
) -> None:
    from PIL import Image

    Image.fromarray(np.load(folder / "images.npy")[0]).save(tmp_path / "one.png")
    side = file.rpartition("_")[2].partition(".")[0]
    command = [TORCH, "-m", "mnv2c", "import", folder / file, "-o", tmp_path / "net", "--set", f"resolution={side}"]
    command += ["--check", tmp_path / "one.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=without_tvm)
    assert done.returncode == 0, done.stderr
    assert "passed: 1 image against the original in" in done.stdout
