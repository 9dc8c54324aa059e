"""Write docs/families.md: which models are measured, how each routes, and where libraries differ, from the code.

    python scripts/make_families.py [--check]

--check writes nothing and exits 1 if the page is not what the declarations say now; a test does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from mlx_moebench.families.differences import DIFFERENCES, UNREADABLE
from mlx_moebench.show.tables.models import PARITY, TESTED, supported, where_measured
from mlx_moebench.types import Facts

PAGE = Path(__file__).parents[1] / "docs" / "families.md"

HEAD = """<!-- Written by scripts/make_families.py from mlx_moebench/families: edit those. -->
# Model families

Every `model_type` that can be measured, by how it routes. `mlx-moebench models NAME` says all of one: where its router
is, the rule that makes the distribution p and the gate weights g, which blocks are sparse, and what is refused. A model
that is not here is refused by name; [CONTRIBUTING.md](../CONTRIBUTING.md) says how to add it, here or in a package of
your own.
"""


def page() -> str:
    """The whole page as it should be."""
    return "\n".join([HEAD, *_families(), *_tested(), *_differences(), *_unreadable()]).rstrip() + "\n"


def _families() -> Iterator[str]:
    families = supported()["families"]
    for title in dict.fromkeys(family["form_title"] for family in families):
        of_form = [family for family in families if family["form_title"] == title]
        yield f"## {title}\n"
        yield f"`families/{of_form[0]['form']}.py`\n"
        if all(family["unavailable"] for family in of_form):
            yield from (f"- {_types(family)}: {family['unavailable']}" for family in of_form)
            yield ""
            continue
        yield "| model_type | E | K | measured on | known models |"
        yield "|---|---|---|---|---|"
        for family in of_form:
            keys = [_keys(family, key) for key in ("n_experts", "top_k")]
            yield f"| {' | '.join([_types(family), *keys, _where(family), _public(family)])} |"
        yield ""


def _types(family: Facts) -> str:
    return ", ".join(f"`{name}`" for name in family["model_types"])


def _keys(family: Facts, which: str) -> str:
    return " or ".join(f"`{key}`" for key in family["settings"][which]) or "-"


def _where(family: Facts) -> str:
    return where_measured(family) + (f" ({family['unavailable']})" if family["unavailable"] else "")


def _public(family: Facts) -> str:
    return ", ".join(name.rpartition("/")[2] for name in family["public"])


def _tested() -> Iterator[str]:
    yield "## What is tested\n"
    yield "On MLX, for each of them, on a small random model with random biases of both signs:\n"
    yield from (f"- {what}" for what in TESTED)
    yield f"- {PARITY}\n"
    yield "No weights of the public models were run where this is built.\n"


def _differences() -> Iterator[str]:
    yield "## What mlx-lm and transformers compute differently\n"
    yield "From one checkpoint. A test fails when one of them disappears, or another one appears. The last column says"
    yield "which of the two does as the model's authors published, as far as that is known; it was not checked against"
    yield "their code here.\n"
    yield "| model_type | what | mlx-lm | transformers | right |"
    yield "|---|---|---|---|---|"
    for one in DIFFERENCES:
        where = ", ".join(f"`{name}`" for name in one.model_types)
        refused = " (refused on MLX)" if one.refused else ""
        yield f"| {where} | {one.what}{refused} | {one.mlx_lm} | {one.transformers} | {one.right} |"
    yield ""


def _unreadable() -> Iterator[str]:
    yield "## What mlx-lm cannot read of transformers' own files\n"
    yield "Weights that transformers writes, by default, under names or in a layout that mlx-lm does not know.\n"
    yield "| model_type | why |"
    yield "|---|---|"
    yield from (f"| `{one.model_type}` | {one.why} |" for one in UNREADABLE)


def main() -> None:
    text = page()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else f"{PAGE.name} is out of date.")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
