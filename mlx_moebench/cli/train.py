"""``mlx-moebench train``: LoRA with a loss on the routing, through mlx-lm's trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from ..types import Json
from ._completion import complete_models
from ._early import check_models
from ._options import LOADING, command_line, force_option, json_option, quiet_option, resume_option
from ._streams import say, warn

EPILOG = """\b
Examples:
  mlx-moebench train --iters 100                       the model in the package, on the bundled prompts: plain LoRA
  mlx-moebench train -c floor.yaml --data ./texts --adapter-path adapters/floor
  mlx-moebench train -c floor.yaml --set routing_loss.weight=0 --adapter-path adapters/control    its control
  mlx-moebench train -c floor.yaml --adapter-path adapters/floor --resume    continue after Ctrl-C or a crash
  mlx.launch -n 2 --backend ring -- python -m mlx_moebench train -c floor.yaml    the batch shared by two processes

\b
floor.yaml holds the keys of mlx_lm.lora (iters, learning_rate, num_layers, lora_parameters, ...) and
  routing_loss:
    name: entropy_floor     # or switch, sequence, global, z
    weight: 0.1             # lambda; 0 is the control
    signal: load            # marginal, token, load
    scope: batch            # sequence, batch, window (of `window: 16` micro-batches)
    floor: {fraction: 0.9}  # of ln E; or {experts: 32}, or {nats: 2.5}
    layers: all             # or a list of MoE layers, counted from 0
"""


@click.command(epilog=EPILOG)
@click.option(
    "-c", "--config", type=click.Path(path_type=Path), help="YAML settings; options given here take precedence."
)
@click.option(
    "--model",
    help="Folder or hub id of an MoE checkpoint.  [default: the embedded moebench-nano]",
    shell_complete=complete_models,
    callback=check_models,
)
@click.option(
    "--data", help="Folder with train.jsonl, valid.jsonl, test.jsonl, or a hub data set.  [default: bundled prompts]"
)
@click.option("--adapter-path", help="Folder for adapter, checkpoint, log and reports.  [default: adapters]")
@click.option("--iters", type=int, help="Steps.  [default: 1000]")
@click.option("--batch-size", type=int, help="Sequences per step, over all ranks.  [default: 4]")
@click.option("--learning-rate", type=float, help="[default: 1e-5]")
@click.option("--optimizer", help="adam, adamw, muon, sgd or adafactor.  [default: adam]")
@click.option("--fine-tune-type", help="lora, dora or full.  [default: lora]")
@click.option("--num-layers", type=int, help="Train the last N blocks, -1 for all.  [default: 16, or all there are]")
@click.option("--max-seq-length", type=int, help="Tokens kept of a sequence.  [default: 2048]")
@click.option("--val-batches", type=int, help="Validation batches, -1 for all.  [default: 25]")
@click.option("--steps-per-eval", type=int, help="Steps between validations.  [default: 200]")
@click.option("--save-every", type=int, help="Steps between checkpoints.  [default: 100]")
@click.option("--grad-accumulation-steps", type=int, help="Steps per update of the weights.  [default: 1]")
@click.option("--grad-checkpoint", is_flag=True, default=None, help="Use less memory and more time.")
@click.option("--mask-prompt", is_flag=True, default=None, help="Learn completions only.")
@click.option(
    "--sort-by-length",
    is_flag=True,
    default=None,
    help="Batches of texts of like length, all texts in turn; by default they are those of mlx-lm.",
)
@click.option("--test", is_flag=True, default=None, help="Cross-entropy on test.jsonl at the end.")
@click.option("--resume-adapter-file", help="Start from these adapter weights.")
@LOADING["dtype"]
@LOADING["bits"]
@LOADING["four_bit"]
@LOADING["router_bits"]
@click.option(
    "--seed", type=int, help="Seed of LoRA's initial weights, dropout and the order of the data.  [default: 0]"
)
@click.option(
    "--routing-data", help="Data that routing is measured on before and after.  [default: the validation file]"
)
@LOADING["trust_remote_code"]
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set any YAML key; write nested ones with dots."
)
@LOADING["device"]
@force_option
@resume_option("the checkpoint in the adapter's folder, if there is one")
@json_option("the training report")
@quiet_option
def command(
    config: Path | None,
    assignments: tuple[str, ...],
    device: str,
    resume: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fine-tune with LoRA through mlx-lm's own trainer, with a loss on the routing if asked for.

    Writes an adapter that stock mlx-lm loads, a log of every step, routing before and after as stats pairs, a report
    and a plot. Runs can be stopped at any time; --resume ends with the weights of a run that was never stopped.
    """
    from ..train import read_config, train_adapter, training_config
    from ._progress import progress

    settings = read_config(config) if config else {}
    if options.pop("four_bit"):
        if options["bits"] not in (None, 4):
            raise click.UsageError(f"--4bit means --bits 4 and contradicts --bits {options['bits']}; give one of them.")
        options["bits"] = 4
    # A flag that is not given says nothing; the file may.
    settings |= {key: value for key, value in options.items() if value is not None and value is not False}
    for assignment in assignments:
        _assign(settings, assignment)
    checked = training_config(settings)
    with warnings.catch_warnings(), progress(quiet) as step:
        warnings.simplefilter("always", UserWarning)
        report = train_adapter(
            checked,
            resume=resume,
            device=device,
            command=command_line(),
            step=step,
        )
    from mlx.core import distributed

    if distributed.init().rank() == 0:
        _show(report, Path(checked["adapter_path"]), as_json)


def _assign(settings: Json, assignment: str) -> None:
    """Set ``a.b=value`` in nested settings; the value is read as YAML."""
    from ..errors import TrainingError
    from ..train import parse_value

    path, equals, value = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise click.UsageError(f"--set {assignment!r} is not of the form KEY=VALUE, such as routing_loss.weight=0.")
    *parents, key = path.split(".")
    place = settings
    for parent in parents:
        if place.get(parent) is None:  # `routing_loss:` with nothing below it
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise TrainingError(f"--set {assignment}: {parent} has no keys below it.")
    place[key] = parse_value(value)


def _show(report: Json, folder: Path, as_json: bool) -> None:
    from ..pair.seal import sealed_text
    from ..show.plots.training import plot_training
    from ..show.tables.training import print_training
    from ..train import LOG, read_log

    for warning in report["routing_loss"]["warnings"]:
        warn(warning)
    log = read_log(folder / LOG)
    picture = plot_training(log, report, folder / "training.png")
    if as_json:
        click.echo(sealed_text(report), nl=False)
    else:
        print_training(report, log, name=folder.resolve().name)
        say(f"Wrote {folder}: adapters.safetensors, training_log.jsonl, training_report.json, {picture.name}")
