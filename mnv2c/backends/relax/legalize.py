"""The Relax module of ``emit`` in our own kernels: each convolution and what follows it become one ``call_tir``.

What comes in: ``conv2d -> add(bias) -> clip? -> add(shortcut)? -> nn.pad?`` and the few other ops of ``emit``. What
goes out: a Relax module that calls PrimFuncs (computations, not yet scheduled) on packed weights, and the workload of
each. ``relax.transform.LegalizeOps`` would make a naive loop nest of every op, and depthwise a general grouped
convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from mnv2c.errors import GraphError
from mnv2c.ir.graph import Padding
from mnv2c.kernels import Dense, Depthwise, Pad, Pointwise, Pool, Stem, WeightedWorkload, Workload, computation
from mnv2c.kernels.cpu.stem import CHANNELS


@dataclass(frozen=True)
class Legalized:
    """``module``'s ``main`` takes the image and the packed constants; ``workloads`` is by name of the PrimFunc."""

    module: tvm.IRModule
    workloads: Mapping[str, Workload]


@dataclass(frozen=True)
class _Layer:
    """One kernel to be: the variables it reads, in the order of its parameters, and the one it defines."""

    workload: Workload
    operands: tuple[relax.Var, ...]
    output: relax.Var


def legalize(module: tvm.IRModule) -> Legalized:
    """``module``, from ``emit``, in kernels. GraphError for an op that is not among those that ``emit`` writes."""
    main = module["main"]
    (block,) = main.body.blocks
    layers = [_layer(chain) for chain in _chains(block.bindings[:-1])]
    image, *constants = main.params
    shapes = {
        layer.operands[1].name: layer.workload.weight_shape
        for layer in layers
        if isinstance(layer.workload, WeightedWorkload)
    }
    packed = [relax.Var(c.name, relax.TensorType(shapes.get(c.name, _shape(c)), "float32")) for c in constants]
    values: dict[str, relax.Expr] = {var.name: var for var in (image, *packed)}
    workloads = {layer.workload.name: layer.workload for layer in layers}
    builder = relax.BlockBuilder()
    with builder.function("main", [image, *packed]):
        with builder.dataflow():
            kernels = {name: builder.add_func(computation(workload), name) for name, workload in workloads.items()}
            for layer in layers:
                call = relax.call_tir(
                    kernels[layer.workload.name], [values[var.name] for var in layer.operands], layer.output.ty
                )
                values[layer.output.name] = builder.emit(call, layer.output.name)
            output = builder.emit_output(values[layers[-1].output.name], "output")
        builder.emit_func_output(output)
    return Legalized(builder.finalize(), workloads)


def _chains(bindings: Sequence[relax.VarBinding]) -> list[list[relax.VarBinding]]:
    """Runs of ops in which each alone reads the one before; a pad behind a shortcut stays a kernel of its own."""
    readers = Counter(arg.name for binding in bindings for arg in binding.value.args if isinstance(arg, relax.Var))
    chains: list[list[relax.VarBinding]] = []
    for binding in bindings:
        chain = chains[-1] if chains else []
        if chain and _continues(chain, binding) and readers[chain[-1].var.name] == 1:
            chain.append(binding)
        else:
            chains.append([binding])
    return chains


def _continues(chain: Sequence[relax.VarBinding], binding: relax.VarBinding) -> bool:
    last, kinds = chain[-1].var, [_kind(previous) for previous in chain]
    match _kind(binding):
        case "add" | "clip":
            return bool(last.same_as(binding.value.args[0]))
        case "nn.pad":
            reads_it = bool(last.same_as(binding.value.args[0]))
            return reads_it and kinds[0] == "nn.conv2d" and kinds.count("add") == 1
        case "matmul":
            return bool(last.same_as(binding.value.args[1]))
    return False


def _kind(binding: relax.VarBinding) -> str:
    return str(binding.value.op.name).removeprefix("relax.")


def _shape(var: relax.Var) -> tuple[int, ...]:
    return tuple(int(extent) for extent in var.ty.shape)


def _layer(chain: Sequence[relax.VarBinding]) -> _Layer:
    kinds = tuple(_kind(binding) for binding in chain)
    first, output = chain[0].value, chain[-1].var
    match kinds:
        case ("nn.conv2d", "add", *_):
            return _convolution(chain)
        case ("nn.pad",):
            _, height, width, channels = _shape(first.args[0])
            return _Layer(Pad(height, width, channels, _border(chain[0])), (first.args[0],), output)
        case ("mean",):
            _, height, width, channels = _shape(first.args[0])
            return _Layer(Pool(height, width, channels), (first.args[0],), output)
        case ("permute_dims", "matmul", "add"):
            classes, features = _shape(first.args[0])
            x, bias = chain[1].value.args[0], chain[2].value.args[1]
            return _Layer(Dense(features, classes), (x, first.args[0], bias), output)
    raise GraphError(f"{output.name}: no kernel computes {' -> '.join(kinds)}")


def _convolution(chain: Sequence[relax.VarBinding]) -> _Layer:
    convolution, bias = chain[0].value, chain[1].value.args[1]
    x, weight = convolution.args
    relu6 = any(_kind(binding) == "clip" for binding in chain)
    residuals = [binding.value.args[1] for binding in chain[2:] if _kind(binding) == "add"]
    border = _border(chain[-1]) if _kind(chain[-1]) == "nn.pad" else Padding()
    workload = _convolution_workload(chain[0], relu6, bool(residuals), border)
    return _Layer(workload, (x, weight, bias, *residuals), chain[-1].var)


def _convolution_workload(binding: relax.VarBinding, relu6: bool, residual: bool, border: Padding) -> Workload:
    attrs = binding.value.attrs
    x, weight = (_shape(arg) for arg in binding.value.args)
    _, height, width, n = _shape(binding.var)
    top, left, bottom, right = (int(side) for side in attrs.padding)
    padding, stride, kernel = Padding(top, left, bottom, right), int(attrs.strides[0]), weight[2:]
    if int(attrs.groups) == n and kernel == (3, 3) and padding == Padding():
        return Depthwise(height, width, n, stride, rows=x[1], columns=x[2], relu6=relu6)
    if int(attrs.groups) == 1 and kernel == (1, 1) and stride == 1:
        return Pointwise(height, width, x[3], n, relu6, residual, border)
    if int(attrs.groups) == 1 and kernel == (3, 3) and x[3] == CHANNELS:
        return Stem(height, width, n, stride, rows=x[1], columns=x[2], padding=padding, border=border, relu6=relu6)
    raise GraphError(f"{binding.var.name}: no kernel computes this convolution: {binding.value}")


def _border(pad: relax.VarBinding) -> Padding:
    _, _, top, bottom, left, right, _, _ = (int(side) for side in pad.value.attrs.pad_width)
    return Padding(top, left, bottom, right)
