"""Kernels for NVIDIA GPUs: one family per file, as for CPUs, but scheduled for blocks of threads and shared memory."""
