"""Runs where PyTorch is: ``python torch_program.py FOLDER IMAGES.npy``. Makes models with seeded weights, saves each in
every way that its library has, and writes what it computes of the images: FOLDER/NAME.npz has ``logits``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from sampled import sampled

TENSORFLOW = (np.full(3, 127.5, np.float32), np.full(3, 127.5, np.float32))
PYTORCH = (np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32))


class Logits(torch.nn.Module):
    """A model of transformers that gives a tensor."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=x).logits


def settle(model: torch.nn.Module, side: int) -> None:
    """Statistics of noise in every BatchNorm, so that activations neither die out nor grow."""
    model.train()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
                layer.reset_running_stats()
                layer.weight.uniform_(0.7, 1.3)
                layer.bias.uniform_(-0.2, 0.5)
            if isinstance(layer, torch.nn.Linear):
                layer.bias.uniform_(-0.5, 0.5)
        for _ in range(2):
            model(torch.randn(4, 3, side, side))
    model.eval()


def torch_models() -> dict[str, tuple[torch.nn.Module, int]]:
    """By name: the model that gives logits, and the side of its images."""

    def of_transformers(width: float, side: int, classes: int) -> torch.nn.Module:
        config = transformers.MobileNetV2Config(depth_multiplier=width, image_size=side, num_labels=classes)
        return Logits(transformers.MobileNetV2ForImageClassification(config))

    return {
        "torchvision_1.0_224": (torchvision.models.mobilenet_v2(num_classes=1000), 224),
        "torchvision_0.35_96": (torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10), 96),
        "timm_0.5_160": (timm.create_model("mobilenetv2_050", num_classes=5), 160),
        "timm_110d_128": (timm.create_model("mobilenetv2_110d", num_classes=7), 128),
        "transformers_1.0_192": (of_transformers(1.0, 192, 1001), 192),
        "transformers_0.75_160": (of_transformers(0.75, 160, 12), 160),
    }


def keras_models() -> dict[str, tuple[Any, int]]:
    """Whole, and fine-tuned with a head of two layers; the logits are what the last layer is before its softmax."""
    whole = keras.applications.MobileNetV2(
        weights=None, classes=20, input_shape=(128, 128, 3), alpha=0.5, classifier_activation=None
    )
    base = keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None)
    image = keras.Input((96, 96, 3))
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1)(image), training=False)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    tuned = keras.Model(image, keras.layers.Dense(4)(keras.layers.Dense(100, activation="relu")(x)))
    return {"keras_0.5_128": (whole, 128), "keras_tuned_96": (tuned, 96)}


def save_torch(folder: Path, name: str, model: torch.nn.Module, side: int, images: np.ndarray) -> None:
    settle(model, side)
    mean, scale = TENSORFLOW if name.startswith("transformers") else PYTORCH
    x = (sampled(images, side).astype(np.float32) - mean) / scale
    with torch.no_grad():
        logits = model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    np.savez(folder / f"{name}.npz", logits=logits)
    sample = torch.randn(1, 3, side, side)
    torch.onnx.export(model, (sample,), str(folder / f"{name}.script.onnx"), dynamo=False, opset_version=13)
    torch.onnx.export(model, (sample,), str(folder / f"{name}.dynamo.onnx"), dynamo=True)
    inner = model.model if isinstance(model, Logits) else model
    torch.save(inner.state_dict(), folder / f"{name}.pth")
    save_file({key: value.contiguous() for key, value in inner.state_dict().items()}, folder / f"{name}.safetensors")


def save_keras(folder: Path, name: str, model: Any, side: int, images: np.ndarray) -> None:
    pixels = sampled(images, side).astype(np.float32)
    logits = model.predict(pixels if "tuned" in name else pixels / 127.5 - 1, verbose=0)
    np.savez(folder / f"{name}.npz", logits=logits)
    model.save(folder / f"{name}.h5")
    model.save(folder / f"{name}.keras")


def main(folder: Path, images: np.ndarray) -> None:
    torch.manual_seed(1)
    for name, (model, side) in torch_models().items():
        save_torch(folder, name, model, side, images)
    keras.utils.set_random_seed(1)
    for name, (model, side) in keras_models().items():
        save_keras(folder, name, model, side, images)


if __name__ == "__main__":
    main(Path(sys.argv[1]), np.load(sys.argv[2]))
