"""Write docs/definitions.md: docs/definitions.in.md with what the docstrings of the metrics say.

    python scripts/make_definitions.py [--check]

--check writes nothing and exits 1 if the page is not what the docstrings say now; a test does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlx_moebench.routing import METRICS
from mlx_moebench.routing.domains.information import domain_information, jensen_shannon
from mlx_moebench.routing.metrics import coactivation, coactivation_lift, transition
from mlx_moebench.show.tables.metrics import FIELDS, GROUPS, INTERVALS, parts

DOCS = Path(__file__).parents[1] / "docs"
PAGE, TEMPLATE = DOCS / "definitions.md", DOCS / "definitions.in.md"

FUNCTIONS: tuple[Callable[..., Any], ...] = (
    coactivation,
    coactivation_lift,
    transition,
    domain_information,
    jensen_shannon,
)
NOTICE = "<!-- Written by scripts/make_definitions.py from definitions.in.md and the docstrings: edit those. -->\n"


def page() -> str:
    """The whole page as it should be."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for marker, lines in (("<!-- metrics -->\n", _metrics()), ("<!-- functions -->\n", _functions())):
        if marker not in text:
            raise SystemExit(f"{TEMPLATE.name} has no line {marker.strip()}.")
        text = text.replace(marker, "\n".join(lines) + "\n")
    return NOTICE + text.rstrip() + "\n"


def _metrics() -> Iterator[str]:
    unknown = {m.group for m in METRICS.values()} - GROUPS.keys()
    if unknown:
        raise SystemExit(f"Give the group {sorted(unknown)[0]!r} a heading in GROUPS.")
    for group, heading in GROUPS.items():
        yield f"### {heading}\n"
        for name, metric in METRICS.items():
            if metric.group == group:
                yield from _entry(name, metric.function, INTERVALS[metric.interval])


def _functions() -> Iterator[str]:
    for function in FUNCTIONS:
        yield from _entry(function.__name__, function, "")


def _entry(name: str, function: Callable[..., Any], note: str) -> Iterator[str]:
    summary, fields = parts(function)
    if missing := [field for field in FIELDS if field not in fields]:
        raise SystemExit(f"The docstring of {function.__name__} has no {missing[0]}.")
    yield f"**`{name}`** {summary} {note}".rstrip()
    yield ""
    for field in FIELDS:
        text = fields[field]
        yield f"- {field}: `{text.rstrip('.')}`" if field == "Formula" and "`" not in text else f"- {field}: {text}"
    yield ""


def main() -> None:
    now = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != now:
            raise SystemExit(f"{PAGE.name} is stale: run python scripts/make_definitions.py")
        return
    PAGE.write_text(now, encoding="utf-8")
    print(f"Wrote {PAGE.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
