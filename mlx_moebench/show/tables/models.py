"""Which models can be measured, from the family files; which others mlx-lm has, from its sources. Needs no MLX."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from ...environment import package_version
from ...families import GUIDE, Family, families
from ...families.base import names_of
from ...types import Json
from .base import plain_table

TESTED = {
    "outputs bit-identical with the tap": "test_instrument.test_taps_change_no_output_and_no_parameter",
    "sum of g x outputs = block output": "test_instrument.test_block_output_is_the_weighted_sum_of_expert_outputs",
    "counts = tokens x K": "test_instrument.test_every_router_counts_tokens_times_k",
    "generation with a cache": "test_instrument.test_generation_is_unchanged_and_every_step_is_seen",
    "a trace gives the statistics back": "test_trace.test_every_family",
    "gradients": "test_instrument.test_gradients_are_unchanged_and_what_was_seen_stays_readable",
    "mx.compile": "test_instrument.test_compiling_is_unchanged_and_placeholders_are_recognised",
    "quantising": "test_instrument.test_quantising_a_tapped_model_keeps_the_taps",
    "LoRA on the gate": "test_instrument.test_lora_on_a_tapped_gate_records_the_adapted_logits",
    "loading a checkpoint, 8-bit too": "test_models.test_every_family_loads_from_its_own_folder",
    "answers to choices = one forward each": "test_choices.test_scores_equal_one_forward_per_continuation",
    "choices, weights and logits as in transformers": "test_parity.test_routing_and_logits",
}
"""What holds for every family, and the test that runs once for each; a test checks that it does."""


def supported() -> Json:
    """``families``: each with its facts; ``tested``: `TESTED`; ``mlx_lm``: its version and what it has beyond."""
    unique = {family.name: family for family in families().values()}
    return {
        "families": [_facts(family) for family in unique.values()],
        "tested": TESTED,
        "mlx_lm": {"version": package_version("mlx-lm"), "sparse_but_not_supported": unsupported_in_mlx_lm()},
    }


def unsupported_in_mlx_lm() -> list[str] | None:
    """Models of the installed mlx-lm whose source speaks of experts and that no family serves; None without mlx-lm.

    Read as text, not imported. A model that only wraps another one's file may be missed.
    """
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return None
    names = []
    for path in sorted((Path(spec.submodule_search_locations[0]) / "models").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        # Helper files like switch_layers.py define no Model.
        if re.search(r"expert", source) and re.search(r"^class Model\b|\bimport .*\bModel\b", source, re.MULTILINE):
            names.append(path.stem)
    return [name for name in names if name not in families()]


def print_supported(support: Json, console: Console | None = None) -> None:
    """A table of families, what they are tested for, and what else mlx-lm has."""
    (console or Console(highlight=False)).print(render(support))


def render(support: Json) -> Group:
    """What `supported` returns as one rich renderable."""
    table = plain_table()
    for column in ("model_type", "computed by", "router", "logits from"):
        table.add_column(column)
    lines = [Text("\nTheir rules: distribution p, gate weight g, sparse layers, settings", "bold")]
    for family in support["families"]:
        names = [", ".join(family["model_types"]), family["implementation"]]
        for router in family["routers"]:
            table.add_row(*names, router["router"], router["gate"])
            names = ["", ""]
        rules = dict.fromkeys(f"p: {r['distribution']}; {r['gate_weight']}" for r in family["routers"])
        settings = ", ".join(f"{key} = {value!r}" for key, value in family["built_in"].items())
        refused = f" Refused unless {settings}." if settings else ""
        lines.append(Text(f"{family['name']}: {' '.join(rules)} {family['sparse_layers']}{refused}"))
    lines.append(Text("\nTested for every one of them, on small random models", "bold"))
    lines.append(Text(f"{'; '.join(support['tested'])}."))
    lines.append(Text("\nNot supported yet", "bold"))
    others, version = support["mlx_lm"]["sparse_but_not_supported"], support["mlx_lm"]["version"]
    if others is None:
        lines.append(Text("mlx-lm is not installed, so what else it has cannot be said."))
    else:
        text = f"{len(others)} models of mlx-lm {version} whose source speaks of experts: {', '.join(others)}."
        lines += [Text(text), Text(f"To add one, {GUIDE}.")]
    return Group(table, *lines)


def _facts(family: Family) -> Json:
    return {
        "name": family.name,
        "model_types": list(family.model_types),
        "implementation": "own port" if family.port else "mlx-lm",
        "routers": [
            {
                "router": form.router,
                "gate": form.gate,
                "experts": form.experts,
                "distribution": form.distribution,
                "gate_weight": _first_line(form.weights),
            }
            for form in family.routers
        ],
        "sparse_layers": _first_line(family.layers),
        "settings": {"n_experts": names_of(family.n_experts), "top_k": names_of(family.top_k)},
        "built_in": dict(family.built_in),
    }


def _first_line(function: Any) -> str:
    """The first line of its docstring, without code marks and the shape that may follow."""
    line = (function.__doc__ or function.__name__).strip().splitlines()[0]
    return re.sub(r" \[[^\]]*\]\.$", "", line.replace("``", ""))
