"""One vocabulary of options: what every subcommand has, spelt alike, and why not where it has not."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest

import mlx_moebench
from mlx_moebench.cli import ALIASES, group, main
from mlx_moebench.cli._options import HOLES, LOADING, READING
from mlx_moebench.options import Choices, Flag, Loading, LoadingChoices, Options, Reading, Saving, takes

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"

LOAD_MODELS = ("analyze", "compare", "demo", "evaluate", "loss", "profile", "train")
"""The commands that load a model."""

EVERYWHERE = ("--output", "--level", "--json", "--quiet", "--seed", "--resume")
"""Options that mean the same wherever they make sense."""

NO_SENSE: dict[str, tuple[str, ...]] = {
    # What only says something, and neither measures, draws nor writes.
    "doctor": ("--output", "--level", "--seed", "--resume"),
    "models": ("--output", "--level", "--seed", "--resume", "--quiet"),
    # What makes files of files in seconds.
    "import": ("--resume",),
    "merge": ("--resume",),
    "plot": ("--resume", "--seed"),
    "report": ("--resume",),
    "vocabulary": ("--resume",),
}


def commands() -> dict[str, list[click.Command]]:
    """Every subcommand; of a group of them, those in it."""
    context = click.Context(group)
    found: dict[str, list[click.Command]] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        members = command.list_commands(context) if isinstance(command, click.Group) else ()
        found[name] = [c for m in members if (c := command.get_command(context, m))] or [command]  # type: ignore[attr-defined]
    return found


def options_of(every: list[click.Command]) -> dict[str, click.Option]:
    return {
        max(option.opts, key=len): option
        for command in every
        for option in command.params
        if isinstance(option, click.Option)
    }


LOADING_FLAGS = {"--4bit" if name == "four_bit" else "--" + name.replace("_", "-") for name in LOADING}


def table() -> str:
    """docs/commands.md: every shared option of every command, or why it has none."""
    shared = [*sorted(LOADING_FLAGS), *("--" + name.replace("_", "-") for name in READING), *EVERYWHERE]
    every = {name: options_of(members) for name, members in commands().items()}
    lines = [
        "# Commands and their options\n",
        "Made from the command line itself; `mlx-moebench COMMAND --help` has each command's other options.\n",
        "| | " + " | ".join(every) + " |",
        "|---|" + "---|" * len(every),
    ]
    for flag in shared:
        cells = ["yes" if flag in options else "" for options in every.values()]
        lines.append(f"| `{flag}` | " + " | ".join(cells) + " |")
    lines += ["", "Where one is missing that others have:", ""]
    lines += [f"- `{command}` has no `{flag}`: {reason}." for (command, flag), reason in sorted(HOLES.items())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", LOAD_MODELS)
def test_what_loads_a_model_has_all_options_of_one(name: str) -> None:
    have = options_of(commands()[name])
    for flag in {*LOADING_FLAGS, "--model"}:
        assert (flag in have) != ((name, flag) in HOLES), f"{name} {flag}"


@pytest.mark.parametrize("name", sorted(commands()))
def test_common_options_are_there_or_have_a_reason(name: str) -> None:
    have = options_of(commands()[name])
    for flag in EVERYWHERE:
        without = (name, flag) in HOLES or flag in NO_SENSE.get(name, ())
        assert (flag in have) != without, f"{name} {flag}"


def test_options_of_one_name_are_of_one_kind() -> None:
    """One spelling, one type, one default, one help, whatever the command; a training's mean other things."""
    seen: dict[str, tuple[str, Any]] = {}
    for name, members in commands().items():
        for flag, option in options_of(members).items():
            if name == "train" and flag not in LOADING_FLAGS - {"--adapter-path"}:
                continue
            if flag in LOADING_FLAGS or flag in ("--level", "--quiet", "--text-field", "--max-samples"):
                said = str(option.type), option.default, option.help
                first, expected = seen.setdefault(flag, (name, said))
                assert said == expected, f"{flag} of {name} is not that of {first}"


def test_output_is_o_everywhere() -> None:
    for name, members in commands().items():
        option = options_of(members).get("--output")
        assert option is None or "-o" in option.opts, name


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == table(), "write table() of this file to docs/commands.md"


def test_old_names_of_commands_work_and_are_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for old, new in ALIASES.items():
        main([old, "--help"])
        assert new in capsys.readouterr().out
        assert old not in group.list_commands(click.Context(group))


def test_keywords_and_fields_are_the_same() -> None:
    parts = {one.name for part in (Loading, Reading, Flag, Saving) for one in fields(part)}
    assert set(get_type_hints(Choices)) == {*parts, "plan"}
    assert set(get_type_hints(LoadingChoices)) == {one.name for one in fields(Loading)}


def test_signatures_show_every_keyword() -> None:
    shown = signature(mlx_moebench.analyze).parameters
    assert {"bits", "max_length", "tau", "output", "plan", "tokenizer"} <= set(shown)
    assert shown["max_length"].default == 256
    assert "revision" in signature(mlx_moebench.load).parameters

    @takes(Loading, without=("backend",))
    def function(model: Any, **choices: Any) -> None: ...

    assert "backend" not in signature(function).parameters


def test_a_wrong_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_lenght'"):
        Options.of({"max_lenght": 3})  # type: ignore[typeddict-unknown-key]
