"""Layer by expert load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..figures import LayerSeries, RouterLoad, layer_series, load_series
from ..inputs import Inputs, Run
from ..tables.routers import model_name
from ._heat import Heat, draw_even, padded
from .base import Plot, Source, heading, intervals_of, sources, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(inputs: Inputs) -> Figure:
    """One panel per run or domain and kind of router."""
    return draw_load(sources(inputs, "loads"))


def draw_load(found: Sequence[Source]) -> Figure:
    """Loads as multiples of the even share; beside each router its busiest expert's share of tokens with its band."""
    panels, flagged = [], set()
    for source in found:
        loads = load_series(Run(source.label, source.report, None, {}))  # the bands of single experts are not drawn
        busiest = layer_series(source.report, "top_share_token")
        kinds = list(dict.fromkeys(one.router.router for one in loads.routers))
        for kind in kinds:
            name, rest = (source.label, source.size) if len(found) > 1 else ("", "")
            if len(kinds) > 1:
                rest = f"{rest}\n{kind} routers".lstrip("\n")
            own = [place for place, one in enumerate(loads.routers) if one.router.router == kind]
            routers = [loads.routers[place] for place in own]
            flagged |= {f"{loads.tau:g}" for one in routers if one.flagged}
            panels.append(
                Heat(
                    name,
                    rest,
                    padded([one.ratios for one in routers]),
                    [str(one.router.layer) for one in routers],
                    [_beside(loads.routers[place], busiest, place, brief=len(found) > 1) for place in own],
                )
            )
    figure = draw_even(panels, "load, multiple of the even share (1 = even)")
    said = "right of a row: share of tokens of its busiest expert"
    said += f"; * above tau = {', '.join(sorted(flagged))}" if flagged else ""
    how = intervals_of(found, ["top_share_token"], "brackets" if len(found) == 1 else "bands of plot shares")
    figure.suptitle(heading(found, said, how) if any(panel.named for panel in panels) else heading(found))
    return figure


def plot_load(report: dict[str, Any], path: Path) -> None:
    """The picture of one routing report, as ``analyze --plot`` writes it."""
    source = Source(model_name(report["model"]), report)
    write_picture(path, lambda: draw_load([source]))


def _beside(router: RouterLoad, busiest: LayerSeries, place: int, brief: bool) -> str:
    share = busiest.values[place]
    text = f"{share.value:.2f}"
    if share.has_interval and not brief:
        text += f" [{share.low:.2f}, {share.high:.2f}]"
    return text + (" *" if router.flagged else "")


PLOT = Plot("load", "Layer x expert load, as multiples of the even share.", "stats pairs or profiles", draw)
