"""Arm's instructions: what each does, how long cores that work in order take for them, and a better order for those.

What comes in: text, as LLVM writes it. What goes out: an ``Operation`` for each instruction (``a64``, ``a32``), cycles
(``inorder``), or assembly again (``improve``, which takes a better one for each of the blocks that ``assembly`` finds:
``loads`` reads memory in other pieces, ``reorder`` orders and gives out the registers).
"""
