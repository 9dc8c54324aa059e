"""What a family declares: where a model keeps its routers, and what their scores mean. Needs no MLX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from ..errors import ModelLoadError, UnsupportedModelError
from ..routing.record import Kind, RouterSpec
from ..types import Facts, Json
from .layers import Layers, all_layers, listed_types, n_layers
from .rules import Rule
from .settings import Config, Key, Keys, count, entry, has, is_null, names_of, value_of
from .writers import NULL


@dataclass(frozen=True)
class InTransformers:
    """Where transformers' model of the same name keeps a router: dotted paths inside a block.

    gate: the module whose output is, or begins with, the router logits. experts: the module that is called with the
    chosen experts and their weights. bias, expert_scale: as in `RouterForm`. output: what the gate returns, one of
    `torch_fallback.capture.READINGS`; with ``logits`` the choice is read at the experts. rule: transformers' own, where
    it is not the one of mlx-lm. scaled_after: the rule's scale is applied to the sum of the experts' outputs, so that
    the weights that they get lack it.
    """

    gate: str = "mlp.gate"
    experts: str = "mlp.experts"
    bias: str = ""
    expert_scale: str = ""
    output: str = "logits_weights_indices"
    rule: Rule | None = None
    scaled_after: bool = False


@dataclass(frozen=True)
class RouterForm:
    """One kind of router inside a block; most families have one, JetMoE-like families two.

    router: ``mlp`` or ``attention``, or what the two over MLPs are for, ``text`` and ``vision``. All paths are dotted,
        inside a block.
    gate: the module that holds the router's weight. With the seam ``linear`` its output is the router logits, and it
        may carry an adapter or be quantised. With ``raw`` it is called with the hidden states and returns
        (indices, weights), and the logits are its input times its weight; ``raw_float32`` multiplies in float32.
    experts: the module that is called with ``(x, indices)``. one_by_one: the list in it, where it calls its experts
        itself, token after token.
    rule: what it makes of the logits.
    n_experts: the config keys that hold its E, where the routers of a block choose among different experts.
    bias: the parameter that is added to the scores for the choice alone, if any.
    expert_scale: the parameter with a learned factor of every expert's weight, if any.
    chooser: the module that returns (indices, weights), where the experts are called with other indices.
    extra, extra_kind: the setting that counts the routable columns behind the experts, and what they are; extra_kinds:
        the one that lists what each of them is, where they differ.
    torch: the same in transformers' model; None where transformers lacks it.
    """

    router: str
    gate: str
    experts: str
    rule: Rule
    bias: str = ""
    expert_scale: str = ""
    seam: Literal["linear", "raw", "raw_float32"] = "linear"
    chooser: str = ""
    one_by_one: str = ""
    scales_input: bool = False
    n_experts: Keys = ""
    extra: Key | None = None
    extra_kind: Kind = "copy"
    extra_kinds: Key | None = None
    torch: InTransformers | None = None

    @property
    def torch_rule(self) -> Rule:
        """What transformers makes of the logits."""
        return (self.torch and self.torch.rule) or self.rule

    def kinds(self, config: Config, n_experts: int) -> tuple[Kind, ...]:
        """What each routable column is: ``n_experts`` experts, and behind them what the config says there is."""
        extra = 0 if self.extra is None else int(value_of(config, self.extra) or 0)
        listed = None if self.extra_kinds is None else value_of(config, self.extra_kinds)
        kinds = tuple(listed) if listed is not None else (self.extra_kind,) * extra
        known = get_args(Kind)
        if len(kinds) != extra or not all(kind in known for kind in kinds):
            assert self.extra is not None
            key = names_of((self.extra_kinds or self.extra).keys)[0]
            raise ModelLoadError(
                f"The config of this {config.get('model_type')!r} model has {key} = {listed!r}; it must name the kind "
                f"({', '.join(known)}) of each of the {extra} columns behind its experts."
            )
        ffn: Kind = "ffn"
        return (ffn,) * n_experts + kinds


@dataclass(frozen=True)
class Family:
    """Models that route alike.

    model_types: the ``model_type`` values of config.json that this family serves.
    routers: the routers of one sparse block, in the order in which they run.
    n_experts, top_k: the config keys that hold E and K. Where writers differ, all of them in a tuple, the one that
        MLX's model reads first. by_layer: K may be a list with a number for each block.
    layers: the absolute indices of the blocks that have routers, from the config; torch_layers: by transformers, where
        that reads the config otherwise. It always follows ``mlp_layer_types``, where there are any.
    dense: models of this name may be dense: E is absent, 0 or, as in ``enough``, too small for a router.
    built_in: settings that the MLX model does not read, and the value it has built in. Another value would be
        computed as this one without a word, so such a checkpoint is refused.
    others: settings that MLX's model reads, and how each follows from a config of another writer that lacks it; None
        where it does not. respelled: settings of which others write the values otherwise, and what they are here.
    wrapped: model types that mlx-lm knows only as the language model of another, and which. fuses_experts: mlx-lm
        reads this model's experts only where they are stored together; we also where they are stored one by one.
    uncalled: linear layers of a block whose weight MLX's model reads without calling them: an adapter would hide it.
    module: the module that defines ``Model`` and ``ModelArgs``, where mlx-lm lacks them.
    only_torch: mlx-lm lacks the model, and transformers has it.
    untrainable: why MLX's model has no gradient.
    whole: settings under which a block reads more than what the block before it returned, so that the model cannot be
        run one layer at a time, and what it reads.
    unavailable: why the model cannot be measured, though its form is known: with MLX, or where ``torch`` is None, too,
        at all.
    warning: what a reader of every measurement must know, a sentence.
    public: well-known models.
    """

    name: str
    model_types: tuple[str, ...]
    routers: tuple[RouterForm, ...]
    n_experts: Keys
    top_k: Keys
    layers: Layers = all_layers
    torch_layers: Layers | None = None
    by_layer: bool = False
    dense: bool = False
    enough: int = 1
    built_in: Facts = field(default_factory=dict)
    others: Mapping[str, Callable[[Config], Any]] = field(default_factory=dict)
    respelled: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    wrapped: Mapping[str, str] = field(default_factory=dict)
    fuses_experts: bool = False
    uncalled: tuple[str, ...] = ()
    module: str = ""
    only_torch: bool = False
    untrainable: str = ""
    whole: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""
    warning: str = ""
    public: tuple[str, ...] = ()

    def check(self, config: Config) -> None:
        """Raises where the MLX model would compute something else than the config asks for, or nothing at all.

        ModelLoadError for a setting with another value than the one built in, UnsupportedModelError without a model.
        """
        if self.unavailable:
            raise UnsupportedModelError(self._unavailable(config))
        if self.only_torch:
            model_type = config.get("model_type")
            other = "" if model_type == self.name else f" (model_type {model_type!r})"
            from .vlm import served  # which needs this module

            vlm = ", or mlx-vlm's model with mlx_moebench.vlm.measure (docs/vlm.md)" if model_type in served() else ""
            raise UnsupportedModelError(f"mlx-lm has no {self.name!r}{other}; measure it with the backend torch{vlm}.")
        for key, value in self.built_in.items():
            actual = value_of(config, Key(key, value))
            if actual != value or (value and is_null(config, key)):
                actual = None if is_null(config, key) else actual
                raise ModelLoadError(
                    f"This {config.get('model_type')!r} checkpoint has {key} = {actual!r}, but the MLX model is "
                    f"built with {key} = {value!r}: its numbers would be those of another model; measure it with the "
                    "backend torch."
                )
        self._check_layers(config)

    def _check_layers(self, config: Config) -> None:
        """Raises ModelLoadError where transformers gives routers to other blocks than MLX's model by one config."""
        if not self.routers or any(form.torch is None for form in self.routers):
            return
        ours, theirs = list(self.layers(config)), list(self._torch_layers(config))
        if ours != theirs:
            raise ModelLoadError(
                f"This {config.get('model_type')!r} checkpoint has routers in the blocks {_listed(theirs)}, but the "
                f"MLX model builds them in {_listed(ours)}; measure it with the backend torch."
            )

    def specs(self, config: Config, torch: bool = False) -> tuple[RouterSpec, ...]:
        """The routers a model with this config must have, in the order in which they run.

        ``router_bits`` is None: a config alone does not say it. torch: by transformers' reading of the config.
        Raises ModelLoadError where the config lacks a setting, UnsupportedModelError where it is of a dense model.
        """
        if torch and (not self.routers or any(form.torch is None for form in self.routers)):
            raise UnsupportedModelError(self._unavailable(config, torch=True))
        self._check_sparse(config)
        layers = self._torch_layers(config) if torch else self.layers(config)
        if not layers:
            raise UnsupportedModelError(
                f"This {config.get('model_type')!r} model is dense: its config gives experts to none of its "
                f"{n_layers(config)} blocks. Others of this name are mixtures of experts."
            )
        specs = []
        for moe_layer, layer in enumerate(layers):
            for form in self.routers:
                n_experts = count(config, form.n_experts or self.n_experts)
                top_k = self._top_k(config, layer, n_experts)
                kinds = form.kinds(config, n_experts)
                rule = form.torch_rule if torch else form.rule
                spec = RouterSpec(layer, moe_layer, form.router, len(kinds), top_k, rule.distribution(config))
                specs.append(replace(spec, kinds=kinds, signs=_signs(kinds)) if len(kinds) > n_experts else spec)
        return tuple(specs)

    def unstreamed(self, config: Config) -> str | None:
        """Why a model with this config, as MLX's model was built with it, cannot be run one layer at a time; None where
        it can. See `instrument.replay`."""
        return next((reads for key, reads in self.whole.items() if value_of(config, Key(key, None))), None)

    def renamed(self, config: Config) -> Json:
        """What MLX's model reads under keys that this config, or a section of it, lacks, from those that it has."""
        settings: Json = {}
        for first, *others in (names_of(keys) for keys in (self.n_experts, self.top_k) if keys):
            key = next((key for key in (first, *others) if config.get(key) is not None), first)
            if key != first:
                settings[first] = config[key]
        if has(config, self.n_experts):  # else it is not the section of the language model
            for key, read in self.others.items():
                if config.get(key) is None and (value := read(config)) is not None:
                    settings[key] = None if value is NULL else value
        for key, spell in self.respelled.items():
            if (value := config.get(key)) is not None and (ours := spell(value)) != value:
                settings[key] = ours
        return settings

    def form(self, router: str) -> RouterForm:
        """The form named ``router``; KeyError where the family has no such router."""
        return {form.router: form for form in self.routers}[router]

    def _unavailable(self, config: Config, torch: bool = False) -> str:
        """Why nothing is measured, in a sentence."""
        name = f"model_type {config.get('model_type')!r}"
        if torch and not self.unavailable:
            return f"transformers has no {name}; measure it with the backend mlx."
        elsewhere = self.routers and all(form.torch for form in self.routers)
        return f"{name} cannot be measured: {self.unavailable}" + (
            "; measure it with the backend torch." if elsewhere else "."
        )

    def _torch_layers(self, config: Config) -> Sequence[int]:
        listed = self.torch_layers is None and value_of(config, Key("mlp_layer_types", None)) is not None
        return listed_types(config) if listed else (self.torch_layers or self.layers)(config)

    def _check_sparse(self, config: Config) -> None:
        """Raises UnsupportedModelError where a model whose name others use for mixtures has no experts."""
        value = value_of(config, Key(self.n_experts, None))
        few = isinstance(value, int) and not isinstance(value, bool) and value <= self.enough - 1
        if self.dense and (value is None or few):
            key = names_of(self.n_experts)[0]
            raise UnsupportedModelError(
                f"This {config.get('model_type')!r} model is dense: its config has "
                f"{f'{key} = {value}' if few else f'no {key}'}, so it has no router to measure. Others of this name "
                "are mixtures of experts."
            )

    def _top_k(self, config: Config, layer: int, n_experts: int) -> int:
        key, value = entry(config, self.top_k)
        if self.by_layer and isinstance(value, list):
            if layer >= len(value):
                raise ModelLoadError(
                    f"The config of this {config.get('model_type')!r} model has {len(value)} values of {key} for "
                    f"{n_layers(config)} layers."
                )
            value = count({key: value[layer], "model_type": config.get("model_type")}, key)
        else:
            value = count(config, self.top_k)
        if value > n_experts:
            raise ModelLoadError(
                f"The config of this {config.get('model_type')!r} model chooses {key} = {value} of "
                f"{entry(config, self.n_experts)[0]} = {n_experts} experts; no token can choose more experts than "
                "there are."
            )
        return int(value)


def in_transformers(
    *model_types: str,
    rule: Rule,
    place: InTransformers = InTransformers(),  # frozen
    n_experts: Keys = ("num_experts", "num_local_experts"),
    top_k: Keys = "num_experts_per_tok",
    layers: Layers = all_layers,
    **facts: Any,
) -> Family:
    """A family that mlx-lm lacks, with one router in a block; it has the name of its first model type."""
    router = RouterForm("mlp", place.gate, place.experts, rule, place.bias, place.expert_scale, torch=place)
    family = Family(model_types[0], model_types, (router,), n_experts, top_k, layers, only_torch=True)
    return replace(family, **facts)


def _signs(kinds: Sequence[Kind]) -> tuple[int, ...] | None:
    """The sign that the output of each column enters with; None where all are +1."""
    return tuple(-1 if kind == "neg" else 1 for kind in kinds) if "neg" in kinds else None


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


def module_at(block: Any, path: str) -> Any:
    """What a dotted path like ``mlp.gate`` leads to inside a block, or None."""
    for name in path.split("."):
        block = getattr(block, name, None)
    return block


def stored_weight(gate: Any) -> Any:
    """The module that holds the gate's weight matrix: the gate, or the layer inside an adapter on it; or None."""
    while gate is not None and "weight" not in gate:
        gate = gate.get("linear")
    return gate
