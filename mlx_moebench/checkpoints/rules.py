"""What the settings of a config.json must be like, whoever reads them: types and signs, by the names that keys have.

Libraries take what they get: a text for a number fails deep inside of them, and a text for a flag is true. Here the
key, its value and the rule are named before a library sees them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import ModelLoadError
from ..families.layers import BLOCKS
from ..families.settings import SECTION

FLOAT = "__float__"
"""The key under which transformers writes a number that is not finite."""

MOST = 2**31 - 1
"""The largest size that an array of either library may have."""

_INNER = (SECTION, "attn_config", "ffn_config", "linear_attn_config")
"""Sections whose settings are a language model's, too."""

_ROPE = ("rope_parameters", "rope_scaling")

_OBJECTS = (*_INNER, *_ROPE, "quantization", "quantization_config")


class Rule(NamedTuple):
    """A rule for values under keys of these names. holds: for one value. lists: or for every one of a list."""

    keys: re.Pattern[str]
    says: str
    holds: Callable[[Any], bool]
    lists: bool = True


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= MOST


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _flag(value: Any) -> bool:
    return isinstance(value, bool) or (type(value) is int and value in (0, 1))


_RULES = (
    Rule(
        re.compile(
            "hidden_size|d_model|model_dim|n_embd|vocab_size|num_vocab|num_hidden_layers|num_layers|n_layers?"
            "|(num_attention|num|n|kv_n)_heads?|num_key_value_heads|decoder_sparse_step"
            "|interleave_moe_layer_step|moe_layer_interval|expert_layer_period|full_attention_interval"
        ),
        "a whole number of 1 or more",
        _whole(1),
    ),
    Rule(
        re.compile(
            r"(num|n)_\w*(layers?|heads?|experts?|groups?|group)|topk_group|(num_experts_per_tok(en)?)|moe_k"
            r"|(moe_)?top_?k(_experts)?|\w*(_size|_dim|_rank|_heads|_groups)|first_k_dense_replace|rotary_dim"
            r"|num_nextn_predict_layers|zero_expert_num|expert_layer_offset|attn_layer_\w+"
            r"|moe_layer_start_index|ssm_state_size|conv_(kernel|L_cache)|mlp_only_layers"
            r"|kv_channels|index_topk|\w+_d_(conv|head|state)|hc_mult|depth|emb_\w+_num"
        ),
        "a whole number of 0 or more",
        _whole(0),
    ),
    Rule(re.compile("max_position_embeddings|max_seq_len"), "a whole number of 0 or more", _whole(0), lists=False),
    Rule(
        re.compile(r"\w*(_eps|_epsilon|_theta)"),
        "a finite number of 0 or more",
        lambda value: _number(value) and value >= 0,
        lists=False,
    ),
    Rule(
        re.compile(r"\w*(_factor|_multiplier|_scaling|_scale|_softcapping|_noise|_temp|_dropout)"),
        "a finite number",
        _number,
    ),
    Rule(
        re.compile(
            r"use_\w+|norm_(topk_prob|expert_weight)|moe_renormalize|route_norm|tie_word_embeddings|\w*(_|qkv_|mlp_)bias"
            r"|enable_moe_block|moe_router_enable_expert_bias|gating|mup_enabled|mla_(scale|use)_\w+"
        ),
        "true or false",
        _flag,
    ),
    Rule(
        re.compile("moe_layer_freq|is_moe_layer"),
        "a whole number, or a flag for each block",
        lambda value: isinstance(value, bool) or _whole(0)(value),
    ),
    Rule(
        re.compile(
            r"hidden_act|activation_function|scor(e|ing)_func(tion)?|topk_method|moe_router_activation_func|model_type"
            r"|attention_method|zero_expert_type|rope_type|type|moe_gate_act"
        ),
        "a name",
        lambda value: isinstance(value, str),
        lists=False,
    ),
)

_SEVERAL = re.compile(r"\w*(layer_types|layers_block_type|_pattern|_layers_enum)")
"""Lists, or texts, with an entry for each block."""

_NOT = re.compile(
    r"rope_scaling|layer_rope_theta|mscale\w*|\w*(bos|eos|pad|token)\w*_size|sliding_window\w*|image_size|patch_size"
    r"|use_(bfloat16|flash\w*|sliding_window)|weight_block_size|position_bias|num_experts_per_layer|layer_scale\w*"
)
"""Names that a pattern above covers and does not mean."""


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises ModelLoadError for a setting that is of no kind which any library could read, naming key, value and rule.

    null stands for a setting that is left out, a list for one number for each block; what must be there and what a
    family makes of it is for others to say.
    """
    for key in _OBJECTS:
        if not isinstance(config.get(key) or {}, dict):
            raise _wrong(config, key, config[key], "a section of settings")
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list | str) or not all(isinstance(name, str) for name in architectures):
        raise _wrong(config, "architectures", architectures, "a list of names")
    for path, value in _settings(config, ()):
        key = path[-1]
        if value is None or _NOT.fullmatch(key):
            continue
        if _SEVERAL.fullmatch(key):
            if not isinstance(value, str | list) and not (key.endswith("_pattern") and _whole(0)(value)):
                raise _wrong(config, ".".join(path), value, "a list with an entry for each block")
            continue
        for rule in _RULES:
            if not rule.keys.fullmatch(key):
                continue
            several = isinstance(value, list) and rule.lists
            if not all(map(rule.holds, value if several else [value])):
                raise _wrong(config, ".".join(path), value, rule.says)
            break
    for section in (config, *(config[key] for key in _INNER if config.get(key))):
        _check_lengths(config, section)


def _settings(section: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and FLOAT in value:
            yield (*path, key), value[FLOAT]
        elif isinstance(value, dict) and (key in _INNER or key in _ROPE):
            yield from _settings(value, (*path, key))
        else:
            yield (*path, key), value


def _check_lengths(config: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    """Raises ModelLoadError where a list for the blocks has fewer entries than there are blocks."""
    blocks = next((section[key] for key in BLOCKS if section.get(key) is not None), None)
    for key in ("layer_types", "layers_block_type", "mlp_layer_types", "moe_layer_freq", "is_moe_layer"):
        value = section.get(key)
        if isinstance(value, list) and isinstance(blocks, int) and len(value) < blocks:
            raise _wrong(config, key, value, f"a list of {blocks} entries, one for each block, not of {len(value)}")
        if isinstance(value, list) and key.endswith(("types", "type")) and not all(isinstance(v, str) for v in value):
            raise _wrong(config, key, value, "a list of names")


def _wrong(config: Mapping[str, Any], key: str, value: Any, rule: str) -> ModelLoadError:
    text = repr(value)
    return ModelLoadError(
        f"The config of this {config.get('model_type')!r} model has {key} = "
        f"{text if len(text) <= 60 else text[:57] + '...'}; it must be {rule}: mend config.json or fetch it again."
    )


def whole_settings(section: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Every size among the settings, those of a multimodal model's other parts too, with its key."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from whole_settings(value, (*path, key))
        elif not _NOT.fullmatch(key) and any(rule.keys.fullmatch(key) for rule in _RULES[:2]):
            for one in value if isinstance(value, list) else [value]:
                if type(one) is int:
                    yield ".".join((*path, key)), one
