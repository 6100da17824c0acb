"""``mnv2c.load``: right numbers from Python, and one clear line for every mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_build import changed_manifest
from PIL import Image
from tiny_program import CLASSES, HEIGHT, WIDTH, baseline_target, image, reference, tiny_manifest, tiny_program

import mnv2c
from mnv2c.codegen.assemble import assemble
from mnv2c.deploy import binding
from mnv2c.deploy.native import cpu_name
from mnv2c.errors import LibraryError
from mnv2c.measure.images import read_rgb, seeded_image
from mnv2c.targets import V2, native_target

SHAPE = (1, HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tiny_program(tmp_path_factory.mktemp("kernels"))
    directory = tmp_path_factory.mktemp("build") / "tiny"
    assemble(program, tiny_manifest(program), extra={}).write(directory)
    return directory


def expected(x: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return reference(x)["classifier"]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_computes_what_the_kernels_compute(built: Path, threads: int) -> None:
    with mnv2c.load(built, threads=threads) as net:
        assert net.threads == threads
        assert net.input_shape == SHAPE
        for seed in range(20):
            np.testing.assert_allclose(net.run(image(seed)), expected(image(seed)), atol=1e-6)


def test_runs_on_bytes(built: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    x = (pixels.astype(np.float32) - 127.5) / 127.5
    with mnv2c.load(str(built)) as net:
        np.testing.assert_allclose(net.run_rgb(pixels), expected(x), atol=1e-6)
        np.testing.assert_array_equal(net.run_rgb(pixels[0]), net.run_rgb(pixels))
        assert net.layers(pixels)[0].array.shape == SHAPE


def test_takes_arrays_that_are_not_contiguous(built: Path) -> None:
    x = image(3)
    with mnv2c.load(built) as net:
        np.testing.assert_array_equal(net.run(np.asfortranarray(x)), net.run(x))
        np.testing.assert_array_equal(net.run(np.repeat(x, 2, axis=2)[:, :, ::2]), net.run(x))


def test_any_float_alignment(built: Path) -> None:
    memory = np.zeros(image(0).size + 16, np.float32)
    with mnv2c.load(built) as net:
        for start in range(16):
            x = memory[start : start + image(0).size].reshape(SHAPE)
            x[:] = image(0)
            np.testing.assert_array_equal(net.run(x), net.run(image(0)))


def test_layers_inside_their_borders(built: Path) -> None:
    with mnv2c.load(built, threads=2) as net:
        layers = net.layers(image(1))
    assert [layer.name for layer in layers] == list(reference(image(1)))
    for layer in layers:
        want = reference(image(1))[layer.name]
        np.testing.assert_allclose(layer.array.reshape(want.shape), want, atol=1e-6)
    assert layers[-1].array.shape == (1, 1, 1, CLASSES)
    assert layers[0].macs == HEIGHT * WIDTH * 3
    assert all(layer.nanoseconds > 0 for layer in layers)


def test_chooses_the_best_instruction_set(built: Path) -> None:
    with mnv2c.load(built) as net:
        assert net.instruction_set == native_target().instruction_sets[0].name
        assert net.instruction_sets == ("v4", "v3", "v2")


@pytest.mark.parametrize("name", ["v2", "v3", "v4"])
def test_each_instruction_set_forced(built: Path, name: str) -> None:
    if name > native_target().instruction_sets[0].name:
        with pytest.raises(LibraryError, match=f"this processor lacks the instruction set {name}"):
            mnv2c.load(built, instruction_set=name)
        return
    with mnv2c.load(built, instruction_set=name) as net:
        assert net.instruction_set == name
        np.testing.assert_allclose(net.run(image(0)), expected(image(0)), atol=1e-6)


def test_a_processor_with_none_of_the_instruction_sets(tmp_path: Path) -> None:
    future = replace(baseline_target(), instruction_sets=(replace(V2, name="v9"),))
    program = tiny_program(tmp_path, target=future)
    assemble(program, tiny_manifest(program), extra={}).write(tmp_path / "build")
    with pytest.raises(LibraryError, match="none of the library's instruction sets: v9"):
        mnv2c.load(tmp_path / "build")


def test_many_threads_at_once(built: Path) -> None:
    with mnv2c.load(built, threads=2) as common, ThreadPoolExecutor(8) as threads:
        sharer = mnv2c.Network(built, share_threads_with=common)
        assert sharer.threads == 2
        nets = [common, sharer, common, sharer, *(mnv2c.load(built) for _ in range(4))]

        def workload(index: int) -> float:
            x = image(index)
            return max(float(np.abs(nets[index].run(x) - expected(x)).max()) for _ in range(100))

        assert max(threads.map(workload, range(8))) < 1e-6


def test_sharing_outlives_the_owner(built: Path) -> None:
    owner = mnv2c.load(built, threads=2)
    sharer = mnv2c.Network(built, share_threads_with=owner)
    owner.close()
    np.testing.assert_allclose(sharer.run(image(0)), expected(image(0)), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(SHAPE), "expected an array of float32, got float64"),
        (np.zeros(SHAPE, np.uint8), "expected an array of float32, got uint8"),
        (
            np.zeros((1, 3, HEIGHT, WIDTH), np.float32),
            r"expected an array of shape \(1, 40, 6, 3\), got \(1, 3, 40, 6\)",
        ),
        (np.zeros((2, HEIGHT, WIDTH, 3), np.float32), "expected an array of shape"),
        ("a photograph", "expected an array of float32"),
    ],
)
def test_wrong_input(built: Path, x: Any, words: str) -> None:
    with mnv2c.load(built) as net, pytest.raises(LibraryError, match=words):
        net.run(x)


FRAME = seeded_image(0, (60, 90, 3))
YUV420 = seeded_image(1, (90, 64, 1))[..., 0]  # 64 x 60


def test_an_image_of_another_size(built: Path, tmp_path: Path) -> None:
    Image.fromarray(FRAME).save(tmp_path / "frame.png")
    with mnv2c.load(built, threads=2) as net:
        for fit in ("crop", "stretch"):
            wanted = net.run_rgb(read_rgb(tmp_path / "frame.png", height=HEIGHT, width=WIDTH, fit=fit))
            np.testing.assert_array_equal(net.run_image(FRAME, "rgb", fit=fit), wanted)
            np.testing.assert_array_equal(net.run_image(FRAME[..., ::-1], "bgr", fit=fit), wanted)
            for order, format in (((0, 1, 2, 0), "rgbx"), ((2, 1, 0, 0), "bgrx")):
                np.testing.assert_array_equal(net.run_image(FRAME[..., order], format, fit=fit), wanted)
        pixels = seeded_image(2, (HEIGHT, WIDTH, 3))
        np.testing.assert_array_equal(net.run_image(pixels, "rgb"), net.run_rgb(pixels))


def test_the_layouts_of_yuv(built: Path) -> None:
    """The same Y, U and V, in three layouts; rows of U and V once for two of Y."""
    height, width = 60, 64
    y, u, v = YUV420[:height], YUV420[height : height + 15].reshape(30, 32), YUV420[height + 15 :].reshape(30, 32)
    nv12 = np.concatenate([y, np.stack([u, v], axis=2).reshape(30, width)])
    u, v = (plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (u, v))
    yuyv = np.stack([y, np.where(np.arange(width) % 2, v, u)], axis=2)
    with mnv2c.load(built) as net:
        for matrix in ("bt601", "bt601_full", "bt709"):
            wanted = net.run_image(YUV420, "yuv420", matrix=matrix)
            np.testing.assert_array_equal(net.run_image(nv12, "nv12", matrix=matrix), wanted)
            np.testing.assert_array_equal(net.run_image(yuyv, "yuyv", matrix=matrix), wanted)
        assert not np.array_equal(net.run_image(nv12, "nv12"), net.run_image(nv12, "nv12", matrix="bt709"))


@pytest.mark.parametrize(
    ("array", "format"), [(FRAME, "rgb"), (FRAME[..., [0, 1, 2, 0]], "bgrx"), (YUV420, "nv12"), (YUV420, "yuv420")]
)
def test_rows_that_lie_apart_are_not_copied(built: Path, array: np.ndarray[Any, Any], format: str) -> None:
    wide = np.pad(array, [(0, 0), (0, 6)] + [(0, 0)] * (array.ndim - 2))
    view = wide[:, : array.shape[1]]
    if format == "yuv420":  # as cameras pad it: rows of U and V lie half as far apart, and fill half of a row
        height, half = 60, wide.shape[1] // 2
        halves = wide[height:].reshape(-1, half)
        halves[:, :32] = array[height:].reshape(-1, 32)
    with mnv2c.load(built) as net:
        np.testing.assert_array_equal(net.run_image(view, format), net.run_image(array, format))
        assert binding._described(view, format, "crop", "bt601")[1] is view
        np.testing.assert_array_equal(net.run_image(array[::-1].copy()[::-1], format), net.run_image(array, format))


def test_as_many_images_as_the_batch(tmp_path: Path) -> None:
    program = tiny_program(tmp_path, target=baseline_target(), batch=2)
    assemble(program, tiny_manifest(program), extra={}).write(tmp_path / "build")
    fitting, larger = seeded_image(3, (HEIGHT, WIDTH, 3)), FRAME
    with mnv2c.load(tmp_path / "build") as net:
        for one, other in ((fitting, larger), (larger, fitting)):
            found = net.run_image([one, other], "rgb")
            swapped = net.run_image([other, one], "rgb")
            np.testing.assert_array_equal(found, swapped[::-1])
        np.testing.assert_array_equal(net.run_image([fitting] * 2, "rgb"), net.run_rgb(np.stack([fitting] * 2)))
        with pytest.raises(LibraryError, match="expected 2 images, got 60"):
            net.run_image(FRAME, "rgb")


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (FRAME, {"format": "rbg"}, "unknown format 'rbg': there are rgb, bgr, rgbx, bgrx, yuyv, nv12, yuv420"),
        (FRAME, {"format": "rgb", "fit": "pad"}, "unknown fit 'pad': there are crop, stretch"),
        (FRAME, {"format": "rgb", "matrix": "bt2020"}, "unknown matrix 'bt2020'"),
        (FRAME.astype(np.float32), {"format": "rgb"}, "expected an image of uint8, got float32"),
        (FRAME, {"format": "bgrx"}, r"expected an image of bgrx of shape \(height, width, 4\), got \(60, 90, 3\)"),
        (FRAME, {"format": "nv12"}, r"nv12 of shape \(height \* 3 / 2, width\), got \(60, 90, 3\)"),
        (YUV420[:-1], {"format": "nv12"}, r"got \(89, 64\)"),
        (YUV420[:, 1:], {"format": "yuv420"}, "odd in a format where two pixels share colour"),
        (FRAME[:0], {"format": "rgb"}, "width or height is out of range"),
        (np.zeros((1, 16385, 3), np.uint8), {"format": "rgb"}, "width or height is out of range"),
    ],
)
def test_wrong_images(built: Path, array: Any, options: dict[str, str], words: str) -> None:
    with mnv2c.load(built) as net, pytest.raises(LibraryError, match=words):
        net.run_image(array, **options)


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, "2", True])
def test_wrong_threads(built: Path, threads: Any) -> None:
    with pytest.raises(LibraryError, match="threads must be a whole number from 1 to 256"):
        mnv2c.load(built, threads=threads)


def test_threads_stay_on_their_cpus(built: Path) -> None:
    tasks, here = Path("/proc/self/task"), os.sched_getaffinity(0)
    before = set(tasks.iterdir())
    cpus = (sorted(here) * 2)[:2]
    with mnv2c.load(built, threads=4, cpus=cpus) as net:
        workers = [os.sched_getaffinity(int(task.name)) for task in set(tasks.iterdir()) - before]
        assert sorted(workers, key=min) == sorted(({cpus[thread % 2]} for thread in (1, 2, 3)), key=min)
        assert os.sched_getaffinity(0) == here, "the caller is left where it is"
        np.testing.assert_allclose(net.run(image(0)), expected(image(0)), atol=1e-6)


@pytest.mark.parametrize(
    ("cpus", "words"),
    [
        ([], r"cpus must be the numbers of processors, such as \[0, 1\], got \[\]"),
        ([-1], r"got \[-1\]"),
        (["0"], r"got \['0'\]"),
        ([0.5], r"got \[0\.5\]"),
        ([0, 99_999], "a processor in cpus does not exist, or this program may not run on it"),
    ],
)
def test_wrong_cpus(built: Path, cpus: Any, words: str) -> None:
    with pytest.raises(LibraryError, match=words):
        mnv2c.load(built, cpus=cpus)


def test_who_shares_threads_cannot_move_them(built: Path) -> None:
    with mnv2c.load(built) as owner, pytest.raises(LibraryError, match="invalid argument"):
        mnv2c.Network(built, share_threads_with=owner, cpus=[0])


def test_unknown_instruction_set(built: Path) -> None:
    with pytest.raises(LibraryError, match="no instruction set 'avx2' in the library; it has v4, v3, v2"):
        mnv2c.load(built, instruction_set="avx2")


def test_a_kernel_that_refuses(built: Path) -> None:
    with mnv2c.load(built) as net, pytest.raises(LibraryError, match="a kernel refused to run"):
        net.run(np.full(SHAPE, 1e9, np.float32))


def test_closed(built: Path) -> None:
    net = mnv2c.load(built)
    net.close()
    net.close()
    with pytest.raises(LibraryError, match="the network is closed"):
        net.run(image(0))


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no such directory; `mnv2c build"):
        mnv2c.load(tmp_path / "nowhere")
    with pytest.raises(LibraryError, match=r"no manifest\.json in it"):
        mnv2c.load(tmp_path)


def test_wrong_architecture_and_damaged_library(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    library, manifest = copy / "lib" / "libtiny_1_0.so", copy / "manifest.json"
    whole = library.read_bytes()
    for wrong in (b"", whole[:1000], whole[:-1], whole[:5000] + b"x" + whole[5001:]):
        library.write_bytes(wrong)
        with pytest.raises(LibraryError, match=r"libtiny_1_0\.so: not as it was built; build the library again"):
            mnv2c.load(copy)
    library.unlink()
    with pytest.raises(LibraryError, match="missing; build the library again"):
        mnv2c.load(copy)
    content = changed_manifest(manifest.read_bytes(), lambda m: m["target"].update(triple="riscv64-linux-gnu"))
    manifest.write_bytes(content)
    with pytest.raises(LibraryError, match="built for riscv64"):
        mnv2c.load(copy)


def test_names_of_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo, board = tmp_path / "cpuinfo", tmp_path / "model"
    monkeypatch.setattr("mnv2c.deploy.native._CPUINFO", cpuinfo)
    monkeypatch.setattr("mnv2c.deploy.native._BOARD", board)
    assert cpu_name() == "unknown processor"
    cpuinfo.write_text("processor\t: 0\nCPU part\t: 0xd08\n")
    board.write_bytes(b"Raspberry Pi 4 Model B Rev 1.1\0")
    assert cpu_name() == "Raspberry Pi 4 Model B Rev 1.1"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763\n")
    assert cpu_name() == "AMD EPYC 7763"


def test_imports_no_tvm(built: Path) -> None:
    script = (
        "import sys, mnv2c; assert 'numpy' not in sys.modules; mnv2c.load(sys.argv[1]).close(); "
        "assert not {'tvm', 'tvm_ffi', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(built)], check=True)
