"""The engines that ``mnv2c bench`` times a library for GPUs beside, each with CUDA graphs, from host to host.

What comes in: the library's ONNX reference, normalised NCHW images, a precision. What goes out: what ``engines.Engine``
runs. The images are copied to memory of the GPU that stays where it is, and the outputs back, as the library does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2c.errors import ToolError
from mnv2c.ir.graph import Array
from mnv2c.precision import Precision
from mnv2c.reference.evaluator import onnxruntime_session

if TYPE_CHECKING:
    import onnx


def onnxruntime_on_gpu(
    model: onnx.ModelProto, pixels: Array, precision: Precision
) -> tuple[str, Callable[[], list[Array]]]:
    """Its CUDA provider: fp32, or tf32 in cuDNN. ToolError where the package has none, and for fp16."""
    import onnxruntime

    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ToolError("onnxruntime: the package that is installed is for CPUs: pip install onnxruntime-gpu")
    if precision == "fp16":
        raise ToolError("onnxruntime runs the reference in fp32 or tf32; compare fp16 with torch")
    settings = {"enable_cuda_graph": "1", "use_tf32": str(int(precision == "tf32"))}
    missing = "onnxruntime finds no GPU, or not the CUDA and cuDNN that it was built for"
    try:
        session = onnxruntime_session(model.SerializeToString(), providers=[(provider, settings)])
    except (RuntimeError, ValueError) as error:  # all of onnxruntime's kinds
        raise ToolError(f"{missing} ({' '.join(str(error).split())[:200]})") from error
    if session.get_providers()[0] != provider:
        raise ToolError(missing)
    binding = session.io_binding()
    image = onnxruntime.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    outputs = []
    for output in session.get_outputs():
        outputs.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32, "cuda", 0))
        binding.bind_ortvalue_output(output.name, outputs[-1])

    def run() -> list[Array]:
        image.update_inplace(pixels)
        session.run_with_iobinding(binding)
        return [output.numpy() for output in outputs]

    return onnxruntime.__version__, run


def torch_on_gpu(model: onnx.ModelProto, pixels: Array, precision: Precision) -> tuple[str, Callable[[], list[Array]]]:
    """``torch.compile`` as it is fastest: BatchNorm folded, channels last, kernels tried out, CUDA graphs. ToolError
    where it finds no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise ToolError("torch finds no GPU, or was built for CPUs alone: pip install torch")
    run = compiled_by_torch(model, pixels, precision, "cuda")
    return str(torch.__version__), run


def compiled_by_torch(
    model: onnx.ModelProto, pixels: Array, precision: Precision, device: str
) -> Callable[[], list[Array]]:
    """The same on any of torch's devices."""
    import torch
    from onnx import numpy_helper

    torch._inductor.config.freezing = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    element = torch.float16 if precision == "fp16" else torch.float32
    constants = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()).to(device, element)
        for one in model.graph.initializer
    }
    nodes = [(node.op_type, list(node.input), node.output[0], _attributes(node)) for node in model.graph.node]
    (image,) = (one.name for one in model.graph.input)
    names = [output.name for output in model.graph.output]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(
                [torch.nn.Parameter(one, requires_grad=False) for one in constants.values()]
            )

        def forward(self, x: Any) -> list[Any]:
            edges = {**dict(zip(constants, self.weights, strict=True)), image: x}
            for kind, inputs, output, attributes in nodes:
                edges[output] = _OPS[kind](torch.nn.functional, *(edges[name] for name in inputs), **attributes)
            return [edges[name].float() for name in names]

    compiled = torch.compile(Network().eval(), mode="max-autotune")
    host = torch.from_numpy(pixels)
    x = host.to(device, element).contiguous(memory_format=torch.channels_last)

    def run() -> list[Array]:
        with torch.no_grad():
            x.copy_(host)
            return [output.cpu().numpy() for output in compiled(x)]

    return run


def _convolution(
    f: Any, x: Any, w: Any, b: Any = None, *, pads: Any, strides: Any, group: int, kernel_shape: Any
) -> Any:
    """Torch pads both sides of an axis alike; else the zeros are a step of their own."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return f.conv2d(x, w, b, strides, (top, left), groups=group)
    return f.conv2d(f.pad(x, (left, right, top, bottom)), w, b, strides, groups=group)


_OPS: dict[str, Callable[..., Any]] = {
    "Conv": _convolution,
    "BatchNormalization": lambda f, x, gamma, beta, mean, var, *, epsilon: f.batch_norm(
        x, mean, var, gamma, beta, eps=epsilon
    ),
    "Clip": lambda f, x, low, high: f.relu6(x),
    "Relu": lambda f, x: f.relu(x),
    "Softmax": lambda f, x, axis: f.softmax(x, axis),
    "Add": lambda f, x, y: x + y,
    "GlobalAveragePool": lambda f, x: f.adaptive_avg_pool2d(x, 1),
    "Flatten": lambda f, x: x.flatten(1),
    "Gemm": lambda f, x, w, b, *, transB: f.linear(x, w, b),
    "Transpose": lambda f, x, *, perm: x.permute(perm),
    "Identity": lambda f, x: x,
}
"""Those of ``reference.onnx_export``, by torch's functions."""


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
