"""``mlx-moebench plot``: pictures for papers. Its subcommands are the kinds, found as they are in ``show/plots``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import click

from ._options import force_option
from ._streams import say
from .compare import KINDS as ALLOWED
from .report import readable

EPILOG = """\b
Examples:
  mlx-moebench plot load math.json -o load.svg                        one stats pair
  mlx-moebench plot load base.json tuned.json -o load.pdf             two, on one scale
  mlx-moebench plot entropy base=a.json tuned=b.json -o entropy.pdf   with names of your own
  mlx-moebench plot domains results/profile -o domains.pdf            the folder of a profile
  mlx-moebench plot coactivation math.json --layer 0 --layer 5 -o pairs.png
  mlx-moebench plot river math.json --layers 0-4 -o river.svg         moves from layer to layer
  mlx-moebench plot river math.json trace --sequence 2 -o river.pdf   with the paths of the tokens of a text
  mlx-moebench plot tokens trace --sequence 2 -o tokens.pdf           a trace, or two side by side
  mlx-moebench plot card math.json trace --card 3-7 -o card.png       one expert
  mlx-moebench plot comparison before.json after.json -o effects.pdf
  mlx-moebench plot load profile/ --order domain --flagged -o load.png       experts by domain, flagged layers
  mlx-moebench plot load profile/ --layers 0-15 -o load.pdf           some layers; a PDF has as many pages as it takes
  mlx-moebench plot training adapters -o training.png
"""


class _Kinds(click.Group):
    """The kinds of picture, one subcommand each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ..show.plots import plots

        return list(plots())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        from ..show.plots import get_plot

        plot = get_plot(cmd_name)
        return click.Command(
            plot.name,
            params=_parameters(plot.options),
            callback=partial(_draw, plot.name),
            help=f"{plot.summary}\n\nINPUTS are {plot.needs}; each a path, or NAME=PATH to name it in the picture.",
            short_help=plot.summary,
        )


class _Span(click.ParamType[tuple[int, int]]):
    """``A-B``: the first and the last layer, or one alone."""

    name = "A-B"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        first, _, last = value.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            self.fail(f"{value!r} are no layers: give the first and the last one, as in 0-15.", param, ctx)
        if int(last or first) < int(first):
            self.fail(f"{value!r} ends before it begins.", param, ctx)
        return int(first), int(last or first)


_OPTIONS = {
    "span": click.Option(["--layers", "span"], type=_Span(), help="Only the routers of these layers.  [default: all]"),
    "card": click.Option(
        ["--card"],
        metavar="LAYER-EXPERT",
        help="Which expert, as its card on a page is called: 3-7, or 3-attention-7.  [default: what stands out most]",
    ),
    "sequence": click.Option(
        ["--sequence"], type=click.IntRange(min=0), default=0, help="Which sequence of the trace, from 0.  [default: 0]"
    ),
    "order": click.Option(
        ["--order"],
        type=click.Choice(["number", "load", "domain"]),
        default="number",
        help="Experts by number, by load in each layer, or by favourite domain and then load.  [default: number]",
    ),
    "flagged": click.Option(["--flagged"], is_flag=True, help="Only the layers that are flagged."),
    "layers": click.Option(
        ["--layer", "layers"],
        multiple=True,
        type=click.IntRange(min=0),
        help="Layer to draw; may be repeated.  [default: first, middle and last]",
    ),
    "allow": click.Option(
        ["--allow"],
        multiple=True,
        type=click.Choice(ALLOWED),
        help="Compare even though the sides differ in this, which is otherwise refused; may be repeated.",
    ),
}
"""Options of some kinds, as `Plot.options` names them."""


(FORCE,) = click.command()(force_option(lambda: None)).params


def _parameters(options: Iterable[str]) -> list[click.Parameter]:
    picture = click.Path(path_type=Path)
    return [
        click.Argument(["inputs"], nargs=-1, required=True),
        click.Option(["-o", "--output"], required=True, type=picture, help="The picture: .png, .svg or .pdf."),
        FORCE,
        *(_OPTIONS[name] for name in options),
        click.Option(
            ["--page"], type=click.IntRange(min=1), help="Only this page of several.  [default: all, numbered files]"
        ),
        click.Option(["--title"], help="Instead of the one that says what is drawn; '' for none."),
    ]


def _draw(
    kind: str,
    inputs: tuple[str, ...],
    output: Path,
    title: str | None,
    allow: tuple[str, ...] = (),
    page: int | None = None,
    **further: object,
) -> None:
    from ..show.inputs import read_inputs
    from ..show.plots import check_plot, get_plot, write_picture

    check_plot(output)
    plot = get_plot(kind)
    with readable():
        contents = read_inputs(inputs, allow=allow)
        written = write_picture(output, lambda: plot.every(contents, **further), title, page)
    say(f"Wrote {', '.join(map(str, written))}")


@click.group(cls=_Kinds, epilog=EPILOG, subcommand_metavar="KIND INPUTS... -o FILE", options_metavar="")
def command() -> None:
    """Draw a picture for a paper from what was measured: PNG, SVG or PDF, the same bytes each time.

    INPUTS are stats pairs, profiles, comparisons, reports of loss or trainings, each recognised by its content.
    Several in one picture share their scales. `plot KIND --help` says what a kind is drawn from, and
    `mlx-moebench metrics` what the numbers in it mean.
    """
