"""How precisely a network computes."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "fp16"]
"""``tf32``: as fp32, but what 1x1 convolutions multiply may be rounded to 11 bits, for tensor cores. ``fp16``: so are
weights and activations in memory (float16); biases, sums and logits are fp32."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

COARSER = {"fp32": 1, "tf32": 1 << 13, "fp16": 1 << 13}
"""How many last bits of an fp32 one last bit of what is multiplied is."""
