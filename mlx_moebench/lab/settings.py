"""What one pretraining is asked to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, get_args

from ..errors import TrainingError, did_you_mean
from ..types import Json
from .decoder import ModelArgs
from .presets import DENSE, model_args, preset_named
from .routers import Axes, Spec, halved
from .routers.base import check_axes
from .text import BUNDLED

FREE_TO_CHANGE = ("most_repeats", "save_every", "snapshot_every", "eval_every", "eval_batches")
"""Settings that a run may be resumed with other values of, because the weights do not depend on them."""

TRAINED_WITH = ("balance", "balance_weight", "eta", "reward", "bias_update", "expert_dropout")
"""Axes of a router that its training alone looks at."""

LARGEST = 2**63
"""Above all whole numbers here, seeds as well."""

_RECIPE = ("seq_length", "batch_size", "micro_batch_size", "steps", "warmup", "clip", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Settings of a pretraining; what is None is the preset's.

    preset, router, spec, flops: see `presets.model_args`. axes: further axes of the router, by name. combine: ``half``
    gives routed and shared output half a weight each.
    start: the folder of a model of the lab to go on with, upcycled or not, in the place of a new one: size, router and
    tokenizer are its own, the preset gives the recipe, and of the axes those of `TRAINED_WITH` may be changed. freeze:
    train its gates and experts alone.
    data: what `read_corpus` takes, or ``bundled``; domains: in its place a data set for each name. Sequences are then
    of one domain each, every update has as many of each, and none is seen more than most_repeats times.
    text_field, max_samples, split_on: how text is read. held_out: every so many-th block is for validation. tokenizer:
    a folder or file, None for the embedded model's; vocab_size: of one that is trained on the data.
    steps: updates of batch_size sequences of seq_length tokens, run micro_batch_size at a time over all ranks.
    learning_rate falls in a cosine to a tenth after ``warmup`` updates; weight_decay is on every weight; clip is the
    largest norm of a gradient. z_weight: of the router z-loss. router_std: of the gates' first weights.
    seed: of weights, dropout and, unless data_seed is given, the order of the text.
    save_every, eval_every, snapshot_every: updates between checkpoints to resume from, validations of eval_batches
    micro-batches, and copies that are kept; 0 for none but the last, and no copies.
    """

    preset: str = "tiny"
    router: str = "smoe"
    spec: Spec = "paper"
    flops: float = 1.0
    combine: str = "add"
    axes: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    freeze: bool = False
    data: str = BUNDLED
    domains: Mapping[str, str] = field(default_factory=dict)
    most_repeats: float = 4.0
    text_field: str | None = None
    max_samples: int | None = None
    split_on: str = "file"
    held_out: int = 20
    tokenizer: str | None = None
    vocab_size: int | None = None
    seq_length: int | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    steps: int | None = None
    warmup: int | None = None
    clip: float | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    z_weight: float = 0.0
    router_std: float | None = None
    seed: int = 0
    data_seed: int | None = None
    save_every: int = 100
    eval_every: int = 100
    eval_batches: int = 8
    snapshot_every: int = 0

    def resolved(self) -> Pretraining:
        """With the preset's numbers where none were given. Raises TrainingError for what cannot be."""
        preset = preset_named(self.preset)
        given = {name: getattr(preset, name) for name in _RECIPE if getattr(self, name) is None}
        if "micro_batch_size" in given and self.batch_size is not None:
            given["micro_batch_size"] = min(preset.micro_batch_size, self.batch_size)
        if self.tokenizer is None and self.vocab_size is None and self.start is None:
            given["vocab_size"] = preset.vocab_size
        if self.data_seed is None:
            given["data_seed"] = self.seed
        settings = replace(self, **given, axes=dict(self.axes), domains=dict(self.domains))
        settings._check()
        return settings

    def _check(self) -> None:
        for name, known in (("spec", get_args(Spec)), ("combine", ("add", "half"))):
            if getattr(self, name) not in known:
                raise TrainingError(
                    f"{name} is {getattr(self, name)!r}.{did_you_mean(getattr(self, name), list(known))}"
                )
        if self.tokenizer is not None and self.vocab_size is not None:
            raise TrainingError("A tokenizer that is given has its own size; leave out --tokenizer or --vocab-size.")
        if self.start is not None and (other := self._of_a_new_model()):
            raise TrainingError(f"{other} is for a new model, and this one goes on with {self.start}; leave it out.")
        if self.freeze and self.start is None:
            raise TrainingError("freeze is for a model that is trained already; give it as start (--from).")
        least = {"seq_length": 2, "held_out": 2, "warmup": 0, "save_every": 1, "eval_every": 0, "snapshot_every": 0}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool | str) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or value < least.get(one.name, 0):
                raise TrainingError(f"{one.name} is {value!r}; give {least.get(one.name, 0)} or more.")
            if isinstance(value, int) and value >= LARGEST:
                raise TrainingError(f"{one.name} is {value}; give less than {LARGEST}.")
        for name in ("batch_size", "micro_batch_size", "steps", "clip", "learning_rate", "eval_batches"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} is {getattr(self, name)!r}; give more than 0.")

    def _of_a_new_model(self) -> str | None:
        """The first setting that makes a new model, among those that are given."""
        names = ("router", "spec", "flops", "combine", "tokenizer", "vocab_size", "router_std")
        defaults = {one.name: one.default for one in fields(self)}
        return next((name for name in names if getattr(self, name) != defaults[name]), None)

    def model_args(self, vocab_size: int) -> ModelArgs:
        """The model's config, with this many token ids. Raises TrainingError for axes that there are not."""
        preset = preset_named(self.preset)
        if self.seq_length is not None:
            preset = replace(preset, seq_length=self.seq_length)
        args = model_args(preset, self.router, self.spec, vocab_size, self.flops)
        if self.router == DENSE and self.axes:
            raise TrainingError(f"A dense model has no router, and no {', '.join(self.axes)}; leave it out.")
        if self.router != DENSE:
            args = with_axes(args, self.axes)
        if self.domains:
            args.num_domains = len(self.domains)
        check_reference(args)
        if self.combine == "half":
            if not args.shared_experts:
                raise TrainingError("combine = half is for routers with shared experts; leave it out.")
            args = halved(args)  # type: ignore[assignment]  # replace keeps the class
        return args

    def to_dict(self) -> Json:
        """For reports and checkpoints."""
        made = asdict(self)
        if not self.domains:
            del made["domains"], made["most_repeats"]
        return made

    def learning_rate_at(self, step: int) -> float:
        """The rate of update ``step``, from 0: a linear rise, then half a cosine down to a tenth of the peak."""
        assert self.learning_rate is not None
        assert self.steps is not None
        assert self.warmup is not None
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def check_reference(args: ModelArgs) -> None:
    """Raise TrainingError where a reference router cannot give every domain a block of its own."""
    if args.router != "reference":
        return
    experts, domains, k = args.num_experts, args.num_domains, args.num_experts_per_tok
    if domains < 1:
        raise TrainingError("The reference router is for text of labelled domains; train it by lab testbed.")
    if experts % domains:
        raise TrainingError(
            f"num_experts is {experts}, which {domains} domains cannot share evenly; use a multiple of {domains}."
        )
    if (own := experts // domains) % k:
        raise TrainingError(
            f"Each of {domains} domains has {own} of the {experts} experts, which num_experts_per_tok = {k} does not "
            f"divide; give each a multiple of {k} experts."
        )


A = TypeVar("A", bound=Axes)


def with_axes(args: A, axes: Mapping[str, Any], among: Sequence[str] | None = None) -> A:
    """``args`` with these axes of its router changed; among: those that may be. Raises TrainingError for others, and
    for values that an axis cannot have."""
    known = [one.name for one in fields(Axes)]
    for name, value in axes.items():
        if name not in known:
            raise TrainingError(f"A router has no axis {name!r}.{did_you_mean(name, known)}")
        if among is not None and name not in among:
            raise TrainingError(f"{name} is the model's own and stays; only {', '.join(among)} can be changed.")
        if type(value) is not type(before := getattr(args, name)) and not (
            isinstance(before, float) and type(value) is int
        ):
            raise TrainingError(f"{name} is {value!r}; give a value like {before!r}.")
    args = replace(args, **axes)
    check_axes(args)
    return args
