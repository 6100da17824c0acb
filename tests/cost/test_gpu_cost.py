"""What a kernel takes of a GPU, by NVIDIA's rules, on numbers that one can follow."""

from __future__ import annotations

import pytest

from mnv2c.cost.gpu import GPUS, LAUNCH, MULTIPROCESSORS, _layer
from mnv2c.deploy.manifest import Block, Layer


@pytest.mark.parametrize(
    ("block", "resident"),
    [
        (Block(threads=96, registers=32, spilled_bytes=0, shared_bytes=0), 21),  # 2048 threads
        (Block(threads=448, registers=72, spilled_bytes=0, shared_bytes=0), 2),  # 14 warps of 2304 registers
        (Block(threads=32, registers=16, spilled_bytes=0, shared_bytes=0), 32),  # blocks
        (Block(threads=64, registers=16, spilled_bytes=0, shared_bytes=32 * 1024), 6),  # 228 KB, 33 a block
        (Block(threads=33, registers=33, spilled_bytes=0, shared_bytes=0), 25),  # 2 warps of 1280 registers
    ],
)
def test_the_scarcest_decides_how_many_blocks_fit(block: Block, resident: int) -> None:
    assert MULTIPROCESSORS["sm_90"].resident(block) == resident


@pytest.mark.parametrize(
    ("macs", "moved_bytes", "blocks", "bound", "seconds"),
    [
        (1000, 1000, 132, "launch", LAUNCH),
        (10**9, 1000, 132, "arithmetic", 10**9 / (128 * 132 * 1.98e9)),
        (10**9, 1000, 133, "arithmetic", 10**9 / (128 * 66.5 * 1.98e9)),  # the last block alone, as long as all others
        (10**9, 1000, 1, "arithmetic", 10**9 / (128 * 1.98e9)),
        (1000, 335 * 10**6, 132, "memory", 1e-4),
    ],
)
def test_what_takes_longest_is_the_bound(macs: int, moved_bytes: int, blocks: int, bound: str, seconds: float) -> None:
    cost = _layer(Layer("a", "k", macs, moved_bytes), blocks, Block(128, 32, 0, 0), GPUS["h100"], "fp32")
    assert (cost.bound, cost.seconds) == (bound, pytest.approx(seconds))


@pytest.mark.parametrize(
    ("kernel", "rate"), [("expand_depthwise_7x7_fp16", 2048), ("pointwise_pool_7x7_fp16", 2048), ("stem_fp16", 128)]
)
def test_tensor_cores_multiply_faster(kernel: str, rate: int) -> None:
    cost = _layer(Layer("a", kernel, 10**9, 1000), 132, Block(128, 32, 0, 0), GPUS["h100"], "fp16")
    assert (cost.bound, cost.seconds) == ("arithmetic", pytest.approx(10**9 / (rate * 132 * 1.98e9)))
