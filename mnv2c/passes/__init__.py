"""The graph passes: valid IR in, valid IR out, one rewrite per file, run in the order of ``PIPELINE``."""

from __future__ import annotations

from collections.abc import Callable

from mnv2c.ir.graph import Graph
from mnv2c.ir.verifier import verify
from mnv2c.passes.add_bias import add_bias
from mnv2c.passes.fold_batchnorm import fold_batchnorm
from mnv2c.passes.fuse_activation import fuse_activation
from mnv2c.passes.fuse_add import fuse_add
from mnv2c.passes.fuse_pad import fuse_pad
from mnv2c.passes.pad_convolution import pad_convolution

__all__ = [
    "PIPELINE",
    "Pass",
    "add_bias",
    "fold_batchnorm",
    "fuse_activation",
    "fuse_add",
    "fuse_pad",
    "pad_convolution",
    "run_pipeline",
]

Pass = Callable[[Graph], Graph]
"""A rewrite: it returns a new graph, or an equal one where there is nothing to do, and leaves its argument as it is."""

PIPELINE: tuple[Pass, ...] = (fold_batchnorm, fuse_add, fuse_activation, pad_convolution, fuse_pad, add_bias)
"""What every build runs. BatchNorm is folded first: it stands between a convolution and what may be fused into that; a
shortcut is added before the activation."""


def run_pipeline(
    graph: Graph, passes: tuple[Pass, ...] = PIPELINE, observe: Callable[[str, Graph], None] | None = None
) -> Graph:
    """The graph after all ``passes``, in order; ``GraphError`` from the verifier, which runs before and after each.

    ``observe`` sees every stage: ``("00-frontend", graph)``, ``("01-fold_batchnorm", graph)`` and so on.
    """
    stages: tuple[Pass | None, ...] = (None, *passes)
    for number, rewrite in enumerate(stages):
        graph = graph if rewrite is None else rewrite(graph)
        verify(graph)
        if observe is not None:
            observe(f"{number:02}-{_name(rewrite)}", graph)
    return graph


def _name(rewrite: Pass | None) -> str:
    return "frontend" if rewrite is None else getattr(rewrite, "__name__", type(rewrite).__name__)
