"""Tuning: finds each kernel's best schedule once, keeps it in records, and reuses it in every later build.

``space`` turns a kernel family's template into what MetaSchedule samples and records; ``tune`` is the loop,
``search`` what it tries next, ``compile`` and ``runners`` try it; ``records`` is the database, ``lookup`` what a
build takes from it.
"""
