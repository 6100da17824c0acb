"""Reads what PyTorch saves: safetensors by the package of that name, ``.pth`` by torch itself, and no pickle otherwise.

What comes in: a path. What goes out: its ``Network``. What transformers and timm keep beside the weights, in
``config.json`` and ``preprocessor_config.json``, is read where it is of a MobileNetV2.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import ToolError, WeightsError
from mnv2c.weights.layers import MOST_BYTES, Network, Preprocessing
from mnv2c.weights.state_dict import Known, network_of

_LONGEST_CONFIG = 1 << 20
_DTYPES = {"F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1}
_MOST_TENSORS = 10_000
_DAMAGED = "damaged or truncated; copy or save it again"
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "ema_state_dict", "state_dict_ema", "params")
"""Where checkpoints of a training keep the state dict."""


def read_safetensors(path: Path) -> Network:
    """WeightsError, one line, where the file cannot be read; ToolError where the package is not installed."""
    return network_of(path, _safetensors(path), "safetensors", _beside(path))


def read_pth(path: Path) -> Network:
    """A state dict, or a checkpoint with one in it; anything else in the pickle is refused by torch, and so told."""
    return network_of(path, _pth(path), "state dict of PyTorch", _beside(path))


def state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of either file, under the names that they have there."""
    return _safetensors(path) if path.suffix == ".safetensors" else _pth(path)


def _safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ToolError(f"{path}: reading it needs safetensors: pip install 'mnv2c[import]'") from error
    tensors: dict[str, NDArray[Any]] = {}
    total = 0
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                held = file.get_slice(name)
                dtype, shape = held.get_dtype(), held.get_shape()
                if dtype not in _DTYPES:
                    raise WeightsError(f"{path}: {name} is {dtype}; save the model in float32")
                total += prod(shape) * _DTYPES[dtype]
                if total > MOST_BYTES or len(tensors) >= _MOST_TENSORS:
                    raise WeightsError(f"{path}: its tensors are too many or too large: this is no MobileNetV2")
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise WeightsError(f"{path}: not a safetensors file, or truncated ({_one_line(error)})") from error
    return tensors


def _pth(path: Path) -> dict[str, NDArray[Any]]:
    _check_size(path)
    try:
        import torch
    except ImportError as error:
        raise ToolError(
            f"{path}: only PyTorch reads it safely: pip install torch; or save it as .safetensors where that is"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it is not to be, the error says
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, pickle, zip, or anything that a damaged file makes of them
        raise WeightsError(f"{path}: {_refusal(str(error))}") from error
    return _tensors(path, loaded, torch)


def _refusal(said: str) -> str:
    """Why torch does not load it, without torch's advice to load it all the same."""
    if "TorchScript" in said:
        return "a TorchScript program, which is not run; save model.state_dict(), or export the model to ONNX"
    if "eights only load" in said or "weights_only" in said:
        wanted = re.search(r"GLOBAL ([\w.]{1,80})", said)
        what = f" ({wanted[1]})" if wanted else ""
        return f"holds more than tensors{what}: a whole pickled model, which is not loaded; save model.state_dict()"
    return f"torch cannot read it: {_DAMAGED}"


def _check_size(path: Path) -> None:
    """Before anything is unpacked: what the archive says that it holds."""
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
    except (ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: {_DAMAGED}") from error
    if size > MOST_BYTES:
        raise WeightsError(f"{path}: holds {size >> 20} MiB: this is no MobileNetV2")


def _tensors(path: Path, loaded: Any, torch: Any) -> dict[str, NDArray[Any]]:
    """The state dict in what was loaded."""
    for holder in _HOLDERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(holder), Mapping):
            loaded = loaded[holder]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path}: holds no state dict, but a {type(loaded).__name__}; save model.state_dict()")
    found: dict[str, NDArray[Any]] = {}
    total = 0
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            continue
        total += value.numel() * 4
        if value.layout != torch.strided or value.is_quantized or value.is_meta or total > MOST_BYTES:
            raise WeightsError(f"{path}: {name} is sparse, quantized, empty or too large; save the model in float32")
        found[str(name)] = value.detach().float().numpy()
    return found


def _beside(path: Path) -> Known:
    """What ``config.json`` and ``preprocessor_config.json`` beside the weights say, where they are of this family."""
    config = _json(path.with_name("config.json"))
    if config.get("model_type") == "mobilenet_v2":
        known = Known(
            padding="same" if config.get("tf_padding", True) else "symmetric",
            epsilon=_number(config.get("layer_norm_eps"), 1e-3),
            resolution=_square(config.get("image_size")),
        )
        processor = _json(path.with_name("preprocessor_config.json"))
        if processor.get("do_normalize", True) and "image_mean" in processor:
            factor = _number(processor.get("rescale_factor"), 1 / 255) if processor.get("do_rescale", True) else 1.0
            preprocessing = _preprocessing(processor.get("image_mean"), processor.get("image_std"), factor)
            known = replace(known, preprocessing=preprocessing)
        return known
    pretrained = config.get("pretrained_cfg")
    if str(config.get("architecture", "")).startswith("mobilenetv2") and isinstance(pretrained, dict):
        size = pretrained.get("input_size")
        resolution = _square(size[1]) if isinstance(size, list) and len(size) == 3 else None
        preprocessing = _preprocessing(pretrained.get("mean"), pretrained.get("std"), 1 / 255)
        return Known(resolution=resolution, preprocessing=preprocessing)
    return Known()


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, or something else."""
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(_LONGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e6 else default


def _square(value: Any) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) and 32 <= value <= 4096 else None


def _preprocessing(mean: Any, std: Any, factor: float) -> Preprocessing | None:
    """Of pixels times ``factor``."""
    if not all(isinstance(one, list) and len(one) == 3 for one in (mean, std)):
        return None
    values = np.array([mean, std], np.float64) / factor
    if not np.isfinite(values).all() or (values[1] <= 0).any():
        return None
    (red, green, blue), (r, g, b) = (tuple(float(f"{value:.7g}") for value in row) for row in values)
    return Preprocessing((red, green, blue), (r, g, b))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
