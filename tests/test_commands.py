"""One vocabulary of options: what every subcommand has, spelt alike, and why not where it has not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest

import mlx_moebench
from mlx_moebench.cli import ALIASES, group, main
from mlx_moebench.cli._options import LOADING, READING, SPELLINGS
from mlx_moebench.errors import DataError
from mlx_moebench.options import Choices, Flag, Loading, LoadingChoices, Options, Reading, Saving, takes

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"

LOAD_MODELS = ("analyze", "compare", "demo", "evaluate", "experts", "loss", "perturb", "profile", "train")
"""The commands that load a model."""

EVERYWHERE = ("--output", "--force", "--level", "--json", "--quiet", "--seed", "--resume")
"""Options that mean the same wherever they make sense."""


HOLES: Mapping[tuple[str, str], str] = {
    ("compare", "--adapter-path"): "A or B may be an adapter's folder, and --model is the model that it is applied to",
    ("train", "--backend"): "training uses mlx-lm's own trainer",
    ("perturb", "--backend"): "routers are changed by the taps on MLX's models",
    ("experts", "--backend"): "experts are heard and changed by the taps on MLX's models",
    ("train", "--routers-from"): "an adapter belongs to the model as it is stored",
    **{
        (name, flag): why
        for name, why in {
            "demo": "it generates, for which all layers are needed for every token",
            "dynamics": "what each token chose is compared, and kept for that",
            "evaluate": "it asks the same model again and again",
            "experts": "the same texts go through the model again and again",
            "perturb": "the losses come from the head, behind all layers",
            "loss": "the log-likelihoods come from the head, behind all layers",
            "train": "gradients go through all layers",
        }.items()
        for flag in ("--stream", "--stream-memory")
    },
    ("compare", "--resume"): "--output-dir keeps the pairs, and the same command continues from them",
    ("dynamics", "--resume"): "--output-dir keeps the checkpoints, and the same command continues from them",
    ("demo", "--resume"): "nothing is kept",
    ("loss", "--resume"): "a run is short, and its tokens are not kept",
    ("demo", "--output"): "it is a page, not a file",
    ("train", "--output"): "--adapter-path is the folder that everything goes to",
    **dict.fromkeys(
        [(name, "--force") for name in ("demo", "doctor", "metrics", "mlx-lm", "models", "plan", "verify")],
        "it writes no file",
    ),
    ("serve", "--force"): "a server starts new files",
    ("demo", "--json"): "it prints no numbers",
    ("demo", "--level"): "one text has no intervals",
    ("train", "--level"): "its stats pairs have intervals at 95%; merge FILE -o NEW --level makes others",
    ("demo", "--seed"): "nothing is drawn at random",
    ("plot", "--json"): "it makes a picture",
    ("report", "--json"): "--format csv is for machines",
    ("plot", "--level"): "a picture shows the intervals that its inputs hold",
    ("plot", "--quiet"): "it prints one line, the file it wrote",
    ("vocabulary", "--level"): "shares are compared with a null, not given intervals",
    ("doctor", "--output"): "it prints what it finds; --json > FILE keeps it",
    ("doctor", "--level"): "its checks hold or fail, without intervals",
    ("doctor", "--seed"): "nothing is drawn at random",
    ("doctor", "--resume"): "it takes seconds",
    ("metrics", "--output"): "it prints what there is; --json > FILE keeps it",
    ("metrics", "--level"): "it measures nothing",
    ("metrics", "--seed"): "nothing is drawn at random",
    ("metrics", "--resume"): "it measures nothing",
    ("metrics", "--quiet"): "it answers at once, so there is no progress to show",
    ("plan", "--output"): "it prints what it finds; --json > FILE keeps it",
    ("plan", "--level"): "it measures nothing",
    ("plan", "--seed"): "nothing is drawn at random",
    ("plan", "--resume"): "it measures nothing",
    ("plan", "--quiet"): "it shows no progress",
    ("plan", "--routers-from"): "routers are small beside the rest",
    ("plan", "--adapter-path"): "an adapter is small beside its model",
    ("plan", "--trust-remote-code"): "it runs no code of a checkpoint",
    ("models", "--output"): "it prints what is supported; --json > FILE keeps it",
    ("models", "--level"): "it measures nothing",
    ("models", "--seed"): "nothing is drawn at random",
    ("models", "--resume"): "it measures nothing",
    ("models", "--quiet"): "it answers at once, so there is no progress to show",
    ("mlx-lm", "--output"): "its options are mlx-lm's",
    ("mlx-lm", "--level"): "its options are mlx-lm's",
    ("mlx-lm", "--json"): "its options are mlx-lm's",
    ("mlx-lm", "--quiet"): "its options are mlx-lm's",
    ("mlx-lm", "--seed"): "its options are mlx-lm's",
    ("mlx-lm", "--resume"): "its options are mlx-lm's",
    ("import", "--resume"): "it only reads files, and can simply be run again",
    ("merge", "--resume"): "it only reads files, and can simply be run again",
    ("plot", "--resume"): "it only reads files, and can simply be run again",
    ("plot", "--seed"): "a picture shows the intervals that its inputs hold",
    ("verify", "--force"): "it writes nothing",
    ("verify", "--output"): "it prints what it finds; --json > FILE keeps it",
    ("verify", "--level"): "it makes a report again as its settings say",
    ("verify", "--seed"): "it makes a report again as its settings say",
    ("verify", "--quiet"): "it prints what it finds, and shows no progress",
    ("verify", "--resume"): "it only reads files, and can simply be run again",
    ("report", "--resume"): "it only reads files, and can simply be run again",
    ("serve", "--json"): "GET /routing is JSON",
    ("serve", "--level"): "its stats pairs have intervals at 95%; merge FILE -o NEW --level makes others",
    ("serve", "--quiet"): "--log-level ERROR, which is mlx-lm's",
    ("serve", "--resume"): "a server starts new files",
    ("serve", "--seed"): "a request has its own",
    ("vocabulary", "--resume"): "it only reads files, and can simply be run again",
}
"""(command, option): why the option is not there."""


def commands() -> dict[str, list[click.Command]]:
    """Every subcommand; of a group of them, those in it, and itself where it does something alone."""
    context = click.Context(group)
    found: dict[str, list[click.Command]] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        members = command.list_commands(context) if isinstance(command, click.Group) else ()
        inside = [c for m in members if (c := command.get_command(context, m))]  # type: ignore[attr-defined]
        found[name] = [*inside, *([command] if not inside or getattr(command, "invoke_without_command", False) else [])]
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
