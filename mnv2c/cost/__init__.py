"""What a library costs on a core or a board that is not here.

``estimate.cost`` gives the layers of a built library in cycles, ``memory.memory_cost`` what they move through a board's
caches, ``kernels.kernel_costs`` single kernels. Under them: what runs and what it misses, from qemu (``blocks``,
``caches``, both by ``emulate``), the code that ran (``code``), and cycles for it (``cycles``): by a model of ours for
cores in order (``instructions.inorder``), by llvm-mca for the others. ``cores`` has the data of cores and boards.
``gpu.gpu_cost`` sets what a library for GPUs takes of one beside its limits.
"""
