"""Which of mlx-vlm's models are measured, by the folder that defines them. Needs neither MLX nor mlx-vlm.

mlx-vlm has copies of its own of mlx-lm's models, and some more. A folder whose blocks have the paths and the rule of a
family is one line of `SAME`; one whose blocks differ is an entry of `OTHERS`, and one that no declaration describes
says why in `NOT_MEASURED`. tests/test_vlm.py holds the lists against the installed mlx-vlm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from ..errors import UnsupportedModelError
from . import GUIDE, families
from .base import Family, RouterForm
from .layers import Layers, after_first_dense, between, every_nth_layer
from .rules import Groups, Rule
from .settings import Config, Key

SAME: dict[str, tuple[str, ...]] = {
    "Klear": ("klear",),
    "afmoe": ("afmoe",),
    "bailing_moe": ("bailing_moe", "bailing_moe_linear"),
    "dbrx": ("dbrx",),
    "deepseek": ("deepseek",),
    "deepseek_v2": ("deepseek_v2",),
    "deepseek_v3": ("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "hy_v4", "kimi_vl", "youtu_vl"),
    "dots1": ("dots1",),
    "ernie4_5_moe": ("ernie4_5_moe",),
    "exaone_moe": ("exaone_moe",),
    "gemma4": ("gemma4", "gemma4_text"),
    "glm4_moe": ("glm4_moe", "glm4v_moe"),
    "glm4_moe_lite": ("glm4_moe_lite",),
    "gpt_oss": ("gpt_oss",),
    "granitemoe": ("granitemoe", "granitemoehybrid"),
    "hunyuan": ("hunyuan",),
    "jamba": ("jamba",),
    "kimi_k3": ("kimi_k3",),
    "kimi_linear": ("kimi_linear",),
    "laguna": ("laguna",),
    "llama4": ("llama4",),
    "longcat_flash": ("longcat_flash", "longcat_flash_sparse"),
    "mellum": ("mellum",),
    "mimo_v2_flash": ("mimo_v2_flash",),
    "minimax": ("minimax",),
    "mixtral": ("mixtral",),
    "nemotron_h": ("nemotron_h",),
    "olmoe": ("olmoe",),
    "phimoe": ("phimoe",),
    "phixtral": ("phixtral",),
    "qwen2_moe": ("qwen2_moe",),
    "qwen3_5_moe": ("qwen3_5_moe",),
    "qwen3_moe": ("qwen3_moe", "qwen3_omni_moe", "qwen3_vl_moe"),
    "qwen3_next": ("qwen3_next",),
    "step3p5": ("step3p5", "step3p7"),
}
"""Families, by a model_type of theirs, and the folders that have their blocks."""

_TWO_ROUTERS = RouterForm(
    "text",
    "mlp.gate",
    "mlp.switch_mlp",
    Rule("softmax", normalise=True),
    "mlp.e_score_correction_bias",
    n_experts="moe_num_experts.0",
)


def _altered(model_type: str, name: str = "", layers: Layers | None = None, **changes: Any) -> Family:
    """The family of a model_type with another form of its one router."""
    family = families()[model_type]
    routers = tuple(replace(form, **changes) for form in family.routers)
    return replace(family, name=name or family.name, routers=routers, layers=layers or family.layers)


OTHERS: dict[str, Callable[[], Family]] = {
    "cohere2_moe": lambda: _altered(
        "qwen3_moe",
        name="cohere2_moe",
        rule=Rule(Key("moe_gate_act", "sigmoid"), normalise=Key("norm_topk_prob", True)),
        layers=after_first_dense,
    ),
    # Its method `greedy` drops groups as DeepSeek-V2's `group_limited_greedy` does. The bias of `noaux_tc` reaches the
    # choice of groups alone, and so nothing where there is one group.
    "deepseek_vl_v2": lambda: _altered(
        "deepseek_v2",
        name="deepseek_vl_v2",
        rule=Rule(
            Key("scoring_func", "softmax"),
            groups=Groups(
                Key("n_group", 1), Key("topk_group", 1), "max", only=(Key("topk_method", "greedy"), "greedy")
            ),
            scale=Key("routed_scaling_factor", 1.0),
        ),
    ),
    "deepseekocr": lambda: _altered(
        "deepseek_v2",
        name="deepseekocr",
        rule=Rule(
            Key("scoring_func", "softmax"),
            groups=Groups(Key("n_group", 1), Key("topk_group", 1), only=(Key("topk_method", "greedy"), "noaux_tc")),
            scale=Key("routed_scaling_factor", 1.0),
        ),
        bias="mlp.gate.e_score_correction_bias",
    ),
    "ernie4_5_moe_vl": lambda: Family(
        name="ernie4_5_moe_vl",
        model_types=("ernie4_5_moe_vl",),
        routers=(
            _TWO_ROUTERS,
            replace(
                _TWO_ROUTERS,
                router="vision",
                gate="mlp.gate_1",
                experts="mlp.switch_mlp_1",
                bias="mlp.e_score_correction_bias_1",
                n_experts="moe_num_experts.1",
            ),
        ),
        n_experts="moe_num_experts",
        top_k="moe_k",
        layers=between,
        warning=(
            "Every block runs its routers text and vision for every token, and then throws away what the first chose "
            "for tokens of images and what the second chose for those of text; both are counted."
        ),
        public=("baidu/ERNIE-4.5-VL-28B-A3B-PT",),
    ),
    "flint": lambda: _altered(
        "qwen3_moe",
        name="flint",
        rule=Rule("sigmoid", normalise=True, epsilon=1e-20),
        bias="mlp.expert_bias",
        layers=every_nth_layer,
    ),
    # Without the limit to groups that mlx-lm has.
    "mistral4": lambda: _altered(
        "mistral4",
        rule=Rule(
            "softmax",
            normalise=Key("norm_topk_prob", True),
            epsilon=1e-20,
            scale=Key("routed_scaling_factor", 1.0),
        ),
    ),
}
"""Folders with blocks of another form than any family of mlx-lm, and what serves them."""

_BY_IMAGE = (
    "what it chooses for a token depends on whether it is of an image, or on its id, and not on its scores alone"
)
_DENOISES = "it is a diffusion model, which runs every position many times, so tokens have no one choice"

NOT_MEASURED: dict[str, str] = {
    "deepseek_v4": _BY_IMAGE,
    "deepseek_v41": _BY_IMAGE,
    "diffusion_gemma": _DENOISES,
    "glm5_next": "nobody has tried its declaration on a model that was built",
    "inkling": "its gate is a bare weight, which shared experts have rows in, too",
    "kolibri1": "its bias is added to the logits and not to the scores",
    "lfm2": "its weights are scores that have the bias in them, other than those of mlx-lm's model of that name",
    "llada2_moe": _DENOISES,
    "ming_image": _DENOISES,
    "minimax_m3_vl": "its experts are called with the shared expert among the chosen",
    "moondream3": "its block runs the experts itself, and no module is called with what it chose",
    "muse_spark": "it chooses and weighs its experts inside a Metal kernel and never calls the gate",
    "openai_privacy_filter": "it is an encoder that labels tokens",
    "zaya1_vl": "its router reads the router before it, and may choose no expert",
}
"""Folders with experts that no declaration describes, and why."""


@cache
def served() -> dict[str, Family]:
    """Every folder of mlx-vlm that is measured, and the family that serves it."""
    same = {folder: families()[model_type] for model_type, folders in SAME.items() for folder in folders}
    return same | {folder: family() for folder, family in OTHERS.items()}


def family_in_vlm(folder: str, config: Config) -> Family:
    """The family that serves the models of a folder of mlx-vlm.

    Raises UnsupportedModelError for one that none serves.
    """
    if folder in served():
        return served()[folder]
    why = NOT_MEASURED.get(folder, "no family describes the routers of that folder, if it has any")
    raise UnsupportedModelError(
        f"This model ({config.get('model_type')!r}) is of mlx-vlm's folder {folder!r}, which is not measured: {why}. "
        f"Those that are: {', '.join(sorted(served()))}; to add one, {GUIDE}."
    )
