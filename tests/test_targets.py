"""What ``targets`` says: by name, of this machine, and the same as the C that asks processors."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from command_line import succeed_json

from mnv2c.errors import TargetError
from mnv2c.runtime import source
from mnv2c.targets import (
    A7,
    A53,
    A72,
    A76,
    ARM,
    ARMV7,
    NEOVERSE_N1,
    TARGETS,
    V2,
    V3,
    V4,
    X86,
    InstructionSet,
    core_named,
    cores,
    instruction_set_named,
    instruction_sets_here,
    native_target,
    target_for,
    target_named,
)

_LINUX_NAMES = {"sse3": "pni", "cmpxchg16b": "cx16", "bmi": "bmi1"}
"""Where the compiler's ``cpuid.h`` calls a feature otherwise than /proc/cpuinfo."""


def x86_features(level: str) -> set[str]:
    """What ``has_LEVEL`` in cpu.c asks the processor for, by Linux's names."""
    body = re.search(rf"static int has_{level}\(void\)\n\{{(.*?)\n\}}", source("cpu.c"), re.DOTALL)
    assert body is not None
    names = {name.lower() for name in re.findall(r"\bbit_(\w+)", body[1])}
    return {_LINUX_NAMES.get(name, name) for name in names}


def arm_features(name: str) -> set[str]:
    """What ``mnv2c_cpu_has(NAME)`` in cpu.c asks Linux for."""
    text = source("cpu.c")
    asked = re.search(rf'"{name}"\) == 0\)\s*return has\((.*?)\);', text, re.DOTALL)
    assert asked is not None
    names = set(re.findall(r"\w+", asked[1]))
    for level in ("armv82", "armv8"):
        if level in names:
            features = re.search(rf"{level} = (.*?);", text)
            assert features is not None
            names = names - {level} | set(re.findall(r"\w+", features[1]))
    return names


def test_x86_levels_ask_for_what_the_library_asks_for() -> None:
    assert x86_features("v2") == set(V2.features)
    assert x86_features("v3") == set(V3.features) - set(V2.features)
    assert x86_features("v4") == set(V4.features) - set(V3.features)


@pytest.mark.parametrize("isa", [A53, A72, A76, NEOVERSE_N1, A7], ids=lambda isa: isa.mcpu)
def test_arm_cores_ask_for_what_the_library_asks_for(isa: InstructionSet) -> None:
    assert arm_features(isa.name) == set(isa.features)


def test_only_the_oldest_level_multiplies_and_adds_in_two() -> None:
    assert [isa.mcpu for target in TARGETS for isa in target.instruction_sets if not isa.fused_multiply_add] == [
        "x86-64-v2"
    ] * 2


def test_native_is_the_best_level_as_it_stands() -> None:
    assert native_target().instruction_sets == instruction_sets_here()[:1]
    assert native_target().instruction_sets[0] in X86.instruction_sets, "so that the level's records fit"
    assert native_target().triple == X86.triple


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        (set(V4.features), [V4, V3, V2]),
        (set(V4.features) - {"avx512bw"}, [V3, V2]),
        (set(V2.features), [V2]),
        (set(V4.features) - {"cx16"}, []),
        (set(V4.features) - {"lahf_lm"}, []),
    ],
)
def test_what_this_machine_runs(monkeypatch: pytest.MonkeyPatch, flags: set[str], best: list[InstructionSet]) -> None:
    monkeypatch.setattr("mnv2c.targets._cpuinfo", lambda: f"processor\t: 0\nflags\t\t: {' '.join(sorted(flags))}\n" * 2)
    assert list(instruction_sets_here()) == best
    if not best:
        with pytest.raises(TargetError, match="this processor lacks what x86-64-v2 needs"):
            native_target()


def test_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert instruction_sets_here() == ()
    with pytest.raises(TargetError, match="this machine is Linux on riscv64; native means Linux on x86_64 or aarch64"):
        native_target()


def cpuinfo(features: Iterable[str], *cores: int) -> str:
    """As Linux on Arm says it, for each processor."""
    return "\n".join(
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {' '.join(features)}\n"
        f"CPU implementer\t: {core >> 12:#x}\nCPU variant\t: 0x0\nCPU part\t: {core & 0xFFF:#05x}\n"
        for number, core in enumerate(cores)
    )


CORTEX_A53, CORTEX_A55, CORTEX_A72, CORTEX_A76, CORTEX_A78, NEOVERSE, UNKNOWN = (
    0x41D03, 0x41D05, 0x41D08, 0x41D0B, 0x41D41, 0x41D0C, 0x61022
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "best"),
    [
        (cpuinfo(A53.features, *[CORTEX_A53] * 4), [A53, A72]),
        (cpuinfo((*A72.features, "crc32", "cpuid"), *[CORTEX_A72] * 4), [A72, A53]),
        (cpuinfo(A76.features, *[CORTEX_A76] * 4), [A76, A72, A53]),
        (cpuinfo(A76.features, CORTEX_A55), [A53, A76, A72]),
        (cpuinfo(A76.features, CORTEX_A55, CORTEX_A78), [A76, A72, A53]),
        (cpuinfo(A53.features, CORTEX_A53, CORTEX_A72), [A72, A53]),
        (cpuinfo(A76.features, NEOVERSE), [A76, A72, A53]),
        (cpuinfo(A53.features, UNKNOWN), [A72, A53]),
        (cpuinfo(A53.features, CORTEX_A76), [A72, A53]),
        (f"Features : {' '.join(A76.features)}\nCPU part : new\nCPU implementer :\n", [A76, A72, A53]),
    ],
    ids=["a53", "a72", "a76", "a55", "a55 and a78", "a53 and a72", "n1", "unknown", "without features", "odd"],
)
def test_what_an_arm_machine_runs(monkeypatch: pytest.MonkeyPatch, text: str, best: list[InstructionSet]) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("mnv2c.targets._cpuinfo", lambda: text)
    assert list(instruction_sets_here()) == best
    native = target_named("native")
    assert (native.name, native.triple, native.instruction_sets) == ("native", ARM.triple, tuple(best[:1]))


def test_an_arm_machine_without_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("mnv2c.targets._cpuinfo", lambda: cpuinfo(["fp"], CORTEX_A53))
    with pytest.raises(TargetError, match=r"this processor lacks what cortex-a53 needs \(fp, asimd\)"):
        native_target()


def test_names() -> None:
    assert target_named("arm") is ARM
    with pytest.raises(TargetError, match=r"unknown target 'am': did you mean arm\?"):
        target_named("am")
    with pytest.raises(TargetError, match=r"the targets are x86, .*, native"):
        target_named("commodore")


def test_one_architecture_of_gpus() -> None:
    one = target_named("cuda:sm_90")
    assert [isa.name for isa in one.instruction_sets] == ["sm_90"]
    assert target_for(one.name, one.triple) == one
    with pytest.raises(TargetError, match="unknown target 'cuda:sm_12'"):
        target_named("cuda:sm_12")


def test_targets_of_built_libraries() -> None:
    for target in TARGETS:
        assert target_for(target.name, target.triple) is target
    assert target_for("native", X86.triple) is X86
    assert target_for("native", ARM.triple) is ARM
    for name, triple in (("native", ARMV7.triple), ("arm", ARMV7.triple), ("pi9", ARM.triple)):
        with pytest.raises(TargetError, match=f"this mnv2c knows no target {name} for {triple}; build"):
            target_for(name, triple)


def test_no_core_is_meant_by_two() -> None:
    for target in TARGETS:
        parts = [part for isa in target.instruction_sets for part in isa.parts]
        assert len(set(parts)) == len(parts)
        assert all(len(isa.parts) <= 8 for isa in target.instruction_sets), "MNV2C_PARTS in runtime.h"


def test_instruction_sets_and_cores() -> None:
    assert instruction_set_named("a72") == (ARM, A72)
    assert core_named("cortex-a76") == (ARM, A76)
    assert cores("aarch64") == {isa.mcpu: isa for isa in (A72, A53, A76, NEOVERSE_N1)}
    with pytest.raises(TargetError, match="knows no instruction set v9"):
        instruction_set_named("v9")
    with pytest.raises(TargetError, match="knows no core 'z80'"):
        core_named("z80")


def test_all_are_listed() -> None:
    listed = {target["name"]: target["instruction_sets"] for target in succeed_json("targets")}
    assert listed == {target.name: [isa.name for isa in target.instruction_sets] for target in TARGETS} | {
        "native": None
    }
