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
from mlx_moebench.cli._options import HOLES, LOADING, READING, SPELLINGS
from mlx_moebench.errors import DataError
from mlx_moebench.options import Choices, Flag, Loading, LoadingChoices, Options, Reading, Saving, takes

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"

LOAD_MODELS = ("analyze", "compare", "demo", "evaluate", "loss", "profile", "train")
"""The commands that load a model."""

EVERYWHERE = ("--output", "--level", "--json", "--quiet", "--seed", "--resume")
"""Options that mean the same wherever they make sense."""


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
        if isinstance(option, click.Option) and not option.hidden
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
    lines += ["", "Other names of one idea, of which a command accepts all and shows one:", ""]
    for names in SPELLINGS:
        users = {flag: [name for name, options in every.items() if flag in options] for flag in names}
        shown = "; ".join(f"`{flag}` in {', '.join(users[flag])}" for flag in names if users[flag])
        lines.append(f"- {', '.join(f'`{flag}`' for flag in names)}: {shown}.")
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
        assert (flag in have) != ((name, flag) in HOLES), f"{name} {flag}"


def test_every_reason_belongs_to_a_command_and_a_shared_option() -> None:
    for name, flag in HOLES:
        assert name in commands()
        assert flag in {*LOADING_FLAGS, *EVERYWHERE}


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


@pytest.mark.parametrize("typed", ["--seed=0", "--learning-rate=0", "--val-batches=0"])
def test_a_zero_wins_over_the_settings_of_a_training(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 is an answer, a flag that is not given is none: the file's seed of 5 is not trained with under --seed 0."""
    training = pytest.importorskip("mlx_moebench.train", reason="needs MLX")
    (tmp_path / "file.yaml").write_text("seed: 5\nlearning_rate: 0.1\nval_batches: 3\ntrust_remote_code: true\n")
    asked: dict[str, Any] = {}

    def stop(settings: dict[str, Any]) -> None:
        asked.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "training_config", stop)
    with pytest.raises(SystemExit):
        main(["train", "-c", str(tmp_path / "file.yaml"), typed, "--quiet"])
    key = typed.removeprefix("--").partition("=")[0].replace("-", "_")
    kept = {"seed": 5, "learning_rate": 0.1, "val_batches": 3, "trust_remote_code": True}
    assert {name: asked[name] for name in kept} == kept | {key: 0}


def test_keywords_and_fields_are_the_same() -> None:
    parts = {one.name for part in (Loading, Reading, Flag, Saving) for one in fields(part)}
    assert set(get_type_hints(Choices)) == {*parts, "plan"}
    assert set(get_type_hints(LoadingChoices)) == {one.name for one in fields(Loading)}


@pytest.mark.parametrize("choice", [{"max_samples": 0}, {"max_length": 0}, {"batch_size": 0}, {"shard": "5/4"}])
def test_what_cannot_be_read_is_refused_before_a_model_is_looked_for(choice: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(choice))):
        mlx_moebench.analyze("no/such/model", **choice)


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
