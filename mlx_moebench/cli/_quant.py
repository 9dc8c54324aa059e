"""``compare MODEL --quant ARM``: one model as stored against arms of its weights quantised."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import hold, typed
from ._streams import say

if TYPE_CHECKING:
    from ..options import Options

NEEDLESS = ("backend", "bits", "four_bit", "router_bits", "routers_from", "allow", "csv")
"""Options that mean nothing with --quant."""

KEYS = ("arms", "separations")
"""Keys of a report by which it is known."""


def quant(
    side: str,
    base: str | None,
    names: tuple[str, ...],
    dataset: str,
    options: Options,
    metrics: tuple[str, ...],
    places: tuple[Path | None, Path | None, Path | None],
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the arms of a model, or of an adapter on ``base``, and show them.

    places: --output, --plot and --output-dir.
    """
    from ..analysis import target
    from ..analysis.arms import arms_named
    from ..analysis.quant import drift_report
    from ..files import check_output, write_aside
    from ..options import quiet_tell
    from ..pair.seal import sealed_text
    from ..show.plots import check_plot
    from ..show.plots.quant import plot_quant
    from ..show.tables.quant import print_quant
    from ._progress import progress

    if needless := typed(NEEDLESS):
        raise click.UsageError(
            f"--quant names the bits of each arm and compares it with the model as stored; leave out "
            f"{', '.join(needless)}."
        )
    arms, model = arms_named(names), target(side, base)
    if base is not None and model.adapter_path is None:
        raise click.UsageError("--model is what an adapter is applied to, and there is none here; leave it out.")
    options = replace(options, loading=replace(options.loading, adapter_path=model.adapter_path))
    output, plot, folder = places
    if output:
        check_output(output, ".json", "report of quantised arms", KEYS)
    if plot:
        check_plot(plot)
    hold(*([output] if output else []), *([folder / "arms"] if folder else []))
    with progress(quiet) as step:
        tell = quiet_tell if quiet else partial(say, err=True)
        report = drift_report(model.model, dataset, arms, options, output_dir=folder, step=step, tell=tell)
    text = sealed_text(report)
    if output:
        write_aside({output: text.encode()})
    pages = plot_quant(report, plot) if plot else []
    if as_json:
        click.echo(text, nl=False)
        return
    print_quant(report, metrics)
    if written := [str(path) for path in (output, *pages) if path]:
        say(f"Wrote {'; '.join(written)}")
