"""Backends: the optimised graph in a TVM graph IR, partitioned into kernel calls (``calls``)."""
