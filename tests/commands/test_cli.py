"""The commands that need no library: help, show, targets, doctor; and how every command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from command_line import REPOSITORY, SPECS, mnv2c, succeed, succeed_json
from small_library import SMALL

from mnv2c.cli import main
from mnv2c.measure.report import summarize
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.weights.seeded import seeded_weights

SPEC = SPECS / "mnv2_1.0.yaml"


def imported_by(*arguments: str | Path) -> set[str]:
    """The packages that a command imports."""
    python = (sys.executable, "-X", "importtime", "-m", "mnv2c")
    lines = mnv2c(*arguments, python=python).stderr.splitlines()
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}


def test_help_imports_nothing_heavy() -> None:
    packages = imported_by("--help")
    assert "mnv2c" in packages
    assert not packages & {"tvm", "numpy", "onnx", "onnxruntime", "PIL", "yaml"}


def test_show_imports_no_tvm() -> None:
    packages = imported_by("show", SPEC)
    assert "numpy" in packages
    assert not packages & {"tvm", "onnx", "onnxruntime", "PIL"}


def test_help_names_every_command() -> None:
    text = succeed("--help")
    for command in ("build", "show", "validate", "run", "bench", "targets", "doctor"):
        assert f"    {command} " in text
        assert succeed(command, "--help").startswith(f"usage: mnv2c {command}")


def test_show_prints_what_the_report_counts() -> None:
    """tests/measure/test_report.py holds the counts against those that are published."""
    totals = summarize(build_graph(spec := load_spec(SPEC), seeded_weights(spec, 0))).totals
    shown = succeed_json("show", SPEC)["totals"]
    assert (shown["macs"], shown["weights"], shown["parameters"]) == (totals.macs, totals.weights, totals.parameters)
    assert shown["arena_bytes"] > 0


def test_show_says_what_runs_in_bands() -> None:
    names = {"--target": "arm", "--bands": "2"}
    kernels = succeed("show", SPEC, "--emit", "kernels", *(word for pair in names.items() for word in pair))
    (line,) = (line for line in kernels.splitlines() if line.startswith("block2.dw ="))
    assert line.endswith("  in bands of 2")
    assert "_band2_relu6_ring(" in line
    assert "in bands" not in succeed("show", SPEC, "--emit", "kernels")
    assert succeed_json("show", SPEC, "--target", "cuda")["totals"]["arena_bytes"] is None


def test_show_takes_overrides() -> None:
    layers = succeed_json("show", SPEC, "--set", "classes=10", "--set", "resolution=96")["layers"]
    assert layers[-1]["shape"] == [1, 10]
    assert layers[0]["shape"] == [1, 48, 48, 32]


def test_show_prints_the_graph_after_a_pass() -> None:
    assert "BatchNorm(" in succeed("show", SPEC, "--after", "frontend")
    assert "BatchNorm(" in succeed("show", SPEC, "--emit", "ir")
    folded = succeed("show", SPEC, "--after", "fold_batchnorm")
    assert "BatchNorm(" not in folded
    assert "ReLU6(" in folded


def test_show_prints_onnx_as_text_and_writes_it_as_onnx(tmp_path: Path) -> None:
    text = succeed("show", *SMALL, "--emit", "onnx")
    assert "BatchNormalization" in text
    assert len(text) < 100_000
    file = tmp_path / "reference.onnx"
    assert succeed("show", *SMALL, "--emit", "onnx", "--out", file) == ""
    onnx.checker.check_model(onnx.load(file))
    assert [path.name for path in tmp_path.iterdir()] == ["reference.onnx"]


def test_show_prints_relax() -> None:
    assert "R.nn.conv2d" in succeed("show", *SMALL, "--emit", "relax")


def test_targets_are_listed() -> None:
    names = [target["name"] for target in succeed_json("targets")]
    assert {"x86", "native"} < set(names)
    assert all(name in succeed("targets") for name in names)


def test_doctor_finds_this_machine_fit() -> None:
    findings = {finding["name"]: finding for finding in succeed_json("doctor")["findings"]}
    for name in ("python", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "ziglang", "C compilation"):
        assert findings[name]["ok"], findings[name]


def test_doctor_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    done = mnv2c("doctor", environment={"PATH": str(tmp_path)})
    assert done.returncode == 0
    assert "apt install cmake" in done.stdout


def test_a_closed_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "mnv2c", "show", SPEC], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.parametrize(
    ("how", "word"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "the terminal was closed")],
)
def test_ended_in_one_line(how: signal.Signals, word: str, tmp_path: Path) -> None:
    out = tmp_path / "library"
    command = [sys.executable, "-m", "mnv2c", "build", *SMALL, "--target", "native", "--out", str(out)]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(how, signal.SIG_DFL),  # whoever started the tests may ignore it, as nohup does
    ) as process:
        assert process.stderr is not None
        assert "read the weights" in process.stderr.readline()
        process.send_signal(how)
        rest = process.stderr.read()
    assert process.returncode == 128 + how
    assert rest.splitlines()[-1] == f"mnv2c: error: {word}"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
def test_what_a_shell_has_its_jobs_ignore_does_not_end_them(how: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import os, sys
from mnv2c.__main__ import main
import mnv2c.commands.targets as targets
targets.command = lambda options: os.kill(os.getpid(), {int(how)}) or 0
sys.argv = ["mnv2c", "targets"]
sys.exit(main())
"""
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    done = mnv2c(
        cwd=tmp_path, python=(sys.executable, "-m", "program"), before=lambda: signal.signal(how, signal.SIG_IGN)
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ended_while_it_is_imported(tmp_path: Path) -> None:
    """Its imports wait for us, in a module of the same name as one of them."""
    (tmp_path / "argparse.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(1000)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for how in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, "-m", "mnv2c"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"importing\n"
            process.send_signal(how)
            _, told = process.communicate()
        assert (process.returncode, told) == (-how, b"")


def test_an_interrupt_within_exec(tmp_path: Path) -> None:
    """``python -m`` would end itself by SIGINT, in place of our status."""
    code = """
import signal, sys
import mnv2c.commands.targets as targets
from mnv2c.cli import main
targets.command = lambda options: exec("signal.raise_signal(signal.SIGTERM)")
sys.exit(main(["targets"]))
"""
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "mnv2c: error: terminated\n")


def test_an_interrupt_that_became_another_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TVM makes a RuntimeError of what is raised while it calls Python."""

    def interrupted(options: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError from None
        return 0

    monkeypatch.setattr("mnv2c.commands.targets.command", interrupted)
    assert main(["targets"]) == 130
    assert capsys.readouterr().err == "mnv2c: error: interrupted\n"


def test_a_bug_asks_to_be_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(options: object) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("mnv2c.commands.targets.command", broken)
    assert main(["targets"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("mnv2c: error: a bug in mnv2c (RuntimeError: two lines); please report it")
    assert message.count("\n") == 1
    monkeypatch.setenv("MNV2C_DEBUG", "1")
    assert main(["targets"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_build_tells_what_it_built(small_library: Path, tmp_path: Path) -> None:
    done = mnv2c("build", *SMALL, "--target", "native", "--out", tmp_path / "again", "--json")
    built = json.loads(done.stdout)
    assert built["files"]["manifest.json"] > 0
    assert "seed 1" in built["manifest"]["weights"]["origin"]
    assert "write" in done.stderr
    for path in built["files"]:
        assert (tmp_path / "again" / path).read_bytes() == (small_library / path).read_bytes(), path
