"""What is printed never acts on a terminal: controls in names, warnings and errors are shown; colours are our own."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
from page_inputs import HEBREW, QUICK, training_folder
from routing_reference import MODEL, make_stats

from mlx_moebench.cli import _failed, _show_warning, main
from mlx_moebench.cli._progress import progress
from mlx_moebench.cli._streams import Guarded, guarded, say
from mlx_moebench.errors import StatsError
from mlx_moebench.printable import csv_cell, one_line, printable
from mlx_moebench.show.markdown import code, text
from mlx_moebench.show.names import isolated
from mlx_moebench.show.tables.base import Terminal, plain_table
from mlx_moebench.show.tables.profile import tidy_csv

CLEAR, TITLE, HIDDEN, C1 = "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x1b[8mhidden", "\x9b2J"
LINK = "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\"
HOSTILE = f"a{CLEAR}{TITLE}{HIDDEN}{C1}{LINK}\r\u202eb\u200b\u2028\x7f[red]c[/red]:smile:\udcff"
"""Clears the screen, names the window, hides, links, goes back, turns, and is markup besides."""

OURS = re.compile(r"\x1b\[(?:[0-7]|1?[0-9]{2}|[0-9]+;[0-9;]+)?m|\x1b\[\?25[lh]|\r?(?:\x1b\[1A)?\x1b\[2K|\r(?=\x1b\[1A)")
"""Colours and weights but hiding, as rich writes them for our own styles, and what redraws the line of our own bar."""


def acts(shown: str) -> list[str]:
    """The characters of a text that are not seen where they stand, less isolates around a right-to-left name."""
    bare = re.sub("\u2068([^\u2066-\u2069\u202a-\u202e]+)\u2069", r"\1", shown)
    return [c for c in bare if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


class Screen(io.StringIO):
    """A terminal, of which we read what it was sent."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["terminal", "pipe"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What `shown_on` sends."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen() if request.param == "terminal" else io.StringIO()


@contextmanager
def shown_on(screen: io.StringIO) -> Iterator[None]:
    """Stdout and stderr are it, together."""
    with redirect_stdout(screen), redirect_stderr(screen):
        yield


# -- one function ----------------------------------------------------------------------------------------------------


def test_every_character_that_is_not_seen_is_an_escape() -> None:
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    unseen = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in kinds and c not in "\n\t"]
    assert {0x1B, 0x7F, 0x85, 0x9B, 0x61C, 0x200B, 0x200F, 0x202E, 0x2028, 0x2069, 0xFEFF, 0xD800, 0xE0041} <= {
        ord(c) for c in unseen
    }
    shown = printable("".join(unseen))
    assert not acts(shown)
    assert shown.isascii()
    for c in ("\ufe00", "\U000e0100", "\u3164", "\u034f"):  # which hide, or are drawn as nothing
        assert printable(c).startswith("\\u")


def test_what_is_seen_stays() -> None:
    seen = "naïve 量子 שלום عربي e\u0301 ☺\ufe0f 😀 tab\t end\n \\x1b $x$ 'q' \"q\""
    assert printable(seen) == seen
    assert printable("\x1b[1m\x85\u202e") == r"\x1b[1m\u0085\u202e"
    assert one_line("a\nb\r\n\tc") == r"a\nb\r\n\tc"


def test_isolates_of_right_to_left_names_stay_and_no_others() -> None:
    assert printable(isolated(HEBREW)) == isolated(HEBREW)
    for hostile in ("\u2068\u202eabc\u2069", "\u2068abc", "abc\u2069", "\u2069abc\u2068", "\u2067abc\u2069"):
        assert not acts(printable(hostile))
        assert printable(hostile).isascii()


# -- one place -------------------------------------------------------------------------------------------------------


def test_streams_let_bars_redraw_their_line_and_nothing_else() -> None:
    sent = Screen()
    stream = Guarded(sent)
    writes = ["\r 1/2", "\r 2/2", "\x1b[A", "\n", "Error: no", "\rOK: yes\n", "\x1b[A", "a\r\nb\rc\n"]
    for one in writes:
        assert stream.write(one) == len(one)
    assert sent.getvalue() == "\r 1/2\r 2/2\x1b[A\nError: no\\rOK: yes\n\\x1b[Aa\nb\\rc\n"
    assert stream.isatty()
    assert (stream.encoding, stream.writable()) == ("utf-8", True)
    with pytest.raises(AttributeError):
        stream.buffer  # noqa: B018  # whose bytes nobody would look at
    stream.close()
    assert not sent.closed


def test_print_warnings_logs_and_bars_of_anybody_are_guarded(screen: io.StringIO) -> None:
    logger = logging.getLogger("of.another.library")
    with shown_on(screen), guarded():
        print(HOSTILE)  # noqa: T201
        print("Error:", "\rfine", file=sys.stderr)  # noqa: T201
        click.echo(HOSTILE, color=True)
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.error("%s", HOSTILE)
        logger.removeHandler(handler)
        _show_warning(HOSTILE)
        sys.excepthook(ValueError, ValueError(HOSTILE), None)
        say(f"two\nlines {HOSTILE}")
        with progress(quiet=False) as step:
            step(f"loading {HOSTILE}", 1, 2)
            print(HOSTILE)  # noqa: T201
            click.echo(HIDDEN, err=True, color=True)
    sent = screen.getvalue()
    if not screen.isatty():
        assert not acts(sent)
    assert "\\rfine" in sent
    assert "two\\nlines a\\x1b[2J" in sent
    assert "\x1b[2J" not in sent
    assert "\x1b[8m" not in sent
    assert "\x1b]" not in sent
    assert not set("\x07\x9b\x7f\u202e\u200b\u2028\udcff") & set(sent)
    assert sent.count("\\x1b[8mhidden") >= 7


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of stats pairs of a model, data and warnings that are hostile, and of a training."""
    for name in ("a", "b"):
        stats = make_stats(
            sha=name * 64, model=MODEL | {"id": HOSTILE, "warnings": [f"{HOSTILE}\nWarning: all is well"]}
        )
        stats.sources[name * 64]["name"] = f"{name} {HOSTILE}\nsecond line"
        stats.save(tmp_path / f"{name}.json", QUICK)
    training_folder(tmp_path / "training")
    return tmp_path


COMMANDS = (
    ("compare", "a.json", "b.json", "--allow", "data", "--resamples", "100"),
    ("compare", "a.json", "b.json", "--allow", "data", "--resamples", "100", "--json"),
    ("report", "a.json", "b.json", "--format", "md"),
    ("report", "a.json", "--format", "csv"),
    ("report", "a.json", "--format", "card"),
    ("report", "a.json", "-o", "\x1b[2J\nout\udcff.md"),
    ("merge", "a.json", "b.json", "--output", "m.json"),
    ("plot", "load", "a.json", "-o", "\x1b[2J.png"),
    ("report", f"no{HOSTILE}.json"),
    ("report", "a.json", f"--no{HOSTILE}"),
    (f"no{HOSTILE}",),
    ("analyze", "--dataset", f"no{HOSTILE}.jsonl"),
    ("analyze", "--model", f"./no{HOSTILE}"),
    ("metrics", HOSTILE),
)


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(one, marks=[pytest.mark.slow] * (n % 2), id=str(n)) for n, one in enumerate(COMMANDS)],
)
def test_no_command_prints_what_acts(
    hostile: Path, screen: io.StringIO, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    code: Any = 0
    with shown_on(screen):
        try:
            main([*arguments])
        except SystemExit as stopped:
            code = stopped.code
    sent = screen.getvalue()
    assert sent
    assert not acts(OURS.sub("", sent)), sent
    if "--json" in arguments and not code:
        lines = sent.splitlines()
        json.loads("\n".join(lines[lines.index("{") :]))
    if code:
        assert sent.count("Error: ") == 1
        assert OURS.sub("", sent).rstrip("\n").rpartition("\n")[2].startswith("Error: ")
    assert "\nWarning: all is well" not in sent


def test_our_own_colours_stay_and_names_have_none(screen: io.StringIO) -> None:
    table = plain_table(f"Title {HIDDEN}")
    table.add_column(f"head {HIDDEN}")
    table.add_column("other")
    table.add_row(f"[red]{HIDDEN}[/red] :smile:", "right")
    with shown_on(screen), guarded():
        console = Terminal()
        console.print(table)
        console.print("bold", style="bold")
    sent = screen.getvalue()
    assert ("\x1b[1m" in sent) == screen.isatty()
    assert "\x1b[8m" not in sent
    plain = OURS.sub("", sent)
    assert "[red]\\x1b[8mhidden[/red] :smile:" in plain
    head, row = plain.splitlines()[1:3]
    assert head.index("other") == row.index("right")  # widths are those of what is shown


def test_tracebacks_that_were_asked_for_are_guarded(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MOEBENCH_DEBUG", "1")
    error = RuntimeError(HOSTILE)
    error.add_note(HIDDEN)
    with shown_on(screen), guarded(), pytest.raises(SystemExit):
        _failed(error)
    assert "Traceback" not in screen.getvalue() or "RuntimeError: a\\x1b[2J" in screen.getvalue()
    monkeypatch.delenv("MLX_MOEBENCH_DEBUG")
    foreseen = StatsError(f"no\n{HOSTILE}")
    foreseen.add_note(HIDDEN)
    with shown_on(screen), guarded(), pytest.raises(SystemExit):
        _failed(foreseen)
    assert screen.getvalue().splitlines()[-1].startswith("Error: no\\na\\x1b[2J")
    assert not acts(screen.getvalue())


@pytest.mark.slow
def test_a_file_of_a_hostile_name_is_measured(tmp_path: Path) -> None:
    """A real process; the name is bytes that are no UTF-8 on a file system that has them."""
    name = os.fsencode(tmp_path) + b"/\x1b[2J\nx\xff.txt"
    try:
        Path(os.fsdecode(name)).write_text("One text.\n\nAnother text, of the same file.\n", encoding="utf-8")
    except OSError:
        pytest.skip("the file system takes no such name")
    command = [sys.executable, "-m", "mlx_moebench", "analyze", "--dataset", os.fsdecode(name), "--output", "o.json"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert not acts(said)
    assert "\\x1b[2J" in said


# -- files -----------------------------------------------------------------------------------------------------------

FORMULAS = ("=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", " =1", "\t=1", "\r=1", "＝1", "=", "-", "--1", "-0,5")
NUMBERS = ("-0.5", "+3", "1e-5", "-.5", "-2.", "0", "-inf", "nan")


def test_cells_of_csv_run_nothing_and_numbers_stay() -> None:
    for formula in FORMULAS:
        assert csv_cell(formula) == f"'{one_line(formula)}"
    for kept in (*NUMBERS, "a=b", "a - b", "moebench-nano", "", -0.5, 3, True, None):
        assert csv_cell(kept) == kept
    assert csv_cell(HOSTILE) == one_line(HOSTILE)


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "@x", "-x", "+x", "\t=x"])
def test_names_are_no_formulas_in_any_csv(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for letter in "ab":
        stats = make_stats(sha=letter * 64, model=MODEL | {"id": name})
        stats.sources[letter * 64]["name"] = f"{name}{letter}"
        stats.save(tmp_path / f"{letter}.json", QUICK)
    with redirect_stdout(io.StringIO()) as shown:
        main(["report", "a.json", "b.json", "--format", "csv"])
        main(["compare", "a.json", "b.json", "--allow", "data", "--resamples", "100", "--csv", "c.csv"])
    profiled = tidy_csv(iter([{"model": name, "metric": "m", "value": -0.5}]))
    texts = [shown.getvalue().partition("A: ")[0], (tmp_path / "c.csv").read_text(), profiled.decode()]
    for one in texts:
        for row in csv.reader(io.StringIO(one)):
            for cell in row:
                assert csv_cell(cell) == cell, cell
    assert f"'{one_line(name)}" in texts[0]
    assert ",-0.5," in texts[2]


def test_mathtext_in_a_name_is_drawn_literally(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    name = r"$\frac{1$ $x^2$ \alpha_{"
    make_stats(model=MODEL | {"id": name}).save(tmp_path / "a.json", QUICK)
    with redirect_stdout(io.StringIO()):
        main(["plot", "load", str(tmp_path / "a.json"), "-o", str(tmp_path / "a.svg"), "--title", name])
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_markdown_and_cards_hold_no_links_images_cells_or_controls_of_names() -> None:
    for name in ("![x](https://e.example/p.png)", "[x](javascript:1)", "a | b", "<img src=x>", "@user", "`c`", HOSTILE):
        shown = text(name)
        assert not acts(shown)
        assert not re.search(r"(?<!\\)[\[\]|`!]|<|://|@", shown), shown
        assert not acts(code(name))
