"""The smallest spec that has a block, for tests that build much and look at little."""

MINI = """\
name: mini
width_multiplier: 1.0
classes: 16
input: {resolution: 32}
padding: same
batchnorm_epsilon: 1.0e-3
stem: {c: 16, s: 2}
bottlenecks:
  - {t: 1, c: 16, n: 1, s: 2}
head: {c: 32}
"""
