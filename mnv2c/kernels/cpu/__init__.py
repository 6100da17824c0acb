"""Kernels for CPUs: one family per file, and how they become C functions (``lower``)."""
