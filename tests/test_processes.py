"""What is started ends with whoever started it, and what it has started as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnv2c import processes

SLEEP = ("sleep", "1000")
SHELL_AND_SLEEP = ("sh", "-c", "sleep 1000 & echo $!; wait")


def is_alive(number: int) -> bool:
    """A zombie, which nobody has waited for, is not."""
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(number: int) -> None:
    for _ in range(1200):
        if not is_alive(number):
            return
        time.sleep(0.05)
    pytest.fail(f"process {number} is still there")


def test_it_gives_what_was_written_and_the_status() -> None:
    done = processes.run(("sh", "-c", "cat; echo told >&2; exit 3"), feed=b"\xff fed")
    assert (done.stdout, done.stderr, done.returncode) == ("� fed", "told\n", 3)


def test_side_by_side_each_keeps_its_own(tmp_path: Path) -> None:
    """More is written than a pipe holds, by each, while another is waited for."""
    commands = [("sh", "-c", f"head -c 300000 /dev/zero | tr '\\0' {letter}; exit {letter}") for letter in "12"]
    first, second = processes.run_side_by_side(commands, cwd=tmp_path, env=dict(os.environ))
    assert (first.stdout, first.returncode) == ("1" * 300_000, 1)
    assert (second.stdout, second.returncode) == ("2" * 300_000, 2)


def test_where_one_cannot_be_started_none_goes_on(tmp_path: Path) -> None:
    note = tmp_path / "number"
    first = ("sh", "-c", f"echo $$ > {note}.part; mv {note}.part {note}; exec sleep 1000")
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError):
        processes.run_side_by_side([first, (str(tmp_path / "none"),)], cwd=tmp_path, env=dict(os.environ))
    assert time.monotonic() - begin < 500, "nobody waited for the first"
    if note.exists():
        wait_until_gone(int(note.read_text("ascii")))


def test_what_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        processes.run(SHELL_AND_SLEEP, seconds=1)
    wait_until_gone(int(caught.value.output))


def test_the_end_of_one_is_the_end_of_its_children() -> None:
    with processes.start(SHELL_AND_SLEEP) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_alive(child)
        assert processes.end(process) == -signal.SIGKILL
    wait_until_gone(child)
    assert processes.end(process) == -signal.SIGKILL, "once more is no mistake"


@pytest.mark.parametrize("how", ["start", "fork"])
def test_it_dies_with_us(how: str) -> None:
    code = {
        "start": "print(processes.start(('sleep', '1000')).pid, flush=True); time.sleep(1000)",
        "fork": "print(processes.fork(lambda: time.sleep(1000)), flush=True); time.sleep(1000)",
    }[how]
    command = [sys.executable, "-c", f"import time; from mnv2c import processes; {code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until_gone(child)


def test_signals_reach_it_as_ever(tmp_path: Path) -> None:
    """They are held around the fork alone, in the child and here."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with processes.start(SLEEP) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    blocked = processes.run(
        (sys.executable, "-c", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    )
    assert blocked.stdout == f"{mask}\n"


@pytest.mark.parametrize("how", ["start", "fork"])
def test_an_interrupt_in_the_hooks_of_a_fork_is_raised_after_it(how: str) -> None:
    """Python would print a traceback for it there, and go on as if nothing had happened."""
    code = f"""
import os, signal
from mnv2c import processes
os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGINT))
try:
    {"processes.start(('true',))" if how == "start" else "processes.fork(lambda: os._exit(0))"}
except KeyboardInterrupt:
    print("raised")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("raised\n", "")


def test_what_a_fork_raises_ends_it_alone() -> None:
    def fail() -> None:
        raise ValueError

    _, status = os.waitpid(processes.fork(fail), 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_it_has_our_inheritable_files_where_it_is_to_keep_them() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        for keeps, expected in ((True, 0), (False, 1)):
            code = f"import os; os.fstat({writer})"
            assert processes.run((sys.executable, "-c", code), keeps_files=keeps).returncode == expected
    finally:
        os.close(reader)
        os.close(writer)
