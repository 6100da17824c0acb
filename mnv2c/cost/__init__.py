"""What a library costs on a core that is not here: instructions counted, cycles by a model of the core.

``estimate.cost`` gives the layers of a built library, ``kernels.kernel_cycles`` single kernels. Under both: how often
each block of instructions runs, from qemu (``blocks``), times the cycles that llvm-mca gives for it (``cycles``).
``gpu.gpu_cost`` sets what a library for GPUs takes of one beside its limits.
"""
