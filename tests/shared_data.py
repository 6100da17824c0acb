"""Trained weights and photographs: in ``$MNV2C_SHARED_DATA``, or in ``../shared/data`` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from no_skips import WITHOUT_WEIGHTS

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED_DATA = Path(os.environ.get("MNV2C_SHARED_DATA", _BESIDE))
TRAINED = SHARED_DATA / "weights" / "mnv2_1.0_224_imagenet.npz"
GOLDEN = SHARED_DATA / "golden_outputs.npz"
PHOTOGRAPHS = SHARED_DATA / "images" / "224"

needs_shared_data = pytest.mark.skipif(
    not GOLDEN.is_file(),
    reason=WITHOUT_WEIGHTS,
)
