"""The kernel families of one kind of device: what every ``kernels.abi.Device`` does alike.

A family is a module: ``compute(workload)`` gives its PrimFunc, ``apply(schedule, workload, parameters)`` schedules it,
``space(workload, ...)`` lists the parameters to choose from, ``pack(workload, constants)`` lays out its constants.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tvm
from tvm import s_tir, tirx

from mnv2c.ir.graph import Array
from mnv2c.kernels.abi import Schedule
from mnv2c.workload_json import from_json, to_json
from mnv2c.workloads import Workload


class Family(NamedTuple):
    """A family's module, and the class of its schedules."""

    module: Any
    schedule: type[Any]


class Families:
    """``families`` by the class of their workloads."""

    def __init__(self, families: Mapping[type[Workload], Family]) -> None:
        self._families = families

    def family(self, workload: Workload) -> Family:
        """The one that computes it. ValueError where the device has none."""
        if type(workload) not in self._families:
            raise ValueError(f"no family of kernels computes {workload.name}")
        return self._families[type(workload)]

    def schedule_class(self, workload: Workload) -> type[Any]:
        """See ``kernels.abi.Device``."""
        return self.family(workload).schedule

    @functools.cache  # noqa: B019 - there is one object, for ever
    def computation(self, workload: Workload) -> tirx.PrimFunc:
        """The workload's PrimFunc, not scheduled, named after it, with its description as an attribute."""
        described = json.dumps(to_json(workload), separators=(",", ":"))
        computed = self.family(workload).module.compute(workload)
        return computed.with_attr({"global_symbol": workload.name, "mnv2c.workload": described})

    def apply(self, s: s_tir.Schedule, workload: Workload, schedule: Schedule) -> None:
        """Schedules ``s``, of the workload's computation, as ``schedule`` says."""
        self.family(workload).module.apply(s, workload, schedule)

    def scheduled(self, workload: Workload, schedule: Schedule) -> tirx.PrimFunc:
        """The workload's computation under ``schedule``."""
        s = s_tir.Schedule(tvm.IRModule({"main": self.computation(workload)}))
        self.apply(s, workload, schedule)
        return s.mod["main"]

    def pack(self, workload: Workload, constants: Sequence[Array]) -> tuple[Array, ...]:
        """The workload's ``constants``, as the graph has them, in the layouts that its kernels read."""
        packed: tuple[Array, ...] = self.family(workload).module.pack(workload, constants)
        return packed


def workload_of(function: tirx.PrimFunc) -> Workload:
    """What a PrimFunc of ours computes, scheduled or not."""
    return from_json(json.loads(str(function.attrs["mnv2c.workload"])))
