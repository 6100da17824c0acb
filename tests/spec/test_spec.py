"""Specs: the shipped ones, overrides, and every mistake named with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import SPECS

from mnv2c.errors import SourceError, SpecError
from mnv2c.spec.table import Residual, Row, Separable, Stem, load_spec, make_divisible

PAPER = SPECS / "mnv2_1.0.yaml"


def errors_of(path: Path, *overrides: str) -> tuple[SourceError, ...]:
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    return caught.value.errors


def damaged(folder: Path, old: str, new: str) -> Path:
    """The paper's spec with one piece of text changed."""
    text = PAPER.read_text()
    assert text.count(old) == 1, old
    path = folder / "damaged.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_shipped_specs_are_the_paper_s_table(width: float) -> None:
    spec = load_spec(SPECS / f"mnv2_{width}.yaml")
    table = [(row.t, row.c, row.n, row.s) for row in spec.bottlenecks]
    assert spec.name == f"mnv2_{width}"
    assert spec.width_multiplier == width
    assert table == [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    assert (spec.stem, spec.head.c) == (Stem(32, 2), 1280)
    assert (spec.input.batch, spec.input.height, spec.input.width, spec.classifier[0].c) == (1, 224, 224, 1000)
    assert (spec.padding, spec.batchnorm_epsilon) == ("same", 1e-3)
    assert spec.input.mean == spec.input.scale == (127.5, 127.5, 127.5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(32, 32), (11.2, 16), (5.6, 8), (1, 8), (8.4, 8), (24 * 0.75, 24), (24 * 0.35, 8), (32 * 1.3, 40), (35.9, 40)],
)
def test_make_divisible_keeps_at_least_nine_tenths(value: float, expected: int) -> None:
    assert make_divisible(value, 8) == expected


@pytest.mark.parametrize(
    ("value", "divisor", "expected"), [(20, 1, 20), (7.4, 1, 7), (7.5, 1, 8), (0.2, 1, 1), (20, 4, 20), (22, 4, 24)]
)
def test_make_divisible_by_another_divisor(value: float, divisor: int, expected: int) -> None:
    assert make_divisible(value, divisor) == expected


def test_channels_are_multiples_of_the_divisor() -> None:
    """8 where the spec says nothing; 1 keeps the channels of a table that was trained as it stands."""
    odd = ["bottlenecks[1].c=20", "head.c=1001", "stem.c=33"]
    paper, kept = load_spec(PAPER, odd), load_spec(PAPER, [*odd, "channel_divisor=1"])
    assert (paper.channel_divisor, kept.channel_divisor) == (8, 1)
    for spec, channels in ((paper, (24, 1000, 32)), (kept, (20, 1001, 33))):
        assert (spec.channels(spec.bottlenecks[1].c), spec.head_channels, spec.channels(spec.stem.c)) == channels


@pytest.mark.parametrize(
    ("width", "stem", "head"), [(0.35, 16, 1280), (1.0, 32, 1280), (1.3, 40, 1664), (1.4, 48, 1792)]
)
def test_width_scales_the_stem_and_the_head_only_above_one(width: float, stem: int, head: int) -> None:
    spec = load_spec(SPECS / f"mnv2_{width}.yaml")
    assert (spec.channels(spec.stem.c), spec.head_channels) == (stem, head)


def test_overrides_reach_every_field() -> None:
    spec = load_spec(
        PAPER,
        [
            "name=tiny",
            "width_multiplier=0.5",
            "classes=10",
            "resolution=192",
            "input.mean=[1, 2.5, 3e1]",
            "scale=58",
            "padding=symmetric",
            "batchnorm_epsilon=1e-5",
            "stem.s=1",
            "bottlenecks[2].c=40",
            "bottlenecks[6]={t: 3, c: 64, n: 2, s: 2}",
            "head.c=1024",
        ],
    )
    assert (spec.name, spec.width_multiplier, spec.classifier[0].c, spec.head.c) == ("tiny", 0.5, 10, 1024)
    assert (spec.input.height, spec.input.mean, spec.input.scale) == (192, (1.0, 2.5, 30.0), (58.0, 58.0, 58.0))
    assert (spec.padding, spec.batchnorm_epsilon, spec.stem.s) == ("symmetric", 1e-5, 1)
    assert spec.bottlenecks[2] == Row(6, 40, 3, 2)
    assert spec.bottlenecks[6] == Row(3, 64, 2, 2)
    assert spec.bottlenecks[2].source.row == "{t: 6, c: 40, n: 3, s: 2}"


def test_rows_of_other_networks() -> None:
    spec = load_spec(
        PAPER,
        [
            "bottlenecks[0]={separable: {c: 64, n: 2, s: 2}}",
            "bottlenecks[1]={residual: {c: 256, n: 3, s: 1}}",
            "bottlenecks[2]={residual: {c: 256, n: 3, s: 1, r: 8}}",
            "stem={c: 64, s: 2, kernel: 7, pool: 2}",
            "activation=relu",
        ],
    )
    assert spec.bottlenecks[:3] == (Separable(64, 2, 2), Residual(256, 3, 1), Residual(256, 3, 1, 8))
    assert [row.source.row for row in spec.bottlenecks[:3]] == [
        "{separable: {c: 64, n: 2, s: 2}}",
        "{residual: {c: 256, n: 3, s: 1}}",
        "{residual: {c: 256, n: 3, s: 1, r: 8}}",
    ]
    assert (spec.stem, spec.activation) == (Stem(64, 2, 7, 2), "relu")
    assert load_spec("resnet_50", ["bottlenecks[2].residual.c=512"]).bottlenecks[2] == Residual(512, 6, 2)
    assert load_spec("resnet_50").head is None
    paper = load_spec(PAPER)
    assert (paper.stem.kernel, paper.stem.pool, paper.activation) == (3, 0, "relu6")


@pytest.mark.parametrize("key", ["resolution", "input.resolution"])
@pytest.mark.parametrize(("text", "sides"), [("96", (96, 96)), ("[192,256]", (192, 256)), ("[192, 256]", (192, 256))])
def test_a_resolution_is_one_side_or_two(key: str, text: str, sides: tuple[int, int]) -> None:
    image = load_spec(PAPER, [f"{key}={text}", "input.batch=4"]).input
    assert (image.batch, image.height, image.width) == (4, *sides)


def test_the_last_override_wins_and_an_overridden_mistake_is_none(tmp_path: Path) -> None:
    assert load_spec(PAPER, ["classes=10", "classes=20"]).classifier[0].c == 20
    assert load_spec(damaged(tmp_path, "classes: 1000", "classes: many"), ["classes=7"]).classifier[0].c == 7


def test_an_override_of_an_aliased_row_changes_that_row_alone(tmp_path: Path) -> None:
    path = damaged(tmp_path, "  - {t: 1, c: 16, n: 1, s: 1}\n", "  - &row {t: 1, c: 16, n: 1, s: 1}\n  - *row\n")
    rows = load_spec(path, ["bottlenecks[1].c=24"]).bottlenecks
    assert (rows[0].c, rows[1].c) == (16, 24)


def test_sources_name_file_line_and_row() -> None:
    source = load_spec(PAPER).bottlenecks[1].source
    line = PAPER.read_text().splitlines()[source.line - 1]
    assert (source.file, source.row) == (str(PAPER), "{t: 6, c: 24, n: 2, s: 2}")
    assert source.row in line


ROW = "{t: 6, c: 96, n: 3, s: 1}"
WRONG_IN_FILE = [
    ("classes: 1000", "clases: 1000", "unknown key `clases`", "did you mean `classes`?"),
    ("classes: 1000", "classes: 1000\ncolour: red", "unknown key `colour`", "known here: name"),
    ("classes: 1000", "classes: 1000\nclasses: 10", "`classes` is given twice", ""),
    ("classes: 1000", "", "the spec lacks `classes`", "add `classes: ...`"),
    ("classes: 1000", "classes: true", "`classes` must be an integer, not true", ""),
    ("classes: 1000", "classes: 1000.0", "`classes` must be an integer, not 1000.0", ""),
    ("classes: 1000", "classes: '1000'", "`classes` must be an integer, not the text '1000'", ""),
    ("classes: 1000", "classes: 010", "`classes` must be an integer, not 010", ""),
    ("classes: 1000", "classes: 1:40", "`classes` must be an integer, not 1:40", ""),
    ("classes: 1000", "classes: " + "9" * 5000, "`classes` must be an integer, not 9999", ""),
    ("classes: 1000", "classes: 0", "`classes` must be from 1 to 100000, not 0", ""),
    ("classes: 1000", "classes:", "`classes` must be an integer, not nothing", ""),
    ("classes: 1000", "classes: [1]", "`classes` must be an integer, not a list", ""),
    ("classes: 1000", "classes: !!python/name:os.system x", "`classes` must be an integer", ""),
    ("name: mnv2_1.0", "name: 1.0", "`name` must be a word, not 1.0", "quotes"),
    ("name: mnv2_1.0", "name: ../up", "`name` must be a letter, then letters", ""),
    ("name: mnv2_1.0", "name: ''", "`name` must be a letter, then letters", ""),
    ("multiplier: 1.0", "multiplier: 0", "`width_multiplier` must be from 0.05 to 4, not 0", ""),
    ("multiplier: 1.0", "multiplier: .nan", "`width_multiplier` must be a finite number, not .nan", ""),
    ("multiplier: 1.0", "multiplier: 1e999", "`width_multiplier` must be from 0.05 to 4", ""),
    ("multiplier: 1.0", "multiplier: yes", "`width_multiplier` must be a finite number, not yes", ""),
    ("classes: 1000", "classes: 1000\nchannel_divisor: 0", "`channel_divisor` must be from 1 to 64, not 0", ""),
    ("classes: 1000", "classes: 1000\nchannel_divisor: 65", "`channel_divisor` must be from 1 to 64, not 65", ""),
    ("epsilon: 1.0e-3", "epsilon: 0.0", "`batchnorm_epsilon` must be from 1e-12 to 1, not 0.0", ""),
    ("padding: same", "padding: smae", "`padding` must be same or symmetric", "did you mean `same`?"),
    ("batch: 1", "batch: 0", "`input.batch` must be from 1 to 1024, not 0", ""),
    ("batch: 1", "batch: 1025", "`input.batch` must be from 1 to 1024, not 1025", ""),
    ("resolution: 224", "resolution: 31", "`input.resolution` must be from 32 to 4096, not 31", "by 32"),
    ("resolution: 224", "resolution: [32, 31]", "`input.resolution[1]` must be from 32 to 4096, not 31", "by 32"),
    (
        "resolution: 224",
        "resolution: [224]",
        "`input.resolution` must be one integer or a list of 2, not of 1",
        "[height, width]",
    ),
    (
        "resolution: 224",
        "resolution: [32, 32, 32]",
        "`input.resolution` must be one integer or a list of 2, not of 3",
        "[height, width]",
    ),
    ("resolution: 224", "resolution: [224, wide]", "`input.resolution[1]` must be an integer, not the text 'wide'", ""),
    ("mean: 127.5", "mean: [1, 2]", "`input.mean` must be one number or a list of 3, not of 2", ""),
    ("mean: 127.5", "mean: [1, 2, .inf]", "`input.mean[2]` must be a finite number, not .inf", ""),
    (", scale: 127.5", ", scale: 0", "`input.scale` must be from 1e-06 to 1e+06, not 0", ""),
    ("stem: {c: 32, s: 2}", "stem: 32", "`stem` must be a mapping, not 32", "its keys: c, s"),
    ("stem: {c: 32, s: 2}", "stem: {c: 32}", "`stem` lacks `s`", "add `s: ...`"),
    ("stem: {c: 32, s: 2}", "stem: {c: 32, s: 3}", "`stem.s` must be from 1 to 2, not 3", ""),
    ("{t: 6, c: 96, n: 3, s: 1}", "{t: 0, c: 96, n: 3, s: 1}", "`bottlenecks[4].t` must be from 1 to 64, not 0", ""),
    ("{t: 6, c: 96, n: 3, s: 1}", "{t: 6, c: 0, n: 3, s: 1}", "`bottlenecks[4].c` must be from 1 to 8192", ""),
    ("{t: 6, c: 96, n: 3, s: 1}", "{t: 6, c: 96, n: 1000000000, s: 1}", "`bottlenecks[4].n` must be from 1 to 64", ""),
    ("{t: 6, c: 96, n: 3, s: 1}", "[6, 96, 3, 1]", "`bottlenecks[4]` must be a mapping, not a list", "t, c, n, s"),
    (ROW, "{separable: {c: 96, n: 3}}", "`bottlenecks[4].separable` lacks `s`", "add `s: ...`"),
    (ROW, "{separable: {t: 6, c: 96, n: 3, s: 1}}", "unknown key `t`", "known here: c, n, s"),
    (ROW, "{residual: {c: 96, n: 3, s: 1, r: 0}}", "`bottlenecks[4].residual.r` must be from 1 to 64, not 0", ""),
    (ROW, "{residual: 96}", "`bottlenecks[4].residual` must be a mapping, not 96", "c, n, s"),
    (ROW, "{residual: {c: 96, n: 3, s: 1}, t: 6}", "unknown key `t`", "known here: residual"),
    (ROW, "{seperable: {c: 96, n: 3, s: 1}}", "unknown key `seperable`", "did you mean `separable`?"),
    (
        "classes: 1000",
        "classes: 1000\nactivation: relu7",
        "`activation` must be relu6 or relu",
        "did you mean `relu",
    ),
    ("stem: {c: 32, s: 2}", "stem: {c: 32, s: 2, kernel: 9}", "`stem.kernel` must be from 3 to 7, not 9", ""),
    ("stem: {c: 32, s: 2}", "stem: {c: 32, s: 2, pool: 0}", "`stem.pool` must be from 1 to 2, not 0", ""),
    ("head: {c: 1280}", "head: {c: -8}", "`head.c` must be from 1 to 8192, not -8", ""),
    ("head: {c: 1280}", "head: {c: 1280", "not valid YAML", ""),
    ("head: {c: 1280}", "head: *nowhere", "not valid YAML: found undefined alias", ""),
    ("head: {c: 1280}", "head: &me [*me]", "`head` must be a mapping, not a list", ""),
    ("head: {c: 1280}", "head: \x07", "not valid YAML: the character U+0007 is not allowed", ""),
    ("head: {c: 1280}", "head: " + "[" * 20000, "nested too deeply", ""),
    ("head: {c: 1280}", "--- second", "not valid YAML: but found another document", ""),
]


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"), WRONG_IN_FILE, ids=[wrong[2][:50] for wrong in WRONG_IN_FILE]
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    path = damaged(tmp_path, old, new)
    errors = errors_of(path)
    assert len(errors) == 1, errors
    (error,) = errors
    assert error.message.startswith(message)
    assert hint in error.hint
    assert error.file == str(path)
    lines = path.read_text().splitlines()
    assert 1 <= error.line <= len(lines) + 1
    assert len(str(error)) < 1000


def test_the_caret_stands_under_the_mistake(tmp_path: Path) -> None:
    path = damaged(tmp_path, "{t: 6, c: 96, n: 3, s: 1}", "{t: 6, c: 96, n: 3, s: 5}")
    (error,) = errors_of(path)
    heading, line, caret = str(error).splitlines()
    assert heading == f"{path}:21:28: error: `bottlenecks[4].s` must be from 1 to 2, not 5"
    assert line[caret.index("^")] == "5"


def test_every_mistake_of_file_and_overrides_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: 12\nwidth_multiplier: -1\nclases: 10\ninput: {resolution: 224}\npadding: zero\n"
        "batchnorm_epsilon: x\nstem: {c: 0, s: 2}\nbottlenecks: []\nhead: {}\n"
    )
    errors = errors_of(path, "resolutio=3", "head.c=1.5")
    assert [(error.file, error.line, error.column) for error in errors] == [
        (str(path), 1, 7),
        (str(path), 2, 19),
        (str(path), 3, 1),
        (str(path), 5, 10),
        (str(path), 6, 20),
        (str(path), 7, 11),
        (str(path), 8, 14),
        ("--set", 1, 1),
        ("--set", 2, 8),
    ]


@pytest.mark.parametrize(
    ("override", "column", "message", "hint"),
    [
        ("resolutoin=192", 1, "unknown key `resolutoin`", "did you mean `resolution`?"),
        ("bottlenecks.c=3", 1, "unknown key `bottlenecks.c`", "did you mean `bottlenecks[0].c`?"),
        ("bottlenecks[].c=3", 1, "unknown key `bottlenecks[].c`", "did you mean `bottlenecks[0].c`?"),
        ("bottlenecks[-1].c=3", 1, "unknown key `bottlenecks[-1].c`", "bottlenecks[0].c"),
        ("c=40", 1, "`c` could mean several fields", "stem.c or bottlenecks[0].c or head.c"),
        ("t=4", 1, "`t` could mean several fields", "write bottlenecks[0].t"),
        ("bottlenecks[7].c=40", 18, "`bottlenecks[7].c` does not exist", "from 0 to 6"),
        ("classes", 1, "not KEY=VALUE", "resolution=192"),
        ("=5", 1, "not KEY=VALUE", ""),
        ("classes=", 9, "`classes` is given no value", ""),
        ("classes=ten", 9, "`classes` must be an integer, not the text 'ten'", ""),
        ("input.mean=[1, x, 3]", 16, "`input.mean[1]` must be a finite number", ""),
        ("input.mean=[1, 2", 17, "not valid YAML", ""),
        ("stem={c: 3}", 6, "`stem` lacks `s`", ""),
    ],
)
def test_a_wrong_override_is_named_with_its_place(override: str, column: int, message: str, hint: str) -> None:
    (error,) = errors_of(PAPER, "classes=10", override)
    assert (error.file, error.line, error.column) == ("--set", 2, column)
    assert error.message.startswith(message)
    assert hint in error.hint
    assert error.text == override


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    empty, latin, huge = tmp_path / "empty.yaml", tmp_path / "latin.yaml", tmp_path / "huge.yaml"
    empty.write_text("# nothing\n")
    latin.write_bytes("name: a\n# caf\xe9\n".encode("latin-1"))
    huge.write_bytes(b"#" * (2 << 20))
    assert errors_of(empty)[0].message == "the spec is empty"
    assert (errors_of(latin)[0].line, errors_of(latin)[0].column) == (2, 6)
    assert errors_of(latin)[0].message == "not UTF-8 text: byte 0xe9"
    assert errors_of(huge)[0].message.startswith("larger than 64 KiB")
    assert errors_of(tmp_path)[0].message == "a directory, not a file"
    assert errors_of(tmp_path / "emty.yaml")[0].hint == f"did you mean {empty}?"
    assert errors_of(tmp_path / "nul\0.yaml")[0].message.startswith("cannot be read")


def test_an_anchor_bomb_costs_nothing(tmp_path: Path) -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path = damaged(tmp_path, "head: {c: 1280}", "\n".join([*layers, "head: *a29"]))
    assert errors_of(path)[-1].message == "`head` must be a mapping, not a list"


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + PAPER.read_bytes().replace(b"\n", b"\r\n"))
    assert load_spec(path) == load_spec(PAPER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: mnv2_1.0", 'name: "\\U00110000"'),
        ("name: mnv2_1.0", 'name: "\\UFFFFFFFF"'),
        ("# MobileNetV2", "%YAML 1.\n# MobileNetV2"),
        ("# MobileNetV2", "%YAML 1." + "9" * 5000 + "\n---\n# MobileNetV2"),
    ],
)
def test_what_yaml_does_not_check_is_told_too(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_text(PAPER.read_text().replace(old, new, 1))
    (error,) = errors_of(path)
    assert error.message.startswith("not valid YAML: ")
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(f"key{number}: 1\n" for number in range(5000)), "unknown key"),
        ("name: x\n" * 5000, "`name` is given twice"),
        (PAPER.read_text().replace("mean: 127.5", f"mean: [{', '.join(['a'] * 20_000)}]"), "`input.mean[0]` must be"),
    ],
)
def test_mistakes_without_end_are_told_as_the_first_of_them(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "many.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "many.yaml")
    assert len(caught.value.errors) == 50
    assert any(error.message.startswith(message) for error in caught.value.errors)
    assert str(caught.value).endswith("\nand more: these are the first 50")


@pytest.mark.parametrize("value", ['"\\U00110000"', "[" * 20_000, "%YAML 1." + "9" * 5000])
def test_what_no_yaml_is_in_an_override_is_told_where_it_stands(value: str) -> None:
    (error,) = errors_of(PAPER, "resolution=192", f"classes={value}")
    assert (error.line, error.column) == (2, 9)


def test_overrides_without_end_are_no_overrides() -> None:
    (error,) = errors_of(PAPER, *["classes=3"] * 10_000)
    assert error.message == "larger than 64 KiB in all"


def test_a_pipe_is_no_spec(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (error,) = errors_of(tmp_path / "pipe.yaml")
    assert error.message == "cannot be read: not a file"


@pytest.mark.parametrize(
    "name",
    [
        *("string", "stdio", "Time", "threads", "context", "my_mnv2c_net", "mnv2c.x"),
        *("c", "m", "gcc_s", "cuda"),  # -lc would be ours
        *("thrd", "sem", "mtx", "pthread_mutex", "posix-spawnattr"),  # thrd_create, sem_destroy
        *("x", "F", "int", "uint_fast16", "size", "si"),  # X_OK of unistd.h, INT_WIDTH of stdint.h
        *("net_run", "net.gpu", "Net-Max"),  # NET_MAX_THREADS is a number in one library, a status in another
    ],
)
def test_names_that_no_library_can_have(name: str) -> None:
    (error,) = errors_of(PAPER, f"name={name}")
    assert error.message.startswith(f"`name` must not be {name}: ")
