"""Runs a trained model's file in its own engine, on the same pixels as ours: whether the import is what was trained.

What comes in: an imported model, and uint8 images of its size. What goes out: an ``Original`` that computes what the
file does, and an ``Agreement``: how far ours is off, image by image. Where the file has its preprocessing in it, it is
given raw pixels, so that this is compared too.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import Mnv2cError, ToolError, WeightsError
from mnv2c.ir.graph import PROBABILITIES, Array
from mnv2c.measure.images import Rgb
from mnv2c.reference.evaluator import onnxruntime_session
from mnv2c.weights.layers import Network
from mnv2c.weights.reading import format_of, model_file
from mnv2c.weights.recognise import Recognised

TOLERANCE = 1e-4
"""How far apart an import and its original may be, in units of the output."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Original:
    """``run`` takes one image, uint8 (height, width, 3), to what the file gives for it, flat; ``is_softmax`` says that
    this is a distribution, ``is_quantised`` that the engine computes in 8 bits, so that ours cannot be equal."""

    engine: str
    run: Callable[[Rgb], Values]
    is_softmax: bool
    is_quantised: bool


@dataclass(frozen=True)
class Difference:
    """Of one image: the largest difference of an output, and whether the best class is the same, None without any."""

    image: str
    largest: float
    same_top1: bool | None


@dataclass(frozen=True)
class Agreement:
    """All images; ``allowed`` is None where the original is quantised: then nothing is asked of the numbers."""

    engine: str
    output: str
    differences: tuple[Difference, ...]
    allowed: float | None

    @property
    def largest(self) -> float:
        return max(one.largest for one in self.differences)

    @property
    def top1(self) -> float | None:
        """The share of the images in which the best class is the same."""
        same = [one.same_top1 for one in self.differences if one.same_top1 is not None]
        return sum(same) / len(same) if same else None

    @property
    def passed(self) -> bool:
        return self.allowed is None or self.largest <= self.allowed

    def text(self) -> str:
        """One line for people."""
        top1 = "" if self.top1 is None else f", top-1 the same in {self.top1:.1%}"
        images = f"{len(self.differences)} images" if len(self.differences) > 1 else "1 image"
        line = f"{images} against the original in {self.engine}: largest difference of the "
        line += f"{self.output} {self.largest:.2e}"
        if self.allowed is None:
            return f"{line}{top1} (the original computes in 8 bits, ours in floats)"
        return f"{'passed' if self.passed else 'FAILED'}: {line} (at most {self.allowed:.3g}){top1}"

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "output": self.output,
            "passed": self.passed,
            "largest_difference": self.largest,
            "allowed": self.allowed,
            "top1_agreement": self.top1,
            "differences": [
                {"name": one.image, "difference": one.largest, "top1": one.same_top1} for one in self.differences
            ],
        }


def compare(
    original: Original,
    ours: Callable[[Rgb], tuple[str, Array]],
    images: Iterable[tuple[str, Rgb]],
    allowed: Callable[[float], float],
) -> Agreement:
    """``ours`` gives the output's name and values for one image; ``allowed`` says how far it may be off, where it is
    off by more than ``TOLERANCE``."""
    differences, output = [], ""
    for image, pixels in images:
        output, values = ours(pixels)
        found, wanted = values.astype(np.float64).ravel(), original.run(pixels)
        if found.shape != wanted.shape:
            raise WeightsError(f"the original gives {wanted.size} numbers, the import {found.size}")
        if (output == PROBABILITIES) != original.is_softmax:
            found, wanted = (found, _softmax(wanted)) if output == PROBABILITIES else (_softmax(found), wanted)
            output = PROBABILITIES
        same = bool(found.argmax() == wanted.argmax()) if output != "features" else None
        differences.append(Difference(image, float(np.abs(found - wanted).max()), same))
    worst = max(one.largest for one in differences)
    most = None if original.is_quantised else TOLERANCE if worst <= TOLERANCE else allowed(TOLERANCE)
    return Agreement(original.engine, output, tuple(differences), most)


def open_original(
    path: Path, network: Network, found: Recognised, *, mean: Sequence[float], scale: Sequence[float]
) -> Original:
    """The model in ``path``, of which ``network`` and ``found`` were read; ``mean`` and ``scale`` are what pixels are
    normalised by where the file does not do so itself. ToolError where its engine is not installed."""
    file = model_file(path)
    kind = format_of(file)
    opened = {
        ".onnx": _onnx,
        ".tflite": _tflite,
        ".h5": _keras,
        ".keras": _keras,
        ".pth": _torch,
        ".safetensors": _torch,
    }
    if kind not in opened:
        raise ToolError(f"{path}: tensors of our own names; there is no original to compare with")
    try:
        engine, run = opened[kind](file, network, found)
    except ImportError as error:
        raise ToolError(f"{path}: its own engine is not installed: {_ADVICE[kind]} ({error})") from error
    is_raw = found.preprocessing_known and network.layout is not None
    means, scales = np.asarray(mean, np.float32), np.asarray(scale, np.float32)

    def from_pixels(pixels: Rgb) -> Values:
        x = pixels.astype(np.float32) if is_raw else (pixels.astype(np.float32) - means) / scales
        return np.asarray(run(x[None]), np.float64).ravel()

    return Original(engine, from_pixels, found.softmax, network.in_8_bits)


_ADVICE = {
    ".onnx": "pip install onnxruntime",
    ".tflite": "pip install ai-edge-litert",
    ".h5": "pip install keras torch",
    ".keras": "pip install keras torch",
    ".pth": "pip install torch, and torchvision, timm or transformers",
    ".safetensors": "pip install torch, and torchvision, timm or transformers",
}

Run = Callable[[Array], Any]
"""Of one image as floats, 1 x height x width x 3: normalised, or pixels where the file normalises."""


def _failing(path: Path, error: Exception) -> Mnv2cError:
    return ToolError(f"{path}: its own engine does not run it: {' '.join(str(error).split())[:200]}")


def _onnx(path: Path, network: Network, found: Recognised) -> tuple[str, Run]:
    import onnxruntime

    try:
        session = onnxruntime_session(str(path))
    except Exception as error:  # of onnxruntime's own kinds
        raise _failing(path, error) from error
    (image,) = session.get_inputs()
    element = {"tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(float16)": np.float16}.get(
        image.type, np.float32
    )
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    names = [output.name for output in session.get_outputs()]

    def run(x: Array) -> Any:
        turned = x.transpose(0, 3, 1, 2) if network.layout == "NCHW" else x
        fed = np.ascontiguousarray(np.repeat(turned, batch, axis=0).astype(element))
        outputs = dict(zip(names, (one[0] for one in session.run(None, {image.name: fed})), strict=True))
        return outputs[network.output] if network.output in outputs else list(outputs.values())[-1]

    return f"onnxruntime {onnxruntime.__version__}", run


def _tflite(path: Path, network: Network, found: Recognised) -> tuple[str, Run]:
    import ai_edge_litert
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path))
        (image,), (output, *_) = interpreter.get_input_details(), interpreter.get_output_details()
        height, width = found.spec.input.height, found.spec.input.width
        interpreter.resize_tensor_input(image["index"], [1, height, width, 3])
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _failing(path, error) from error

    def run(x: Array) -> Any:
        pixels = x - 128 if image["dtype"] == np.int8 else x
        interpreter.set_tensor(image["index"], pixels.astype(image["dtype"]))
        interpreter.invoke()
        value = interpreter.get_tensor(output["index"])
        scale, zero = output["quantization"]
        return (value.astype(np.float32) - zero) * scale if scale else value

    return f"ai-edge-litert {ai_edge_litert.__version__}", run


def _keras(path: Path, network: Network, found: Recognised) -> tuple[str, Run]:
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "jax")
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of Keras's, and of whatever it runs in
        raise _failing(path, error) from error
    return f"keras {keras.__version__}", lambda x: model.predict(x, verbose=0)


def _torch(path: Path, network: Network, found: Recognised) -> tuple[str, Run]:
    import torch

    from mnv2c.measure.torch_models import torch_model

    try:
        model = torch_model(path, network, found)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise _failing(path, error) from error

    def run(x: Array) -> Any:
        with torch.no_grad():
            output = model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
        return getattr(output, "logits", output).numpy()

    return f"PyTorch {torch.__version__} as {network.library} has it", run


def _softmax(values: Values) -> Values:
    exponents = np.exp(values - values.max())
    return np.asarray(exponents / exponents.sum())
