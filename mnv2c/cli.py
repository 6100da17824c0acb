"""The command line: what users type, and how every command ends.

What comes in: arguments. What goes out: the result on stdout, everything else on stderr, and an exit status: 0; 1 for a
failure, told in one line; 2 for a mistake in the arguments; 130 after ^C, 143 after SIGTERM. Only what a command needs
is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import NoReturn

from mnv2c import __version__
from mnv2c.backends import BACKENDS
from mnv2c.commands import (
    UsageError,
    discard_stdout,
    end_on_signals,
    flush_stdout,
    interruption,
    prepare_streams,
    say,
    stop_if_interrupted,
)
from mnv2c.errors import Mnv2cError, SpecError
from mnv2c.precision import PRECISIONS
from mnv2c.spelling import did_you_mean, shown
from mnv2c.targets import Bands

_DEBUG = "MNV2C_DEBUG"
_MOST_THREADS = 256
_LONGEST_LINE = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; never raises."""
    end_on_signals()
    prepare_streams()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        return _fail(str(error), status=2)
    except SpecError as error:
        count = len(error.errors)
        return _fail(f"{count} mistakes:\n{error}" if count > 1 else str(error))
    except Mnv2cError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:
        how, status = interruption()
        return _fail(": ".join([how, *map(str, error.args)]), status=status)
    except BrokenPipeError:  # whoever read our output has seen enough
        discard_stdout()
        return 141
    except MemoryError:
        return _fail("out of memory")
    except ModuleNotFoundError as error:
        return _fail(f"the Python package {error.name} is missing; `mnv2c doctor` says how to get it", bug=error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", bug=error)
    except Exception as error:
        name = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return _fail(f"a bug in mnv2c ({name}); please report it, with what {_DEBUG}=1 makes it print", bug=error)


def _run(arguments: Sequence[str]) -> int:
    """One command, its output written to the end."""
    try:
        options = _parse(arguments)
        module = f"{options.name}_" if iskeyword(options.name) else options.name
        status: int = import_module(f"mnv2c.commands.{module}").command(options)
    except SystemExit as error:  # --help and --version
        status = error.code if isinstance(error.code, int) else 1
    except Exception:
        stop_if_interrupted()  # ^C comes out of TVM, and of a tool that it ended, as another exception
        raise
    flush_stdout()
    return status


def _fail(message: str, *, status: int = 1, bug: Exception | None = None) -> int:
    if bug is not None and os.environ.get(_DEBUG):
        traceback.print_exception(bug)
    lines = "\n".join(map(_cut, message.split("\n")))
    with contextlib.suppress(OSError):  # a terminal that was closed
        print(f"mnv2c: error: {shown(lines)}", file=sys.stderr)
    return status


def _cut(line: str) -> str:
    """Without its middle, where somebody's name in it is too long to be read."""
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


class _Parser(argparse.ArgumentParser):
    """Mistakes become a ``UsageError``; options are never abbreviated."""

    def _print_message(self, message: str, file: object = None) -> None:
        """Help and the version; argparse's own says nothing where they cannot be written."""
        if message:
            say(message.rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        message = message.replace("the following arguments are required: ", "missing: ")
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="mnv2c", description="Compiles MobileNetV2 layer tables into standalone C libraries.")
    parser.add_argument("--version", action="version", version=f"mnv2c {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    known: dict[str, _Parser] = {}
    for name, (description, declare) in _COMMANDS.items():
        known[name] = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
        known[name].set_defaults(name=name)
        declare(known[name])
    first = next((argument for argument in arguments if not argument.startswith("-")), "")
    if first and first not in known:
        raise UsageError(f"unknown command {first!r}: {_meant(first, known)}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        words = re.findall(r"--[a-z][a-z-]*", known[first].format_help())
        what = "option" if unknown[0].startswith("-") else "argument"
        raise UsageError(f"unknown {what} {unknown[0]!r} of {first}: {_meant(unknown[0].split('=')[0], words)}")
    return options


def _meant(word: str, choices: Sequence[str] | dict[str, _Parser]) -> str:
    close = did_you_mean(word, choices)
    return f"did you mean {close}?" if close else f"there are {', '.join(dict.fromkeys(choices))}"


def _whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers in a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return read


def _rows(text: str) -> Bands:
    words: dict[str, Bands] = {"off": "off", "auto": "auto"}
    if text in words:
        return words[text]
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be off, auto or a number of rows from 1 on, not {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _spec(parser: _Parser) -> None:
    parser.add_argument(
        "spec", type=Path, metavar="SPEC", help="YAML layer table, or the name of one of mnv2c's own: mnv2_1.0"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="override a field, e.g. resolution=192"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help=f"{_MODELS} (default: seeded)")
    parser.add_argument(
        "--seed", type=_whole(0, 2**32 - 1), default=0, metavar="N", help="of the weights where none are given"
    )


def _declare_import(parser: _Parser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help=_MODELS)
    parser.add_argument("-o", "--out", type=Path, metavar="NAME", help="writes NAME.yaml and NAME.npz (MODEL's name)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="what the file cannot say, e.g. resolution=192"
    )
    parser.add_argument(
        "--check",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="compare with MODEL in its own engine, on these images, or folders of them",
    )
    parser.add_argument("--softmax", action="store_true", help="the library ends in softmax: it gives probabilities")
    _json(parser)


_MODELS = ".onnx, .safetensors, .pth, .h5, .keras, .tflite or .npz file of a trained network"


def _json(parser: _Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _library(parser: _Parser) -> None:
    parser.add_argument("build", type=Path, metavar="BUILD", help="directory that `mnv2c build` wrote")
    parser.add_argument(
        "--threads", type=_whole(1, _MOST_THREADS), default=1, metavar="N", help="threads that share the work (1)"
    )
    parser.add_argument("--instruction-set", metavar="NAME", help="such as v3 or a72 (default: the best there is)")
    parser.add_argument("--runner", metavar="NAME", help="qemu, qemu:CPU or ssh:[USER@]HOST[:PORT] (default: here)")
    _json(parser)


def _backend(parser: _Parser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="relax",
        help="TVM's IR that finds the kernels (relax); relay needs TVM 0.19",
    )


def _precision(parser: _Parser) -> None:
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="tf32 and fp16 use a GPU's tensor cores (fp32)"
    )


def _target(parser: _Parser) -> None:
    parser.add_argument("--target", default="x86", metavar="NAME", help="see `mnv2c targets` (default: x86)")
    parser.add_argument(
        "--bands",
        type=_rows,
        metavar="ROWS",
        help="run blocks in bands, their expanded maps never whole: off, auto (where the L2 is too small) or rows of "
        "each (default: auto for boards, else off)",
    )


def _schedules(parser: _Parser) -> None:
    parser.add_argument("--schedules", type=Path, metavar="DIR", help="tuning records (default: those of mnv2c)")


def _declare_build(parser: _Parser) -> None:
    _spec(parser)
    _target(parser)
    _precision(parser)
    _backend(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="default: build/NAME-TARGET[-PRECISION]")
    _schedules(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--untuned", action="store_true", help="every kernel by rule, whatever the records say")
    how.add_argument("--require-tuned", action="store_true", help="fail where a kernel has no record of its own")
    _json(parser)


def _declare_show(parser: _Parser) -> None:
    _spec(parser)
    _target(parser)
    parser.add_argument("--after", metavar="PASS", help="print the graph after this pass")
    forms = ("ir", *BACKENDS, "kernels", "onnx")
    parser.add_argument("--emit", choices=forms, help="print another form in place of the table")
    _backend(parser)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="write there; --emit onnx writes the binary form"
    )
    _json(parser)


def _declare_validate(parser: _Parser) -> None:
    _library(parser)
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="PATH", help="images, or folders of them")
    parser.add_argument("--inputs", type=_whole(1, 10_000), metavar="N", help="seeded inputs (8 where no images)")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="largest error allowed (fp32 1e-4, tf32 0.1, fp16 0.2; more where that leaves more open)",
    )
    parser.add_argument("--layers", action="store_true", help="find the first layer that diverges")
    parser.add_argument(
        "--original",
        type=Path,
        metavar="MODEL",
        help="also compare with the file it was imported from, in its own engine",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="relax",
        help="relay: also what Relay makes of the network, by TVM itself",
    )


def _declare_run(parser: _Parser) -> None:
    _library(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG or BMP of any size")
    parser.add_argument(
        "--fit",
        choices=("crop", "stretch", "pad"),
        default="crop",
        help="how a photograph comes to the network's size (crop: its middle, 87.5 %% of it)",
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="a label per line, in the order of the classes")
    parser.add_argument("--top", type=_whole(1, 100_000), default=5, metavar="N", help="how many classes to print (5)")


def _declare_bench(parser: _Parser) -> None:
    _library(parser)
    parser.add_argument(
        "--against",
        default="",
        metavar="NAMES",
        help="onnxruntime,openvino,litert,relay,relay-metaschedule; on a GPU onnxruntime,torch",
    )
    parser.add_argument(
        "--minutes", type=_whole(1, 100_000), metavar="M", help="how long relay-metaschedule is tuned first (10)"
    )
    parser.add_argument("--rounds", type=_whole(1, 100_000), metavar="N", help="turns of each engine (50)")
    parser.add_argument("--layers", action="store_true", help="time each layer, and measure the FMA peak")
    parser.add_argument("--count", action="store_true", help="count instructions instead; with --runner qemu")


def _declare_compare(parser: _Parser) -> None:
    _specs(parser)
    parser.add_argument(
        "--threads", type=_thread_counts, metavar="N,N", help="time with these numbers of threads (1,2)"
    )
    parser.add_argument("--rounds", type=_whole(1, 100_000), metavar="N", help="turns of each network (30)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw latency over multiply-adds, as SVG")
    _json(parser)


def _specs(parser: _Parser) -> None:
    parser.add_argument(
        "specs", nargs="+", type=Path, metavar="SPEC", help="YAML layer tables, or names of mnv2c's own"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="override a field of each, e.g. resolution=192"
    )


def _declare_wheel(parser: _Parser) -> None:
    parser.add_argument("build", type=Path, metavar="BUILD", help="directory that `mnv2c build` wrote")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="where to put it (default: beside BUILD)")
    _json(parser)


def _declare_cost(parser: _Parser) -> None:
    parser.add_argument("build", type=Path, metavar="BUILD", help="of `mnv2c build` for Arm or cuda")
    parser.add_argument("--core", metavar="NAME", help="such as cortex-a53 (default: what it is scheduled for), h100")
    parser.add_argument(
        "--instruction-set", metavar="NAME", help="such as a76 (default: what is scheduled for the core), sm_75"
    )
    parser.add_argument("--memory", action="store_true", help="what a board's caches miss, and its memory moves")
    parser.add_argument("--board", metavar="NAME", help="with --memory: pi3, pizero2, pi4, pi5 (default: the target)")
    parser.add_argument(
        "--threads", type=_whole(1, 4), metavar="N", help="with --memory: threads that share the work (1)"
    )
    _json(parser)


def _thread_counts(text: str) -> tuple[int, ...]:
    """``1,2`` as numbers, each once, in order."""
    one = _whole(1, 256)
    return tuple(sorted({one(part) for part in text.split(",")}))


def _key(text: str) -> str:
    """One that a tracker takes, and that records can show."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be a name of printable characters, not {text!r}")
    return text


def _declare_tune(parser: _Parser) -> None:
    _specs(parser)
    parser.add_argument("--target", default="native", metavar="NAME", help="see `mnv2c targets` (default: native)")
    _precision(parser)
    _backend(parser)
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--trials", type=_whole(1, 100_000), metavar="N", help="at most so many per kernel")
    limits.add_argument(
        "--minutes", type=_whole(1, 100_000), metavar="M", help="at most so long, for all instruction sets together"
    )
    _schedules(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--measure", default="local", metavar="NAME", help="local, static; for GPUs local or ssh:HOST (local)"
    )
    where.add_argument("--rpc", metavar="HOST:PORT", help="run on boards: the address of TVM's tracker")
    parser.add_argument(
        "--key", type=_key, metavar="KEY", help="with --rpc: what the boards' servers were started with"
    )
    parser.add_argument(
        "--threads", type=_thread_counts, metavar="N,N", help="time for these numbers of threads (1 and all cores)"
    )
    searches = ("ours", "evolutionary", "replay")
    parser.add_argument("--search", choices=searches, default="ours", help="what to try next (ours)")
    parser.add_argument("--cost-model", choices=("none", "xgb"), default="none", help="for evolutionary (none)")
    parser.add_argument("--fresh", action="store_true", help="forget what is known of these kernels, and start over")
    _json(parser)


def _declare_doctor(parser: _Parser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--install", choices=("relay",), help="make the environment of --backend relay, where none works")
    what.add_argument("--clean", action="store_true", help="empty mnv2c's cache: zig's own libraries, and Relay")
    _json(parser)


def _declare_records(parser: _Parser) -> None:
    parser.add_argument("action", choices=_RECORD_ACTIONS, metavar="ACTION", help=_ACTIONS)
    parser.add_argument(
        "argument",
        nargs="?",
        metavar="KERNEL|DIR",
        help="of show: part of a kernel's name; of merge, export, import: DIR",
    )
    parser.add_argument("--compile", action="store_true", help="check: compile the best records too (minutes)")
    _schedules(parser)
    _json(parser)


_RECORD_ACTIONS = ("list", "show", "check", "prune", "merge", "export", "import")
_ACTIONS = (
    "list, show KERNEL, check (do they still replay?), prune (keep the best alone), merge DIR, "
    "export DIR and import DIR (MetaSchedule's JSON format)"
)

_COMMANDS: dict[str, tuple[str, Callable[[_Parser], None]]] = {
    "import": ("make a layer table and weights of a trained model", _declare_import),
    "build": ("compile a layer table into a C library", _declare_build),
    "show": ("print the layers of a table, or another form of its graph", _declare_show),
    "validate": ("compare a library with its ONNX reference", _declare_validate),
    "run": ("classify images with a library", _declare_run),
    "wheel": ("make a Python wheel of a library, which needs numpy alone", _declare_wheel),
    "bench": ("time a library, beside other engines", _declare_bench),
    "compare": ("time networks beside each other, and count what they cost on paper", _declare_compare),
    "cost": ("estimate a library on an Arm core or board, or a GPU, that is not here", _declare_cost),
    "tune": ("find each kernel's best schedule, and keep it for later builds", _declare_tune),
    "records": ("list, check, prune, merge, export and import tuning records", _declare_records),
    "targets": ("list what a library can be built for", _json),
    "doctor": ("say what this machine lacks, and how to get it", _declare_doctor),
}
"""What each does, and its arguments; the command itself is in ``mnv2c.commands``, in the module of its name."""
