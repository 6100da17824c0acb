"""The PyTorch module that a state dict is of, as its library builds it.

What comes in: a file of tensors and what was recognised in it. What goes out: a module with these tensors, ready to
run. ImportError where the library is not installed; RuntimeError and the like where the tensors are not of its module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnv2c.weights.layers import Network
from mnv2c.weights.recognise import Recognised
from mnv2c.weights.torch_reader import state_dict

_TIMM = ("035", "050", "075", "100", "110d", "120d", "140")


def torch_model(path: Path, network: Network, found: Recognised) -> Any:
    """In evaluation mode, on the CPU."""
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in state_dict(path).items()}
    make = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[network.library]
    return make(tensors, found).eval()


def _torchvision(tensors: dict[str, Any], found: Recognised) -> Any:
    import torchvision

    spec = found.spec
    model = torchvision.models.mobilenet_v2(num_classes=spec.classifier[-1].c, width_mult=spec.width_multiplier)
    model.load_state_dict(tensors)
    return model


def _timm(tensors: dict[str, Any], found: Recognised) -> Any:
    import timm

    classes = found.spec.classifier[-1].c if found.spec.classifier else 0
    for name in _TIMM:
        model = timm.create_model(f"mobilenetv2_{name}", pretrained=False, num_classes=classes)
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        if shapes == {key: value.shape for key, value in tensors.items()}:
            model.load_state_dict(tensors)
            return model
    raise ValueError("it is none of timm's MobileNetV2")


def _transformers(tensors: dict[str, Any], found: Recognised) -> Any:
    import transformers

    spec = found.spec
    config = transformers.MobileNetV2Config(
        depth_multiplier=spec.width_multiplier,
        image_size=spec.input.height,
        num_labels=spec.classifier[-1].c,
        tf_padding=spec.padding == "same",
        layer_norm_eps=spec.batchnorm_epsilon,
    )
    model = transformers.MobileNetV2ForImageClassification(config)
    model.load_state_dict(tensors)
    return model
