"""Which models can be measured, from the family files; which others mlx-lm has, from its sources. Needs no MLX."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...environment import package_version
from ...errors import UnsupportedModelError, did_you_mean
from ...families import GUIDE, Family, Form, families, forms
from ...families.differences import DIFFERENCES
from ...families.rules import DISTRIBUTIONS, Rule
from ...families.settings import Key, names_of
from ...types import Facts, Json
from .base import Terminal, plain_table

TESTED = {
    "outputs bit-identical with the tap": "test_every_family.test_taps_change_no_output_and_no_parameter",
    "sum of g x outputs = block output": "test_every_family.test_block_output_is_the_weighted_sum_of_expert_outputs",
    "counts = tokens x K": "test_every_family.test_every_router_counts_tokens_times_k",
    "generation with a cache": "test_every_family.test_generation_is_unchanged_and_every_step_is_seen",
    "a trace gives the statistics back": "test_trace.test_every_family",
    "gradients": "test_every_family.test_gradients_are_unchanged_and_what_was_seen_stays_readable",
    "mx.compile": "test_every_family.test_compiling_is_unchanged_and_placeholders_are_recognised",
    "quantising": "test_every_family.test_quantising_a_tapped_model_keeps_the_taps",
    "LoRA on the gate": "test_every_family.test_lora_on_a_tapped_gate_records_the_adapted_logits",
    "the command analyze": "test_family_commands.test_analyze",
    "loading a checkpoint, 8-bit too": "test_models.test_every_family_loads_from_its_own_folder",
    "answers to choices = one forward each": "test_choices.test_scores_equal_one_forward_per_continuation",
}
"""What holds for every family that MLX measures, and the test that runs once for each; a test checks that it does."""

PARITY = "choices, weights and logits as in transformers where that has the model, but for the differences listed"
"""What tests/test_parity.py holds to."""


def supported() -> Json:
    """``families``: each with its facts; ``tested``: `TESTED`; ``mlx_lm``: its version and what it has beyond."""
    return {
        "families": [
            _facts(family, form) for form in sorted(forms(), key=_served, reverse=True) for family in form.families
        ],
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
    """A table of all model types by routing form, what they are tested for, and what else mlx-lm has."""
    (console or Terminal(highlight=False)).print(render(support))


def render(support: Json) -> Group:
    """What `supported` returns as one rich renderable."""
    families = support["families"]
    measured = sum(len(f["model_types"]) for f in families if f["backends"])
    lines: list[Text | Table] = [
        Text(f"{measured} model types, by how they route; `mlx-moebench models NAME` says more of one.", "bold")
    ]
    for title in dict.fromkeys(family["form_title"] for family in families):
        table = plain_table()
        for column in ("model_type", "E", "K", "measured on"):
            table.add_column(column)
        for family in (family for family in families if family["form_title"] == title):
            keys = (next(iter(family["settings"][key]), "-") for key in ("n_experts", "top_k"))
            table.add_row(", ".join(family["model_types"]), *keys, where_measured(family))
        lines += [Text(f"\n{title}"), table]
    lines.append(Text("\nTested on MLX for each of them, on small random models", "bold"))
    lines.append(Text(f"{'; '.join([*support['tested'], PARITY])}."))
    others, version = support["mlx_lm"]["sparse_but_not_supported"], support["mlx_lm"]["version"]
    if others is None:
        lines.append(Text("\nmlx-lm is not installed, so what else it has cannot be said."))
    elif others:
        text = f"{len(others)} models of mlx-lm {version} whose source speaks of experts: {', '.join(others)}."
        lines += [Text("\nNot supported yet", "bold"), Text(text), Text(f"To add one, {GUIDE}.")]
    return Group(*lines)


def where_measured(family: Facts) -> str:
    """The backends that measure a family, in a word or two."""
    names = {"mlx": "MLX", "torch": "torch"}
    return ", ".join(names[name] for name in family["backends"]) or "not"


def described(model_type: str) -> Json:
    """The facts of the family that serves ``model_type``, and the differences between libraries that are known.

    Raises UnsupportedModelError for a name that no family serves.
    """
    if model_type not in families():
        names = sorted(families())
        raise UnsupportedModelError(
            f"No family serves model_type {model_type!r}.{did_you_mean(model_type, names)} A model of that type can be "
            f"added, {GUIDE}."
        )
    family = families()[model_type]
    form = next(form for form in forms() if family in form.families)
    differences = [one for one in DIFFERENCES if model_type in one.model_types]
    return _facts(family, form) | {
        "model_type": model_type,
        "differences": [
            {key: getattr(one, key) for key in ("what", "mlx_lm", "transformers", "right")} for one in differences
        ],
    }


def print_described(facts: Facts, console: Console | None = None) -> None:
    """What `described` returns, a fact a line."""
    table = plain_table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in described_rows(facts):
        table.add_row(name, value)
    (console or Terminal(highlight=False)).print(table)


def described_rows(facts: Facts) -> Iterator[tuple[str, str]]:
    """(what, in words) of a family."""
    yield "model types", ", ".join(facts["model_types"])
    yield "routing form", f"{facts['form_title']} (families/{facts['form']}.py)"
    yield "measured on", where_measured(facts)
    if facts["unavailable"]:
        yield "why not", facts["unavailable"]
    yield "computed by", facts["implementation"]
    for router in facts["routers"]:
        of = "" if len(facts["routers"]) == 1 else f"{router['router']} "
        yield f"{of}logits from", router["gate"]
        yield f"{of}experts", router["experts"]
        yield f"{of}rule", f"p: {router['distribution']}; {router['gate_weight']}"
    if not facts["routers"]:
        return
    yield "sparse blocks", facts["sparse_layers"]
    yield "E", ", or ".join(facts["settings"]["n_experts"])
    yield "K", ", or ".join(facts["settings"]["top_k"])
    if facts["built_in"]:
        yield "refused on MLX unless", ", ".join(f"{key} = {value!r}" for key, value in facts["built_in"].items())
    if facts["public"]:
        yield "public models", ", ".join(facts["public"])
    for one in facts.get("differences", ()):
        right = f" (right: {one['right']})" if one["right"] else ""
        yield "differs", f"{one['what']}: mlx-lm {one['mlx_lm']}; transformers {one['transformers']}{right}"


def _facts(family: Family, form: Form) -> Json:
    on_torch = bool(family.routers) and all(router.torch is not None for router in family.routers)
    on_mlx = not family.only_torch and not family.unavailable
    return {
        "name": family.name,
        "model_types": list(family.model_types),
        "form": form.name,
        "form_title": form.title,
        "backends": [name for name, has in (("mlx", on_mlx), ("torch", on_torch)) if has],
        "unavailable": family.unavailable,
        "implementation": _computed_by(family),
        "routers": [
            {
                "router": router.router,
                "gate": router.torch.gate if family.only_torch and router.torch else router.gate,
                "experts": router.torch.experts if family.only_torch and router.torch else router.experts,
                "distribution": _distribution(router.rule),
                "gate_weight": router.rule.sentence(),
            }
            for router in family.routers
        ],
        "sparse_layers": _first_line(family.layers),
        "settings": {"n_experts": names_of(family.n_experts), "top_k": names_of(family.top_k)},
        "built_in": dict(family.built_in),
        "public": list(family.public),
    }


def _served(form: Form) -> int:
    """How many model types of a form are measured on MLX."""
    return sum(len(f.model_types) for f in form.families if not f.only_torch and not f.unavailable)


def _computed_by(family: Family) -> str:
    if family.unavailable and not family.only_torch:
        return "mlx-lm, or transformers"
    return "transformers" if family.only_torch else "own port" if family.module else "mlx-lm"


def _distribution(rule: Rule) -> str:
    """p, or the setting that decides it."""
    return f"by {names_of(rule.score.keys)[0]}" if isinstance(rule.score, Key) else DISTRIBUTIONS[rule.score]


def _first_line(function: Any) -> str:
    """The first line of its docstring, without code marks and the shape that may follow."""
    line = (function.__doc__ or function.__name__).strip().splitlines()[0]
    return re.sub(r" \[[^\]]*\]\.$", "", line.replace("``", ""))
