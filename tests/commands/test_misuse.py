"""Ways to misuse commands and files: each ends in one clear line on stderr and a status that is not 0.

Every case is a process of its own. A case returns what finished, and the words that its message must have.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import site
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_build import changed_manifest
from command_line import SPECS, Finished, mnv2c
from mini_spec import MINI
from no_skips import WITHOUT_MOUNTS
from photograph import photograph
from small_library import CLASSES, copy_of

import mnv2c as package
from mnv2c.spec.table import load_spec
from mnv2c.weights import load_weights

SPEC = SPECS / "mnv2_0.35.yaml"


@dataclass(frozen=True)
class Place:
    """Where a case works: an empty folder, and a good library that others use too."""

    folder: Path
    library: Path

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def spec(self, old: str = "", new: str = "") -> Path:
        """A small spec with one change."""
        assert old in MINI
        return self.file("mini.yaml", MINI.replace(old, new))

    def weights(self, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
        """Good weights for the small spec, but for one change."""
        values, _ = load_weights(None, load_spec(self.spec()), 0)
        change(values)
        np.savez(self.folder / "weights.npz", **values)
        return self.folder / "weights.npz"

    def build(self, *arguments: str | Path) -> Finished:
        return mnv2c("build", *arguments, "--target", "native", cwd=self.folder)

    def build_mini(self, *arguments: str | Path, before: Callable[[], None] | None = None) -> Finished:
        return mnv2c("build", self.spec(), *arguments, "--target", "native", cwd=self.folder, before=before)

    def damaged(self, path: str, change: Callable[[bytes], bytes]) -> Path:
        """A library with one file changed."""
        library = copy_of(self.library, self.folder)
        (library / path).write_bytes(change((library / path).read_bytes()))
        return library

    def image(self) -> Path:
        return photograph(self.folder / "image.png")


Case = Callable[[Place], tuple[Finished, str]]
SHARED = "lib/libmnv2_0_35.so"


def _without_ziglang(place: Place, *arguments: str | Path) -> Finished:
    """A command of an installation in which everything is there but zig."""
    packages = place.folder / "packages"
    packages.mkdir()
    for folder in filter(Path.is_dir, map(Path, site.getsitepackages())):  # Debian names some that are not there
        for path in folder.iterdir():
            if not path.name.startswith("ziglang"):
                (packages / path.name).symlink_to(path)
    places = [packages] if (packages / "mnv2c").exists() else [Path(package.__file__).parents[1], packages]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, places)), "PATH": str(packages), "CC": ""}
    python = (sys.executable, "-S", "-m", "mnv2c")
    return mnv2c(*arguments, cwd=place.folder, environment=environment, python=python)


@contextlib.contextmanager
def _tiny_disk(place: Place) -> Iterator[Path]:
    """Of one page, which a tuning run's log takes, so that nothing is left for records."""
    disk = place.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(WITHOUT_MOUNTS)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def _build_on_a_tiny_disk(place: Place) -> Finished:
    with _tiny_disk(place) as disk:
        done = place.build_mini("--out", disk / "library")
        assert list(disk.iterdir()) == []
        return done


def _tune_on_a_tiny_disk(place: Place) -> Finished:
    with _tiny_disk(place) as disk:
        return mnv2c("tune", place.spec(), "--schedules", disk / "schedules", "--trials", "1")


def _no_large_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def _someones_folder(place: Place) -> Path:
    folder = place.folder / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("Years of work.", encoding="utf-8")
    return folder


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _for_arm(content: bytes) -> bytes:
    """The ELF header says AArch64."""
    return content[:18] + (183).to_bytes(2, "little") + content[20:]


def _manifest_for_arm(content: bytes) -> bytes:
    return changed_manifest(content, lambda m: m["target"].update(triple="aarch64-linux-gnu"))


def _manifest_of_json(content: bytes) -> bytes:
    def rename(fields: dict[str, Any]) -> None:
        fields["interface"]["identifier"] = "json"
        fields["files"] = {name.replace("mnv2_0_35", "json"): digest for name, digest in fields["files"].items()}

    return changed_manifest(content, rename)


def _foreign(place: Place) -> Path:
    """What says to be a library for 64-bit Arm."""
    return place.damaged("manifest.json", _manifest_for_arm)


def _pickle(place: Place) -> Path:
    """An .npz whose one tensor is a pickle: never loaded."""
    np.savez(place.folder / "weights.npz", **{"stem.weight": np.array([{"any": "object"}], dtype=object)})
    return place.folder / "weights.npz"


def _image_archive(place: Place) -> Path:
    with zipfile.ZipFile(place.folder / "weights.npz", "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    return place.folder / "weights.npz"


COMMANDS: dict[str, Case] = {
    "no command": lambda p: (mnv2c(), "COMMAND"),
    "unknown command": lambda p: (mnv2c("biuld", SPEC), "'biuld': did you mean build?"),
    "unknown option": lambda p: (mnv2c("build", SPEC, "--weigths", "x"), "--weights?"),
    "no spec": lambda p: (mnv2c("build"), "SPEC"),
    "threads of zero": lambda p: (mnv2c("bench", p.library, "--threads", "0"), "--threads: must be a whole number"),
    "threads in words": lambda p: (mnv2c("validate", p.library, "--threads", "two"), "'two'"),
    "a negative seed": lambda p: (mnv2c("build", SPEC, "--seed", "-1"), "--seed"),
    "a tolerance of nan": lambda p: (mnv2c("validate", p.library, "--tolerance", "nan"), "--tolerance"),
    "unknown pass": lambda p: (mnv2c("show", SPEC, "--after", "fold_batchnom"), "did you mean fold_batchnorm?"),
    "unknown form": lambda p: (mnv2c("show", SPEC, "--emit", "llvm"), "'llvm'"),
    "json of a form": lambda p: (mnv2c("show", SPEC, "--emit", "ir", "--json"), "--json"),
    "unknown engine": lambda p: (mnv2c("bench", p.library, "--against", "onxruntime"), "did you mean onnxruntime?"),
    "an unknown measure of tune": lambda p: (mnv2c("tune", SPEC, "--measure", "loacl"), "there are local and static"),
    "boards for several cores": lambda p: (
        mnv2c("tune", SPEC, "--target", "arm", "--rpc", "127.0.0.1:9190", "--key", "pi4"),
        "boards of one key have one kind of core, and arm is for several: give --target pi3, pi4 or pi5",
    ),
    "a key of two lines": lambda p: (
        mnv2c("tune", SPEC, "--rpc", "127.0.0.1:9190", "--key", "a\nb"),
        "--key: must be a name of printable characters",
    ),
    "no key": lambda p: (mnv2c("tune", SPEC, "--rpc", "127.0.0.1:9190", "--key", ""), "--key: must be a name"),
    "records of what": lambda p: (mnv2c("records", "show", "--schedules", p.folder), "records show takes a KERNEL"),
    "records of too much": lambda p: (
        mnv2c("records", "list", "dense", "--schedules", p.folder),
        "records list takes nothing else",
    ),
    "bands of no rows": lambda p: (p.build_mini("--bands", "0"), "--bands: must be off, auto or a number of rows"),
    "bands in words": lambda p: (mnv2c("show", SPEC, "--bands", "x"), "'x'"),
    "tuned and untuned": lambda p: (p.build_mini("--untuned", "--require-tuned"), "--require-tuned"),
    "counting without qemu": lambda p: (mnv2c("bench", p.library, "--count"), "--count takes --runner qemu"),
    "times in qemu": lambda p: (mnv2c("bench", p.library, "--runner", "qemu"), "mnv2c cost BUILD"),
    "other engines on a board": lambda p: (
        mnv2c("bench", p.library, "--runner", "ssh:board", "--against", "onnxruntime"),
        "--against measures this machine",
    ),
    "the peak of a board": lambda p: (mnv2c("bench", p.library, "--runner", "ssh:board", "--layers"), "--layers"),
    "memory of a core": lambda p: (mnv2c("cost", p.library, "--memory", "--core", "cortex-a53"), "give --board"),
    "a board's cycles": lambda p: (
        mnv2c("cost", p.library, "--board", "pi4"),
        "--board and --threads are for --memory",
    ),
    "five threads of a board": lambda p: (
        mnv2c("cost", p.library, "--memory", "--threads", "5"),
        "--threads: must be a whole number from 1 to 4",
    ),
    "more classes than there are": lambda p: (mnv2c("run", p.library, p.image(), "--top", "1002"), "1001 classes"),
}
"""Mistakes in the arguments: status 2."""

FILES: dict[str, Case] = {
    "missing spec": lambda p: (mnv2c("build", SPECS / "mnv2_1.5.yaml"), "mnv2_1.5.yaml"),
    "a name of no spec": lambda p: (mnv2c("build", "mnv3_0.35", cwd=p.folder), "did you mean mnv2_0.35?"),
    "a shipped spec looked for in a folder": lambda p: (
        mnv2c("build", "specs/mnv2_1.0.yaml", cwd=p.folder),
        "did you mean mnv2_1.0?",
    ),
    "not YAML": lambda p: (p.build(p.spec("{resolution: 32}", "{resolution: 32")), "not valid YAML"),
    "wrong key": lambda p: (p.build(p.spec("padding", "pading")), "did you mean `padding`?"),
    "value out of range": lambda p: (p.build(p.spec("classes: 16", "classes: 0")), "mini.yaml:3:10"),
    "a directory for a spec": lambda p: (p.build(p.folder), "a directory, not a file"),
    "wrong --set": lambda p: (p.build(SPEC, "--set", "resoltion=192"), "did you mean `resolution`?"),
    "--set without a value": lambda p: (p.build(SPEC, "--set", "classes"), "KEY=VALUE"),
    "unknown target": lambda p: (mnv2c("build", SPEC, "--target", "x68"), "did you mean x86?"),
    "bands on a GPU": lambda p: (
        mnv2c("build", SPEC, "--target", "cuda", "--bands", "auto", cwd=p.folder),
        "target cuda: blocks run in bands on CPUs alone; leave out --bands",
    ),
    "missing weights": lambda p: (p.build_mini("--weights", "no.npz"), "no.npz: no such file"),
    "truncated weights": lambda p: (
        p.build_mini("--weights", p.file("cut.npz", _truncated(p.weights(len).read_bytes()))),
        "cut.npz",
    ),
    "weights of another shape": lambda p: (
        p.build_mini("--weights", p.weights(lambda w: w.update({"fc.bias": np.zeros(3, np.float32)}))),
        "fc.bias: shape 3, expected 16",
    ),
    "a tensor missing": lambda p: (
        p.build_mini("--weights", p.weights(lambda w: w.pop("fc.weight"))),
        "fc.weight: missing",
    ),
    "NaN in the weights": lambda p: (
        p.build_mini("--weights", p.weights(lambda w: w["stem.weight"].fill(np.nan))),
        "stem.weight: 432 of 432 values not finite",
    ),
    "a pickle for weights": lambda p: (p.build_mini("--weights", _pickle(p)), "weights.npz"),
    "an archive without tensors": lambda p: (p.build_mini("--weights", _image_archive(p)), "weights.npz"),
    "somebody's folder for output": lambda p: (
        p.build_mini("--out", _someones_folder(p)),
        "thesis: it holds chapter1.tex, which is not part",
    ),
    "a file for output": lambda p: (p.build_mini("--out", p.file("taken", "x")), "taken"),
    "a place that cannot be written": lambda p: (p.build_mini("--out", "/proc/library"), "/proc/library"),
    "a tiny disk": lambda p: (_build_on_a_tiny_disk(p), "the disk is full"),
    "a limit on file sizes": lambda p: (mnv2c("build", SPEC, cwd=p.folder, before=_no_large_files), "File too large"),
    "no zig and no compiler": lambda p: (_without_ziglang(p, "build", p.spec()), "pip install ziglang"),
    "tuning for another machine": lambda p: (
        mnv2c("tune", SPEC, "--target", "arm", "--schedules", p.folder / "s"),
        "kernels for aarch64 cannot be timed on this machine (x86_64): `--measure static`",
    ),
    "a file for records": lambda p: (
        mnv2c("tune", p.spec(), "--schedules", p.file("taken", "x"), "--trials", "1"),
        "taken",
    ),
    "a tiny disk for records": lambda p: (_tune_on_a_tiny_disk(p), "the records cannot be written: No space left"),
    "no records there": lambda p: (mnv2c("records", "list", "--schedules", p.folder / "none"), "no such directory"),
    "a kernel without records": lambda p: (
        mnv2c("records", "show", "dense", "--schedules", p.folder),
        "no record of a kernel with 'dense'",
    ),
    "nothing to merge": lambda p: (
        mnv2c("records", "merge", p.folder / "none", "--schedules", p.folder),
        "none: no such directory",
    ),
    "untuned where tuned is required": lambda p: (
        p.build_mini("--require-tuned", "--schedules", p.folder),
        "kernels have no record of their own",
    ),
    "records that are nowhere": lambda p: (
        p.build_mini("--schedules", p.folder / "none"),
        "none: no such directory; `mnv2c tune --schedules DIR` makes one",
    ),
    "no library there": lambda p: (mnv2c("validate", p.folder / "nothing"), "nothing: no such directory"),
    "not a library": lambda p: (mnv2c("run", p.folder, p.image()), "no manifest.json"),
    "damaged manifest": lambda p: (
        mnv2c("bench", p.damaged("manifest.json", _truncated)),
        "manifest.json: changed, damaged",
    ),
    "damaged library": lambda p: (mnv2c("run", p.damaged(SHARED, _truncated), p.image()), SHARED),
    "something else for a library": lambda p: (mnv2c("run", p.damaged(SHARED, lambda b: b"!" * 99), p.image()), SHARED),
    "library for another machine": lambda p: (mnv2c("run", p.damaged(SHARED, _for_arm), p.image()), SHARED),
    "manifest of another machine": lambda p: (
        mnv2c("run", _foreign(p), p.image()),
        "built for aarch64 (aarch64-linux-gnu), but this machine is x86_64: give the command `--runner qemu`",
    ),
    "no qemu": lambda p: (
        mnv2c("validate", _foreign(p), "--runner", "qemu", environment={"PATH": str(p.folder)}),
        "no qemu-aarch64-static, which runs programs for aarch64 here: apt install qemu-user-static",
    ),
    "no ssh": lambda p: (
        mnv2c("run", p.library, p.image(), "--runner", "ssh:board", environment={"PATH": str(p.folder)}),
        "apt install openssh-client",
    ),
    "no qemu that counts": lambda p: (
        mnv2c("bench", p.library, "--count", "--runner", "qemu", environment={"PATH": str(p.folder)}),
        "no qemu-x86_64, which counts instructions: apt install qemu-user",
    ),
    "cost of a library for x86": lambda p: (
        mnv2c("cost", p.library),
        "runs code for x86_64 has a model here; there are cortex-",
    ),
    "a wheel of no library": lambda p: (mnv2c("wheel", p.folder), "no manifest.json"),
    "a wheel of a damaged library": lambda p: (
        mnv2c("wheel", p.damaged(SHARED, _truncated)),
        "libmnv2_0_35.so: not as it was built; build the library again",
    ),
    "a wheel of Python's own name": lambda p: (
        mnv2c("wheel", p.damaged("manifest.json", _manifest_of_json)),
        "json means something else to Python; give the spec another name",
    ),
    "a file where a wheel should go": lambda p: (
        mnv2c("wheel", p.library, "--out", p.file("taken", "x")),
        "taken: cannot be made: File exists; choose another place with --out",
    ),
    "cost of nothing": lambda p: (mnv2c("cost", p.folder), "no manifest.json"),
    "cost on an unknown core": lambda p: (
        mnv2c("cost", _foreign(p), "--core", "cortx-a53"),
        "did you mean cortex-a53?",
    ),
    "cost of 64-bit code on a 32-bit core": lambda p: (
        mnv2c("cost", _foreign(p), "--core", "cortex-a7"),
        "core cortex-a7 does not run code for aarch64; there are cortex-a53,",
    ),
    "memory of an unknown board": lambda p: (
        mnv2c("cost", p.library, "--memory", "--board", "p5"),
        "did you mean pi5?",
    ),
    "memory of a library for x86": lambda p: (
        mnv2c("cost", p.library, "--memory", "--board", "pi4"),
        "no core that runs code for x86_64 has a model here",
    ),
    "estimates for x86": lambda p: (
        mnv2c("tune", p.spec(), "--target", "x86-v3", "--measure", "static", "--schedules", p.folder / "s"),
        "no core that runs code for x86_64 has a model here",
    ),
    "unknown runner": lambda p: (mnv2c("validate", p.library, "--runner", "qmeu"), "did you mean qemu?"),
    "a runner of no kind": lambda p: (
        mnv2c("validate", p.library, "--runner", "docker"),
        "give qemu, qemu:CPU or ssh:",
    ),
    "a host that is an option": lambda p: (
        mnv2c("validate", p.library, "--runner", "ssh:-oProxyCommand=x"),
        "give ssh:[USER@]HOST[:PORT]",
    ),
    "damaged reference": lambda p: (
        mnv2c("validate", p.damaged("model.onnx", _truncated)),
        "model.onnx: not as it was built",
    ),
    "instruction set that is not there": lambda p: (
        mnv2c("validate", p.library, "--instruction-set", "v9"),
        "no instruction set 'v9'",
    ),
    "missing image": lambda p: (mnv2c("run", p.library, p.folder / "cat.jpg"), "cat.jpg: no such image"),
    "not an image": lambda p: (mnv2c("run", p.library, p.file("cat.jpg", "meow")), "cat.jpg: not an image"),
    "truncated image": lambda p: (
        mnv2c("run", p.library, p.file("cut.png", _truncated(p.image().read_bytes()))),
        "cut.png: the image is damaged",
    ),
    "folder without images": lambda p: (
        mnv2c("validate", p.library, "--images", p.folder),
        "no images in this directory",
    ),
    "labels of another network": lambda p: (
        mnv2c("run", p.library, p.image(), "--labels", p.file("labels.txt", "thing\n" * (CLASSES - 1))),
        "1000 labels for 1001 classes; the network has a background class",
    ),
    "labels that are not text": lambda p: (
        mnv2c("run", p.library, p.image(), "--labels", p.file("labels.txt", b"\xff\xfe")),
        "labels.txt: not UTF-8",
    ),
    "a place that is not there": lambda p: (
        mnv2c("show", SPEC, "--out", p.folder / "no" / "x"),
        "no/x: cannot be written",
    ),
}
"""Mistakes in files and places: status 1."""

CASES = [(name, case, 2) for name, case in COMMANDS.items()] + [(name, case, 1) for name, case in FILES.items()]


@pytest.mark.parametrize(("case", "status"), [pytest.param(case, status, id=name) for name, case, status in CASES])
def test_misuse(case: Case, status: int, tmp_path: Path, small_library: Path) -> None:
    done, words = case(Place(tmp_path, small_library))
    assert done.returncode == status, done.stderr
    errors = re.findall(r"^mnv2c: error: .*", done.stderr, re.MULTILINE)
    assert len(errors) == 1, done.stderr
    message = done.stderr[done.stderr.index(errors[0]) :]
    assert words in message
    assert "Traceback" not in done.stderr
    assert "a bug in mnv2c" not in message
    assert done.stdout == ""


def test_nobodys_work_is_lost(tmp_path: Path, small_library: Path) -> None:
    place = Place(tmp_path, small_library)
    folder = _someones_folder(place)
    place.build_mini("--out", folder)
    assert [path.name for path in folder.iterdir()] == ["chapter1.tex"]


def test_every_error_of_a_spec_at_once(tmp_path: Path) -> None:
    spec = tmp_path / "wrong.yaml"
    spec.write_text(MINI.replace("classes: 16", "classes: many").replace("padding: same", "padding: valid"), "utf-8")
    done = mnv2c("build", spec, "--set", "stem.c=0")
    assert done.returncode == 1
    assert done.stderr.startswith("mnv2c: error: 3 mistakes:\n")
    assert all(place in done.stderr for place in ("wrong.yaml:3:10", "wrong.yaml:5:10", "--set:1:8"))


def test_the_doctor_says_how_to_get_zig(tmp_path: Path, small_library: Path) -> None:
    done = _without_ziglang(Place(tmp_path, small_library), "doctor")
    assert done.returncode == 1
    assert "pip install 'ziglang==" in done.stdout
    assert "missing: ziglang" in done.stdout
