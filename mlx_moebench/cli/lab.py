"""``mlx-moebench lab``: models of the lab. ``lab train`` trains one, ``lab upcycle`` makes one of a dense model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..types import Json
from ._lab_eval import command as evaluate
from ._lab_testbed import command as testbed
from ._options import LOADING, READING, command_line, json_option, output_option, quiet_option, resume_option
from ._streams import say

EPILOG = """\b
Examples:
  mlx-moebench lab train -o runs/smoe                      tiny, the bundled prompts, in minutes
  mlx-moebench lab train --router shared_v3 --data ./texts -o runs/v3
  mlx-moebench lab upcycle ./SmolLM2-135M --layers 20-29 -o runs/upcycled
  mlx-moebench lab train --from runs/upcycled --freeze --data ./texts -o runs/trained
  mlx-moebench analyze --model runs/v3 --dataset math --max-length 128     as many positions as tiny has
  mlx-moebench lab eval runs/smoe runs/v3 --data zeroshot/
  mlx-moebench lab testbed --data domains/ -o runs/bed
"""

TRAIN_EPILOG = """\b
Examples:
  mlx-moebench lab train -o runs/smoe
  mlx-moebench lab train --router tc_moe --data ./texts --vocab-size 2048 --seed 1 -o runs/tc1
  mlx-moebench lab train --router dense --flops 2 --data ./texts -o runs/dense2
  mlx-moebench lab train --router xmoe --spec libmoe --balance none --snapshot-every 50 -o runs/xmoe
  mlx-moebench lab train --from runs/upcycled --freeze --seq-length 256 --batch-size 4 --data ./texts -o runs/trained
  mlx-moebench lab train -o runs/smoe --resume             continue after Ctrl-C or a crash
  mlx.launch -n 2 --backend ring -- python -m mlx_moebench lab train -o runs/two     each batch shared by two
"""

UPCYCLE_EPILOG = """\b
Examples:
  mlx-moebench lab upcycle ./SmolLM2-135M -o runs/upcycled                       4 experts, 2 chosen, in every block
  mlx-moebench lab upcycle ./SmolLM2-135M --layers 10-19,25 --experts 8 -o runs/eight
  mlx-moebench lab upcycle owner/name --router shared_v3 --only-shared -o runs/shared
  mlx-moebench lab upcycle ./SmolLM2-135M --router sigma --set norm_topk_prob=true -o runs/sigma
"""

_FOLDER = Path(__file__).parents[1] / "lab" / "routers"
ROUTERS = [*sorted(path.stem for path in _FOLDER.glob("[!_]*.py") if path.stem != "base"), "dense"]
"""Read off the folder: importing it would load MLX."""

_SPEC = click.option(
    "--spec",
    type=click.Choice(["paper", "libmoe"]),
    default="paper",
    show_default=True,
    help="As the router's own paper has it, or as LibMoE's code trains it, where that differs.",
)
_SET = click.option(
    "--set", "assignments", multiple=True, metavar="AXIS=VALUE", help="Change one axis of the router; again for more."
)


@click.group(epilog=EPILOG)
def command() -> None:
    """Train mixtures of experts with any of seven routers, new or from a dense model, for all else here to measure."""


command.add_command(evaluate)
command.add_command(testbed)


@command.command("train", epilog=TRAIN_EPILOG)
@click.option(
    "--preset",
    type=click.Choice(["tiny", "158m", "679m"]),
    default="tiny",
    show_default=True,
    help="Sizes and recipe; 158m and 679m are LibMoE's.",
)
@click.option("--router", type=click.Choice(ROUTERS), default="smoe", show_default=True, help="The router.")
@_SPEC
@click.option("--flops", type=float, default=1.0, show_default=True, help="Of --router dense: as a multiple.")
@click.option("--combine", type=click.Choice(["add", "half"]), default="add", show_default=True, help="Shared expert.")
@click.option("--balance", help="Loss on the load: none, switch, sequence, global, hetero, ternary, entropy.")
@click.option("--balance-weight", type=float, help="Its coefficient.  [default: the router's, mostly 0.01]")
@click.option("--z-weight", type=float, default=0.0, show_default=True, help="Coefficient of the router z-loss.")
@click.option("--router-std", type=float, help="Deviation of the gates' first weights.")
@_SET
@click.option("--from", "start", metavar="FOLDER", help="Go on with this model of the lab, instead of a new one.")
@click.option("--freeze", is_flag=True, help="With --from: train gates and experts alone.")
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
    """Train a mixture of experts, or its dense baseline, from scratch, or on from a model of the lab.

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


@command.command("upcycle", epilog=UPCYCLE_EPILOG)
@click.argument("model")
@click.option("--layers", help="Blocks that get a mixture, as 10-19,25; from 0.  [default: all]")
@click.option("--experts", type=int, default=4, show_default=True, help="Routed experts of a block.")
@click.option("--top-k", type=int, default=2, show_default=True, help="Experts that a token chooses.")
@click.option("--router", type=click.Choice(ROUTERS[:-1]), default="smoe", show_default=True, help="The router.")
@_SPEC
@click.option(
    "--combine",
    type=click.Choice(["add", "half"]),
    help="Shared expert: beside the routed ones, or half a weight each.  [default: half; with --only-shared add]",
)
@click.option("--only-shared", is_flag=True, help="Copy the FFN into the shared expert alone; the others are random.")
@click.option("--router-std", type=float, default=0.02, show_default=True, help="Deviation of the gates' weights.")
@_SET
@click.option("--seed", type=int, default=42, show_default=True, help="Of all that is drawn.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@LOADING["device"]
@output_option("Folder for the model.", force=False, required=True)
@json_option("the report")
@quiet_option
def upcycle(
    model: str,
    output: Path,
    revision: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Make a mixture of experts of the dense llama MODEL, a folder or a hub id.

    Every expert begins as a copy of the FFN whose place it takes, and the gates as small random numbers. With most
    routers the new model then computes what MODEL does; how far it is from that is measured and reported.
    """
    from ..lab.upcycle import Upcycling
    from ..lab.upcycle import upcycle as make
    from ..pair.seal import sealed_text
    from ..show.tables.lab import print_upcycled
    from ._progress import progress

    settings = Upcycling(axes=_axes(assignments), **options)
    with progress(quiet) as step:
        report = make(model, output, settings, revision=revision, device=device, command=command_line(), step=step)
    if as_json:
        click.echo(sealed_text(report), nl=False)
        return
    print_upcycled(report)
    say(f"Wrote {output}: model.safetensors, config.json, upcycle_report.json")


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
