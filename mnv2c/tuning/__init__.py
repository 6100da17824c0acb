"""Tuning: finds each kernel's best schedule once, keeps it in records, and reuses it in every later build.

MetaSchedule does it with parts of ours, one file each: ``space`` (design space, postprocessor, mutator), ``strategy``
(what to try next, by ``search``), ``builder`` (with ``candidates`` and ``timing``), ``runners``, ``database``,
``scheduler``; ``tune`` puts them together. ``records`` is what is kept, ``lookup`` what a build takes from it.
"""
