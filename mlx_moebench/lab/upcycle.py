"""A mixture of experts from a dense llama: every expert begins as a copy of the FFN whose place it takes.

Source: Komatsuzaki et al. 2023 (sparse upcycling); LibMoE for the routers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import MODEL_REMAPPING, load_model
from transformers import PreTrainedTokenizerFast

from ..checkpoints import NANO_NAME, check_unquantised
from ..checkpoints.folder import check_tokenizer, read_config
from ..checkpoints.foreign import said
from ..checkpoints.hub import fetch, local_folder
from ..environment import environment
from ..errors import ModelLoadError, TrainingError, UnsupportedModelError, did_you_mean
from ..families.lab import UPCYCLED
from ..files import write_aside
from ..instrument.cpu_path import use_cpu_path
from ..models import select_device
from ..models.writers import rotary_settings
from ..options import Reading, Step, quiet_step
from ..pair.seal import sealed_text
from ..routing.record import Array
from ..types import Json
from . import keep
from .initial import normal, of_one_norm
from .llama import Model, ModelArgs
from .presets import count_parameters
from .routers import Axes, Sizes, Spec, halved, router_named, router_names
from .settings import with_axes
from .text import BUNDLED, load_tokenizer, read_texts

REPORT = "upcycle_report.json"

PROBE = (8, 32)
"""Documents, and tokens of each, on which the new model is held against the dense one."""

EXACT = 1e-3
"""By how much a logit may differ at most where theory says not at all: float32 sums of hundreds of numbers do."""

_BASE = "llama"


@dataclass(frozen=True, kw_only=True)
class Upcycling:
    """What becomes of a dense model.

    layers: the blocks that get a mixture, as ``10-19,25``; None for all. experts, top_k: of the columns with weights
    that are routed, how many there are and how many are chosen; a shared expert comes on top of both.
    router, spec: as in `Pretraining`. axes: further axes of the router, by name.
    combine: ``half`` weighs routed and shared output 0.5 each, whatever the preset's factor, and ``add`` leaves both as
    they are; None is ``half``, or with only_shared ``add``.
    only_shared: the shared expert alone is copied, and the routed ones are drawn anew, N(0, 2 / (L fan-in)).
    router_std: of everything in the gates. seed: of all that is drawn.
    """

    layers: str | None = None
    experts: int = 4
    top_k: int = 2
    router: str = "smoe"
    spec: Spec = "paper"
    combine: Literal["add", "half"] | None = None
    only_shared: bool = False
    axes: Mapping[str, Any] = field(default_factory=dict)
    router_std: float = 0.02
    seed: int = 42

    def to_axes(self) -> Axes:
        """The axes of the router. Raises TrainingError for what cannot be."""
        if self.router not in router_names():
            raise TrainingError(f"There is no router {self.router!r}.{did_you_mean(self.router, router_names())}")
        if not 1 <= self.top_k <= self.experts:
            raise TrainingError(f"{self.top_k} of {self.experts} experts cannot be chosen; give 1 to {self.experts}.")
        if not self.router_std >= 0 or self.seed < 0:
            raise TrainingError("The routers' deviation and the seed must be 0 or more.")
        make = router_named(self.router).axes
        axes = make(Sizes(self.experts, self.top_k), self.spec)
        if axes.shared_experts:  # whose presets take them from both
            more = axes.shared_experts
            # One copy of the dense FFN gives what the dense model gave.
            axes = replace(make(Sizes(self.experts + more, self.top_k + more), self.spec), shared_experts=1)
            if self.combine == "half" or (self.combine is None and not self.only_shared):
                axes = halved(replace(axes, routed_scaling_factor=1.0))
        elif self.only_shared or self.combine is not None:
            what = "only_shared" if self.only_shared else f"combine = {self.combine}"
            raise TrainingError(
                f"{what} is for routers with a shared expert, and {self.router} has none; leave it out."
            )
        return with_axes(axes, self.axes)

    def moe_layers(self, n_layers: int) -> list[int]:
        """The blocks that get a mixture. Raises TrainingError for blocks that there are not."""
        chosen: set[int] = set()
        for part in ("0-" if self.layers is None else self.layers).split(","):
            first, dash, last = part.strip().partition("-")
            try:
                start, stop = int(first), int(last) if last else n_layers - 1 if dash else int(first)
            except ValueError:
                start = stop = -1
            if not 0 <= start <= stop < n_layers:
                raise TrainingError(
                    f"The layers {self.layers!r} are none of this model's {n_layers}; write 10-19 or 0,5, from 0 on."
                )
            chosen |= set(range(start, stop + 1))
        return sorted(chosen)


def is_exact(axes: Axes, only_shared: bool = False) -> bool:
    """Whether a model upcycled with these axes computes what the dense one does.

    It does where all that a token may choose is a copy of the FFN and the weights of all copies sum to 1. So not where
    they are not renormalised, and not with columns that take off, are constant or do nothing.
    """
    shared = axes.shared_scale if axes.shared_experts else 0.0
    renormalised = axes.norm_topk_prob and set(axes.kinds) == {"ffn"}
    return renormalised and not only_shared and axes.routed_scaling_factor + shared == 1


def upcycled(dense: nn.Module, settings: Upcycling) -> Model:
    """The mixture of experts of a dense llama of mlx-lm, with its dtype; ``dense`` stays as it is.

    Everything outside of the chosen FFNs is shared with it. Raises TrainingError for settings that cannot be.
    """
    axes, old = settings.to_axes(), dense.args
    args = ModelArgs(
        **(asdict(old) | asdict(axes) | {"model_type": UPCYCLED}),
        router=settings.router,
        spec=settings.spec,
        moe_layers=settings.moe_layers(old.num_hidden_layers),
        moe_intermediate_size=old.intermediate_size,
    )
    model = Model(args)
    weights = dict(tree_flatten(dense.parameters()))
    for layer in args.moe_layers:
        place = f"model.layers.{layer}.mlp."
        for name in [name for name in weights if name.startswith(place)]:
            value, part = weights.pop(name), name.removeprefix(place)
            if axes.shared_experts:
                weights[f"{place}shared.{part}"] = value
            if not settings.only_shared:
                weights[f"{place}experts.ffn.{part}"] = mx.stack([value] * axes.num_experts)
    dtype = weights["model.norm.weight"].dtype
    for name, value in tree_flatten(model.parameters()):
        if name not in weights:
            weights[name] = _drawn(name, value.shape, args, settings).astype(dtype)
    model.load_weights(list(weights.items()))
    model.eval()
    return model


def _drawn(name: str, shape: tuple[int, ...], args: ModelArgs, settings: Upcycling) -> Array:
    """The first values of a parameter that the dense model has not."""
    if name.endswith("selection_bias"):
        return mx.zeros(shape)
    if ".mlp.gate." in name:
        rows = settings.router_std * normal(name, shape, settings.seed)
        return of_one_norm(rows, settings.router_std) if args.unit_rows and name.endswith("gate.weight") else rows
    fan_in = shape[-1] * (args.num_experts if name.endswith("ffn.down_proj.weight") else 1)
    scale = (2 / args.num_hidden_layers) ** 0.5 if ".ffn." in name else 1.0
    drawn: Array = scale * fan_in**-0.5 * normal(name, shape, settings.seed)
    return drawn


def upcycle(
    model: str | Path,
    output: str | Path,
    settings: Upcycling | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    command: str | None = None,
    step: Step = quiet_step,
) -> Json:
    """Make a mixture of experts of a dense llama, a folder or a hub id, in the folder ``output``; returns the report.

    The folder gets config.json, tokenizer and model.safetensors, so that ``load`` and all commands take it, and
    ``upcycle_report.json`` with the largest difference of a logit from the dense model's on the first bundled prompts.

    Raises MoebenchError subclasses: UnsupportedModelError for anything but a llama, TrainingError where there is a
    model already, and where a model differs that theory says cannot.
    """
    settings, output = settings or Upcycling(), Path(output)
    settings.to_axes()  # before anything is fetched
    select_device(device)
    if (output / "config.json").exists() or (output.exists() and not output.is_dir()):
        raise TrainingError(f"{output} holds a model already, or is no folder; choose another --output.")
    step("reading the dense model", 0, 0)
    dense, tokenizer, name = open_dense(model, revision)
    new = upcycled(dense, settings)
    step("writing", 0, 0)
    keep.save_model(output, new, tokenizer)
    step("comparing with the dense model", 0, 0)
    found = deviation(dense, new, tokenizer, settings)
    n_dense = sum(value.size for _, value in tree_flatten(dense.parameters()))
    report: Json = {
        "model": str(output),
        "dense": name,
        "settings": asdict(settings) | {"axes": dict(settings.axes)},
        "config": asdict(new.args),
        "parameters": count_parameters(new)._asdict() | {"dense": n_dense},
        "deviation": found._asdict(),
        "environment": environment(),
        "command": command,
    }
    write_aside({output / REPORT: sealed_text(report).encode()})
    return report


def open_dense(model: str | Path, revision: str | None = None) -> tuple[nn.Module, PreTrainedTokenizerFast, str]:
    """(a dense llama with its weights mapped but not read, its tokenizer, its name).

    Raises UnsupportedModelError for another model, ModelLoadError where it is missing, broken or quantised.
    """
    if str(model) == NANO_NAME:
        raise UnsupportedModelError(f"{NANO_NAME} is a mixture of experts already; give a dense model.")
    folder = local_folder(model)
    name = folder.name if folder is not None else str(model)
    folder = folder or fetch(str(model), revision, weights=True, code=False)
    config = read_config(folder)
    model_type = config["model_type"]
    if MODEL_REMAPPING.get(model_type, model_type) != _BASE:
        raise UnsupportedModelError(
            f"{name} is of the model_type {model_type!r}; only those that mlx-lm computes as a {_BASE} can be upcycled "
            f"({', '.join([_BASE, *sorted(k for k, v in MODEL_REMAPPING.items() if v == _BASE)])})."
        )
    check_unquantised(config, name)
    check_tokenizer(folder)
    with said(f"{folder}: config.json and weights do not fit"):
        dense, _ = load_model(folder, lazy=True, model_config=rotary_settings(config))
    if dense.args.mlp_bias:
        raise UnsupportedModelError(f"The FFNs of {name} have biases, which experts here have not.")
    return dense, load_tokenizer(folder), name


class Deviation(NamedTuple):
    """How far an upcycled model is from the dense one on a few texts, in float32.

    exact: whether theory says not at all; difference: the largest of a logit; largest: the dense model's largest logit;
    dense_ce, ce: cross-entropies, nats a token; tokens: how many.
    """

    exact: bool
    difference: float
    largest: float
    dense_ce: float
    ce: float
    tokens: int


def deviation(dense: nn.Module, new: Model, tokenizer: PreTrainedTokenizerFast, settings: Upcycling) -> Deviation:
    """Run both on the first tokens of bundled prompts; both are float32 from then on.

    Raises ModelLoadError where no prompt has so many tokens, TrainingError where they differ though theory says that
    they do not.
    """
    texts, length = PROBE
    corpora = read_texts(BUNDLED, Reading(max_samples=texts))
    documents = [document.text for corpus in corpora for document in corpus.documents]
    rows = tokenizer(documents, add_special_tokens=False)["input_ids"]
    rows = [row[:length] for row in rows if len(row) >= length][:texts]
    if not rows:
        raise ModelLoadError(f"The tokenizer makes less than {length} tokens of every bundled prompt.")
    ids = mx.array(rows)
    for model in (dense, new):
        model.set_dtype(mx.float32)
        model.eval()
    use_cpu_path(new)
    old, made = dense(ids), new(ids)
    before, after = (float(nn.losses.cross_entropy(y[:, :-1], ids[:, 1:], reduction="mean")) for y in (old, made))
    difference, largest = float(mx.abs(old - made).max()), float(mx.abs(old).max())
    exact = is_exact(new.args, settings.only_shared)
    if exact and not difference < EXACT * max(1.0, largest):
        raise TrainingError(
            f"The new model should compute what the dense one does, but a logit differs by {difference:.3g}; its FFN "
            "is none that a copy can take the place of."
        )
    return Deviation(exact, difference, largest, before, after, int(ids.size))
