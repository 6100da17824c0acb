"""The head and the mean behind it in one kernel: a block owns some of the channels over the whole map of an image.

``output[n] = sum_p activation(sum_k input[p, k] * weight[k, n] + bias[n]) / pixels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import (
    SHARED_BYTES,
    unroll,
    vector,
)
from mnv2c.kernels.elements import activate, single, stored, stored_weight
from mnv2c.workloads import PointwisePool


@dataclass(frozen=True)
class PointwisePoolSchedule:
    """A block owns ``channels``: ``threadIdx.y`` is a tile of ``pixels``, ``threadIdx.x`` one of ``lanes`` channels."""

    channels: int
    pixels: int
    lanes: int


def pack(workload: PointwisePool, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The weight as ``k x n``, so that neighbouring threads read neighbouring channels; the bias as it is."""
    weight, bias = constants
    return stored_weight(weight.reshape(workload.n, workload.k).T, workload.dtype), bias


def compute(workload: PointwisePool) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, P, K, N = workload.batch, workload.height * workload.width, workload.k, workload.n
    act, share, element = workload.activation, 1.0 / P, workload.dtype

    @T.prim_func(s_tir=True)
    def pointwise_pool(
        input: T.Buffer((B, P, K), element),
        weight: T.Buffer((K, N), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((B, N), element),
    ):
        product = T.sblock_alloc_buffer((B, P, N), "float32")
        activated = T.sblock_alloc_buffer((B, P, N), "float32")
        total = T.sblock_alloc_buffer((B, N), "float32")
        for b, p, n, k in T.grid(B, P, N, K):
            with T.sblock("product"):
                vb, vp, vn, vk = T.axis.remap("SSSR", [b, p, n, k])
                with T.init():
                    product[vb, vp, vn] = T.float32(0)
                product[vb, vp, vn] = product[vb, vp, vn] + single(input[vb, vp, vk]) * single(weight[vk, vn])
        for b, p, n in T.grid(B, P, N):
            with T.sblock("activated"):
                vb, vp, vn = T.axis.remap("SSS", [b, p, n])
                activated[vb, vp, vn] = activate(product[vb, vp, vn] + bias[vn], act)
        for b, n, p in T.grid(B, N, P):
            with T.sblock("total"):
                vb, vn, vp = T.axis.remap("SSR", [b, n, p])
                with T.init():
                    total[vb, vn] = T.float32(0)
                total[vb, vn] = total[vb, vn] + activated[vb, vp, vn]
        for b, n in T.grid(B, N):
            with T.sblock("epilogue"):
                vb, vn = T.axis.remap("SS", [b, n])
                output[vb, vn] = stored(total[vb, vn] * T.float32(share), element)

    return pointwise_pool


def apply(s: s_tir.Schedule, workload: PointwisePool, schedule: PointwisePoolSchedule) -> None:
    """Grid of channels and images; in a block the product, a barrier, then the mean, by all tiles of pixels alike."""
    product, activated, total, epilogue = (s.get_sblock(name) for name in ("product", "activated", "total", "epilogue"))
    image, channel = s.get_loops(epilogue)
    group, channel = s.split(channel, [None, schedule.channels])
    s.bind(image, "blockIdx.z")
    s.bind(group, "blockIdx.x")
    _, thread = s.split(channel, [None, schedule.channels // schedule.lanes])
    s.bind(thread, "threadIdx.x")
    s.compute_at(total, thread, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    s.decompose_reduction(total, s.get_loops(total)[-1])

    s.compute_at(activated, group, preserve_unit_loops=True)
    s.set_scope(activated, 0, "shared")
    pixel, channel = s.get_loops(activated)[-2:]
    pixel, tile = s.split(pixel, [None, schedule.pixels])
    channel, lane = s.split(channel, [None, schedule.lanes])
    s.reorder(pixel, channel, tile, lane)
    s.bind(pixel, "threadIdx.y")
    s.bind(channel, "threadIdx.x")
    unroll(s, tile, lane)
    s.compute_at(product, channel, preserve_unit_loops=True)
    s.set_scope(product, 0, "local")
    tile, lane, k = s.get_loops(product)[-3:]
    k, step = s.split(k, [None, vector(workload.k)])
    s.reorder(k, step, tile, lane)
    unroll(s, step, tile, lane)
    for name in ("input", "weight"):
        cached = s.cache_read(product, name, "local")
        s.compute_at(cached, k, preserve_unit_loops=True)
        outer, lanes = s.get_loops(cached)[-2:]
        unroll(s, outer)
        s.vectorize(lanes)
    s.decompose_reduction(product, k)


def space(workload: PointwisePool) -> list[PointwisePoolSchedule]:
    """As many channels as leave a large GPU enough blocks first; with two sums a thread, four spill on sm_100."""
    pixels = workload.height * workload.width
    found = []
    for channels in (count for count in (8, 4, 16, 32, 2, 1) if workload.n % count == 0):
        for tile in (count for count in (1, 2, 3, 4, 7) if pixels % count == 0):
            for lanes in (count for count in (2, 4, 1) if channels % count == 0):
                threads = (pixels // tile) * (channels // lanes)
                if threads <= 512 and 4 * pixels * channels <= SHARED_BYTES:
                    found.append(PointwisePoolSchedule(channels, tile, lanes))
    return found
