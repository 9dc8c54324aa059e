"""One self-contained HTML page of a report: data, style and scripts inside, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping

import jinja2

from ... import __version__
from ...types import Facts, Json
from ..colours import FINDINGS, FINDINGS_DARK
from ..figures import Fact, answer, definitions, difference_series, strips
from ..inputs import Inputs
from ..numbers import with_interval
from ..tokens import SCRIPTS as TOKEN_SCRIPTS
from ..tokens import STYLES as TOKEN_STYLES
from ..tokens import assets, script_json
from .data import page_data
from .provenance import provenance

STYLES = ("page.css", "first.css", "pictures.css")
SCRIPTS = (
    "base.js",
    "state.js",
    "pointer.js",
    "painting.js",
    "numbers.js",
    "chart.js",
    "heatmap.js",
    "tables.js",
    "figure.js",
    "export.js",
    "sections.js",
    "strip.js",
    "map.js",
    "river.js",
    "river_view.js",
    "river_play.js",
    "cards.js",
    "card.js",
)
"""Files of ``assets``, in the order in which they are put into the page; those of a token view, then ``start.js``."""


def build_page(
    inputs: Inputs,
    *,
    tokens: Facts | None = None,
    beside: Facts | None = None,
    title: str | None = None,
    command: str | None = None,
) -> str:
    """The page as HTML. tokens: the data of a token view (`tokens.token_data`), which becomes a section of its own.

    beside: those of another trace, whose sentences stand beside the first one's in the map of tokens by layers.

    Everything that was given is data, never markup: it stands in the page as escaped text or as JSON in a script
    element that no browser runs, and a Content-Security-Policy allows nothing but the page's own scripts and style.
    """
    traced = {"tokens": tokens, "beside": beside}
    data = page_data(inputs, tokens) | {name: of for name, of in traced.items() if of is not None}
    style = finding_style() + assets(*STYLES, *(TOKEN_STYLES if tokens is not None else ()))
    script = assets(*SCRIPTS, *((*TOKEN_SCRIPTS, "map_view.js") if tokens is not None else ()), "start.js")
    settings: Json = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, **settings)
    words = answer(inputs)
    text = environment.from_string(assets("page.html.j2")).render(
        title=title or _title(inputs),
        answer=words,
        strips=strips(inputs),
        definitions=list(definitions(inputs)),
        facts=_facts(inputs, words.facts),
        runs=[run.name for run in inputs.runs],
        with_interval=with_interval,
        provenance=provenance(inputs),
        style=style,
        style_hash=_sha256(style),
        script=script,
        script_hash=_sha256(script),
        data=script_json(data),
        version=__version__,
        command=command,
    )
    # JSON can name what no file can hold: half of a surrogate pair.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def finding_style() -> str:
    """The colours of findings as properties of the page, ``--collapsed`` and ``--on-collapsed`` for text on it."""
    light, dark = (_properties(colours) for colours in (FINDINGS, FINDINGS_DARK))
    system = f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme='light']) {{ {dark} }} }}"
    return f":root {{ {light} }}\n:root[data-theme='dark'] {{ {dark} }}\n{system}\n"


def _properties(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour}; --on-{name}: {_ink(colour)};" for name, colour in colours.items())


def _ink(colour: str) -> str:
    """Black or white, whichever stands out more from a colour (WCAG 2's relative luminance)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _title(inputs: Inputs) -> str:
    sides = {f"{training.name} {when}" for training in inputs.trainings for when in ("before", "after")}
    names = [f"the training {training.name}" for training in inputs.trainings]
    names += [name for name in (*(run.name for run in inputs.runs), *inputs.profiles) if name not in sides]
    names += [str(report["data"]["name"]) for report in inputs.uncertainties]
    names += [f"{report['model']['id']}, quantised" for report in inputs.quants]
    names += [f"{report['model']['id']} over a training" for report in inputs.dynamics]
    names += [f"the testbed on {', '.join(report['domains'])}" for report in inputs.testbeds]
    if not names:
        names = [" against ".join(reversed(difference_series(one).names)) for one in inputs.comparisons]
    shown = list(dict.fromkeys(names))
    return "Routing of " + ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _facts(inputs: Inputs, facts: Iterable[Fact]) -> list[Json]:
    """The figures as rows of a table, a column for each run."""
    rows: dict[tuple[str, str], Json] = {}
    for fact in facts:
        row = rows.setdefault((fact.words, fact.unit), {"words": fact.words, "unit": fact.unit, "values": {}})
        row["values"][fact.run] = fact.value
    names = [run.name for run in inputs.runs]
    return [row | {"values": [row["values"].get(name) for name in names]} for row in rows.values()]
