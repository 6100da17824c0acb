"""Programs that answer what ``runner.c`` would not, or without end: each is one line, in bounded time and memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import check_refused, mnv2c
from loopback import loopback
from tiny_program import baseline_target, image, reference, tiny_manifest, tiny_program

from mnv2c.codegen.assemble import assemble
from mnv2c.deploy import peer as peers
from mnv2c.deploy import ssh
from mnv2c.deploy.network import Build, read_build
from mnv2c.deploy.peer import Peer, RemoteNetwork
from mnv2c.deploy.ssh import Host, run_there
from mnv2c.errors import LibraryError, ToolError

PATIENT = 60.0  # longer than anything below takes: a test that waits so long has failed

FRAMES = """
import struct, sys, time
def write(data): sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
def answer(payload, status=0, nanoseconds=1, magic=0x4132766D, size=None):
    write(struct.pack("<IiQQ", magic, status, nanoseconds, len(payload) if size is None else size) + payload)
def layer(name, shape, payload, macs=0, element=4, size=None):
    about = struct.pack("<Q4qQ", macs, *shape, element)
    answer(about + payload + name, magic=0x4C32766D, size=size)
def hello(): answer(b"v2 1 1x40x6x3 1x7")
def stem(macs=720, shape=(1, 40, 6, 3), element=4, name=b"stem"):
    layer(name, shape, bytes(720 * element), macs, element)
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    place = tmp_path_factory.mktemp("tiny")
    program = tiny_program(place, target=baseline_target())
    assemble(program, tiny_manifest(program), extra={}).write(place / "library")
    return read_build(place / "library")


def opened(build: Build, script: str) -> RemoteNetwork:
    """A network at the other end of a program that answers by ``script``, whatever it is asked."""
    peer = Peer([sys.executable, "-c", f"{FRAMES}{script}\nsys.stdin.buffer.read()"], str, patience=PATIENT)
    return RemoteNetwork(build, peer, processor="a board", threads=1, instruction_set=None)


def refused(build: Build, script: str, *, layers: bool = False) -> str:
    """What is said, in one line."""
    with pytest.raises(LibraryError) as caught, opened(build, script) as net:
        (net.layers if layers else net.run)(image(0))
    message = str(caught.value)
    assert message.startswith(str(build.directory))
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


def test_right_answers(build: Build) -> None:
    """Those below differ from these by what their names say."""
    logits = "answer(struct.pack('<7f', *range(7)))"
    with opened(build, f"hello(); {logits}") as net:
        assert (net.instruction_set, net.threads) == ("v2", 1)
        assert net.run(image(0)).tolist() == [list(range(7))]
    rest = "layer(b'block1.mirror', (1, 40, 6, 3), bytes(2880)); layer(b'classifier', (1, 1, 1, 7), bytes(28))"
    with opened(build, f"hello(); stem(); {rest}; {logits}") as net:
        assert [(one.name, one.array.shape[-1]) for one in net.layers(image(0))] == [
            (name, value.shape[-1]) for name, value in reference(image(0)).items()
        ]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("answer(b'v2')", "something else than the program answers: b'v2'"),
        ("answer(b'v2 one 1x40x6x3 1x7')", "something else"),
        ("answer(b'v2 2 1x40x6x3 1x7')", "something else"),
        ("answer(b'v9 1 1x40x6x3 1x7')", "something else"),
        ("answer(b'v2 1')", "something else"),
        ("answer(b'v2 1 xxx 1x')", "input has the shape (0, 0, 0, 0), not (1, 40, 6, 3)"),
        ("answer(b'v2 1 ' + b'9' * 5000)", "something else"),
        ("answer(b'\\xff\\xfe 1 1x40x6x3 1x7')", "something else"),
        ("answer(b'v2 1 1x40x6x3 1x7 1x7')", "the library has 2 outputs, not 1"),
        ("answer(b'', size=2**63)", "something else"),
        ("answer(b'', size=2**17)", "something else"),
        ("layer(b'stem', (1, 40, 6, 3), b'', size=2**40)", "something else"),
        ("answer(b'one\\n\\ntwo', status=77)", ": one two"),
        ("answer(b'', status=-2**31)", ": status -2147483648"),
        ("answer(b'x' * 60000, status=1)", "xxx"),
        ("answer(b'\\xff', status=1)", ": \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_bad_hello(build: Build, script: str, words: str) -> None:
    assert words in refused(build, script)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("answer(bytes(24))", "24 bytes of outputs after 0 layers"),
        ("answer(bytes(27))", "27 bytes of outputs"),
        ("answer(bytes(56))", "56 bytes of outputs"),
        ("answer(b'')", "0 bytes of outputs"),
        ("answer(b'', size=2**63)", "something else"),
        ("answer(bytes(28), nanoseconds=0)", "28 bytes of outputs after 0 layers and 0 ns"),
        ("answer(b'too\\nhot', status=99)", ": too hot"),
        ("stem(); answer(bytes(28))", "a layer after 0"),
        ("answer(bytes(28), magic=0)", "something else"),
    ],
)
def test_bad_logits(build: Build, script: str, words: str) -> None:
    assert words in refused(build, f"hello(); {script}")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("stem(element=3)", "than layer stem"),
        ("layer(b'stem', (1, 40, 6, 3), bytes(2880), 720, 2**63)", "than layer stem"),
        ("stem(macs=7)", "than layer stem"),
        ("stem(name=b'')", "than layer stem"),
        ("stem(name=b'head')", "than layer stem"),
        ("stem(name=b'\\xff\\xff\\xff\\xff')", "than layer stem"),
        ("stem(shape=(1, 40, 6, 4))", "than layer stem"),
        ("stem(shape=(-1, -40, 6, 3))", "than layer stem"),
        ("stem(shape=(0, 40, 6, 3))", "than layer stem"),
        ("stem(shape=(2**62, 2**62, 2**62, 2**62))", "than layer stem"),
        ("answer(b'stem', magic=0x4C32766D)", "than layer stem"),
        ("layer(b'stem', (1, 40, 6, 3), b'', size=2**40)", "something else"),
        ("layer(b'stem', (1, 40, 6, 3), b'', size=2**63)", "something else"),
        ("answer(bytes(28))", "28 bytes of outputs after 0 layers"),
        ("stem(); answer(bytes(28))", "28 bytes of outputs after 1 layers"),
        ("stem(); stem()", "than layer block1.mirror"),
        ("stem(); answer(b'gone', status=6)", ": gone"),
    ],
)
def test_bad_layers(build: Build, script: str, words: str) -> None:
    assert words in refused(build, f"hello(); {script}", layers=True)


def test_stderr_without_end_is_read_and_forgotten() -> None:
    script = "yes 'all is well' | head -c 50000000 >&2; echo >&2; echo but >&2; echo answer; head -c 1; exit 3"
    peer = Peer(["sh", "-c", script], str, patience=PATIENT)
    assert peer.receive(7) == b"answer\n"
    peer.send(b"x")
    with pytest.raises(LibraryError, match="the program ended with status 3: but"):
        peer.receive(100)
    assert len(peer._errors) == peers._KEPT
    peer.close()


def test_a_program_that_closes_its_stdout_and_complains_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_PATIENCE", 0.5)
    peer = Peer(["sh", "-c", "exec >&-; yes 'too hot' >&2"], str, patience=PATIENT)
    with pytest.raises(LibraryError, match=r"the program was killed by SIGKILL: "):
        peer.receive(1)
    peer.close()


def test_a_line_of_stderr_without_end_is_shown_in_part() -> None:
    peer = Peer(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3"], str, patience=PATIENT)
    with pytest.raises(LibraryError, match=r"status 3: x{300}$"):
        peer.receive(1)
    peer.close()


@pytest.mark.parametrize(
    ("script", "ask"),
    [
        ("while echo; do sleep 0.05; done", lambda peer: peer.receive(5000)),
        ("while echo; do sleep 0.05; done", lambda peer: peer.receive_line(b"x", within=5000)),
        ("while echo; do sleep 0.05; done", lambda peer: peer.receive_all(most=5000)),
        ("while head -c 100 >/dev/null; do sleep 0.05; done", lambda peer: peer.send(bytes(200_000))),
    ],
)
def test_dribbles_are_no_answer(script: str, ask: Callable[[Peer], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always a sign of life, and never all of it."""
    monkeypatch.setattr(peers, "_SLOWEST", 1e6)
    peer = Peer(["sh", "-c", script], str, patience=0.5)
    with pytest.raises(LibraryError, match=r"no answer for 0 s: .*, or is too slow"):
        ask(peer)
    peer.close()


def test_a_slow_network_is_no_dribble(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it takes longer than any silence may be."""
    monkeypatch.setattr(peers, "_SLOWEST", 1.0)
    peer = Peer(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 0.5; echo; done; cat"], str, patience=3)
    assert peer.receive(8) == b"\n" * 8
    peer.send(b"more")
    assert peer.receive(4) == b"more"
    peer.close()


@pytest.mark.parametrize("script", ["yes Welcome", "tr '\\0' x </dev/zero", "yes '' | tr -d x"])
def test_a_banner_without_end(script: str) -> None:
    peer = Peer(["sh", "-c", script], str, patience=PATIENT)
    with pytest.raises(LibraryError, match="it writes on and on, and does not run the program"):
        peer.receive_line(b"mnv2c-host ", within=1 << 16)
    assert len(peer._received) <= 1 << 17
    peer.close()


def test_a_banner_of_some_lines() -> None:
    peer = Peer(["sh", "-c", "echo; seq 5000; echo 'mnv2c-host x86_64 a board'; echo more; cat"], str, patience=PATIENT)
    assert peer.receive_line(b"mnv2c-host ", within=1 << 16) == b"x86_64 a board\n"
    assert peer.receive(5) == b"more\n"
    peer.close()


def test_a_host_whose_banner_never_ends(small_library: Path, tmp_path: Path) -> None:
    with loopback(tmp_path, forced="yes Welcome to this wonderful machine.") as server:
        done = mnv2c("validate", small_library, "--runner", server.runner, environment=server.environment)
    check_refused(done, "ssh to ", "@127.0.0.1: it writes on and on, and does not run the program")


def test_a_program_there_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are run to their end: one that writes on and on, one that is silent for longer than it may run."""
    with loopback(tmp_path) as server:
        monkeypatch.setenv("PATH", server.environment["PATH"])
        host = Host.parse(server.runner.removeprefix("ssh:"))
        with pytest.raises(ToolError, match=r"@127\.0\.0\.1: it writes on and on"):
            run_there(host, [], ["yes"], seconds=60)
        done = run_there(host, [], ["sh", "-c", "echo one; echo two >&2; exit 3"], seconds=60)
        assert (done.returncode, done.stdout, done.stderr) == (3, "one\n", "two\n")
        assert run_there(host, [], ["sleep", "60"], seconds=1).returncode == 124
        monkeypatch.setattr(ssh, "_ALONE", "sleep 60\n")
        monkeypatch.setattr(ssh, "_SILENCE", 1.0)
        with pytest.raises(ToolError, match=r"@127\.0\.0\.1: no answer for 2 s"):
            run_there(host, [], ["true"], seconds=1)
