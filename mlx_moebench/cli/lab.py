"""``mlx-moebench lab``: models of the lab. ``lab train`` trains one from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..types import Json
from ._lab_eval import command as evaluate
from ._options import LOADING, READING, command_line, json_option, output_option, quiet_option, resume_option
from ._streams import say

EPILOG = """\b
Examples:
  mlx-moebench lab train -o runs/smoe                      tiny, the bundled prompts, in minutes
  mlx-moebench lab train --router shared_v3 --data ./texts -o runs/v3
  mlx-moebench analyze --model runs/v3 --dataset math --max-length 128     as many positions as tiny has
  mlx-moebench lab eval runs/smoe runs/v3 --data zeroshot/
"""

TRAIN_EPILOG = """\b
Examples:
  mlx-moebench lab train -o runs/smoe
  mlx-moebench lab train --router tc_moe --data ./texts --vocab-size 2048 --seed 1 -o runs/tc1
  mlx-moebench lab train --router dense --flops 2 --data ./texts -o runs/dense2
  mlx-moebench lab train --router xmoe --spec libmoe --balance none --snapshot-every 50 -o runs/xmoe
  mlx-moebench lab train -o runs/smoe --resume             continue after Ctrl-C or a crash
  mlx.launch -n 2 --backend ring -- python -m mlx_moebench lab train -o runs/two     each batch shared by two
"""

_FOLDER = Path(__file__).parents[1] / "lab" / "routers"
ROUTERS = [*sorted(path.stem for path in _FOLDER.glob("[!_]*.py") if path.stem != "base"), "dense"]
"""Read off the folder: importing it would load MLX."""


@click.group(epilog=EPILOG)
def command() -> None:
    """Train small mixtures of experts with any of seven routers, for everything else here to measure."""


command.add_command(evaluate)


@command.command("train", epilog=TRAIN_EPILOG)
@click.option(
    "--preset",
    type=click.Choice(["tiny", "158m", "679m"]),
    default="tiny",
    show_default=True,
    help="Sizes and recipe; 158m and 679m are LibMoE's.",
)
@click.option("--router", type=click.Choice(ROUTERS), default="smoe", show_default=True, help="The router.")
@click.option(
    "--spec",
    type=click.Choice(["paper", "libmoe"]),
    default="paper",
    show_default=True,
    help="As the router's own paper has it, or as LibMoE's code trains it, where that differs.",
)
@click.option("--flops", type=float, default=1.0, show_default=True, help="Of --router dense: as a multiple.")
@click.option("--combine", type=click.Choice(["add", "half"]), default="add", show_default=True, help="Shared expert.")
@click.option("--balance", help="Loss on the load: none, switch, sequence, global, hetero, ternary, entropy.")
@click.option("--balance-weight", type=float, help="Its coefficient.  [default: the router's, mostly 0.01]")
@click.option("--z-weight", type=float, default=0.0, show_default=True, help="Coefficient of the router z-loss.")
@click.option("--router-std", type=float, help="Deviation of the gates' first weights.")
@click.option("--set", "assignments", multiple=True, metavar="AXIS=VALUE", help="Change one axis of the router.")
@click.option(
    "--data",
    default="bundled",
    show_default=True,
    help="A file, a folder, hub:ID or a bundled name; bundled is all that ship with the package.",
)
@READING["text_field"]
@READING["max_samples"]
@READING["split_on"]
@click.option("--held-out", type=int, default=20, show_default=True, help="Every so many-th block is for validation.")
@click.option("--tokenizer", help="Folder or tokenizer.json.  [default: trained on the data]")
@click.option("--vocab-size", type=int, help="Train a tokenizer of so many tokens.  [default: the preset's]")
@click.option("--seq-length", type=int, help="Tokens of a sequence.  [default: the preset's]")
@click.option("--batch-size", type=int, help="Sequences of an update, over all ranks.  [default: the preset's]")
@click.option("--micro-batch-size", type=int, help="Sequences of a forward, over all ranks.  [default: the preset's]")
@click.option("--steps", type=int, help="Updates.  [default: the preset's]")
@click.option("--warmup", type=int, help="Updates with a rising rate.  [default: the preset's]")
@click.option("--learning-rate", type=float, help="Falls in a cosine to a tenth.  [default: the preset's]")
@click.option("--clip", type=float, help="Largest norm of a gradient.  [default: the preset's]")
@click.option("--weight-decay", type=float, default=0.01, show_default=True, help="On every weight.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, dropout and the order of the text.")
@click.option("--data-seed", type=int, help="Of the order of the text.  [default: --seed]")
@click.option("--save-every", type=int, default=100, show_default=True, help="Updates between checkpoints.")
@click.option("--eval-every", type=int, default=100, show_default=True, help="Updates between validations; 0: none.")
@click.option("--eval-batches", type=int, default=8, show_default=True, help="Micro-batches of a validation.")
@click.option(
    "--snapshot-every", type=int, default=0, show_default=True, help="Updates between copies that are kept; 0: none."
)
@LOADING["device"]
@output_option("Folder for model, log, checkpoint and report.", force=False, required=True)
@resume_option("the checkpoint in the folder, if there is one")
@json_option("the report")
@quiet_option
def train(
    output: Path,
    resume: bool,
    device: str,
    as_json: bool,
    quiet: bool,
    assignments: tuple[str, ...],
    balance: str | None,
    balance_weight: float | None,
    **options: Any,
) -> None:
    """Train a mixture of experts, or its dense baseline, from scratch.

    Writes a checkpoint that every command takes, a log with a line for every update, and a report. Runs can be stopped
    at any time; --resume ends with the weights of a run that was never stopped.
    """
    from ..lab.pretrain import pretrain
    from ..lab.settings import Pretraining
    from ._progress import progress

    axes = _axes(assignments)
    axes |= {"balance": balance} if balance is not None else {}
    axes |= {"balance_weight": balance_weight} if balance_weight is not None else {}
    settings = Pretraining(axes=axes, **options)
    with progress(quiet) as step:
        report = pretrain(settings, output, resume=resume, device=device, command=command_line(), step=step)
    from mlx.core import distributed

    if distributed.init().rank() == 0:
        _show(report, output, as_json)


def _axes(assignments: tuple[str, ...]) -> Json:
    from ..train import parse_value

    axes: Json = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set {assignment!r} is not of the form AXIS=VALUE, such as norm_topk_prob=false.")
        axes[name] = parse_value(value)
    return axes


def _show(report: Json, folder: Path, as_json: bool) -> None:
    from ..pair.seal import sealed_text
    from ..show.tables.lab import print_lab

    if as_json:
        click.echo(sealed_text(report), nl=False)
        return
    print_lab(report)
    say(f"Wrote {folder}: model.safetensors, config.json, training_log.jsonl, lab_report.json")
