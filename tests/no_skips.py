"""``MNV2C_NO_SKIPS=1`` turns a skip into a failure, where everything that tests need has been installed.

Three things cannot be installed: trained weights, the right to mount a file system, and a GPU. PyTorch and
its libraries of models are too large to be installed for a few tests.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

WITHOUT_WEIGHTS = "the trained weights are not here: set MNV2C_SHARED_DATA to the folder that holds golden_outputs.npz"
WITHOUT_MOUNTS = "may not mount a small file system here"
WITHOUT_RELAY = "Relay is not installed: mnv2c doctor --install relay"
WITHOUT_ARM_PYTHON = "no Python for aarch64: .ci/arm_python FOLDER, then set MNV2C_ARM_PYTHON=FOLDER"
WITHOUT_GPU = "no GPU here that computes so"
WITHOUT_TORCH = "MNV2C_TORCH_PYTHON names no Python that has torch, torchvision, timm, transformers and keras"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of each test's setup, call and teardown."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("MNV2C_NO_SKIPS") == "1":
        *_, reason = report.longrepr if isinstance(report.longrepr, tuple) else (report.longreprtext,)
        if reason.removeprefix("Skipped: ") not in (WITHOUT_WEIGHTS, WITHOUT_MOUNTS, WITHOUT_GPU, WITHOUT_TORCH):
            report.outcome = "failed"
            report.longrepr = f"MNV2C_NO_SKIPS=1, but this test was skipped: {reason}"
    return report
