"""Tiny random vision-language models of mlx-vlm with a processor each, by the folder that defines them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import mlx.core as mx

from mlx_moebench.families.base import module_at
from mlx_moebench.instrument import routers_of

BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {}
"""``BUILDERS[folder]()``: a model and its processor."""

VOCABULARY = 320
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
}
LATENT: dict[str, Any] = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
GROUPED: dict[str, Any] = {
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "norm_topk_prob": True,
}


def builder(build: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
    BUILDERS[build.__name__] = build
    return build


@builder
def qwen3_vl_moe() -> tuple[Any, Any]:
    from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import Qwen3VLImageProcessor, Qwen3VLProcessor

    tokenizer = tokenizer_with("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    text = SIZES | {
        "model_type": "qwen3_vl_moe_text",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [],
        "num_hidden_layers": 4,
        "head_dim": 16,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]},
    }
    vision = {
        "model_type": "qwen3_vl_moe",
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "out_hidden_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    tokens = ids_of(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>")
    tokens |= ids_of(tokenizer, vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>")
    model = built("qwen3_vl_moe", {"text_config": text, "vision_config": vision, **tokens})
    images = Qwen3VLImageProcessor(patch_size=8, min_pixels=256, max_pixels=4096)
    return model, Qwen3VLProcessor(images, tokenizer)


@builder
def glm4v_moe() -> tuple[Any, Any]:
    from mlx_vlm.models.glm4v_moe.processing import Glm46VMoEProcessor
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    tokenizer = tokenizer_with("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>")
    text = (
        SIZES
        | GROUPED
        | {
            "model_type": "glm4v_moe_text",
            "head_dim": 16,
            "use_qk_norm": True,
            "attention_bias": False,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "default", "mrope_section": [2, 1, 1]},
            "tie_word_embeddings": False,
        }
    )
    vision = {
        "model_type": "glm4v_moe",
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 8,
        "image_size": 32,
        "out_hidden_size": 64,
    }
    tokens = ids_of(tokenizer, image_token_id="<|image|>", video_token_id="<|video|>")
    tokens |= ids_of(tokenizer, vision_start_token_id="<|begin_of_image|>", vision_end_token_id="<|end_of_image|>")
    model = built("glm4v_moe", {"text_config": text, "vision_config": vision, **tokens})
    size = {"shortest_edge": 512, "longest_edge": 8192}
    images = Glm4vImageProcessorPil(patch_size=8, size=size)
    return model, Glm46VMoEProcessor(images, tokenizer)


@builder
def kimi_vl() -> tuple[Any, Any]:
    from mlx_vlm.models.kimi_vl.processing_kimi_vl import KimiVLImageProcessor, KimiVLProcessor

    tokenizer = tokenizer_with("<|media_pad|>")
    text = SIZES | LATENT | GROUPED | {"model_type": "deepseek_v3", "rope_theta": 10000.0}
    vision = {
        "model_type": "moonvit",
        "depth": 1,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
        "init_pos_emb_height": 4,
        "init_pos_emb_width": 4,
    }
    token = ids_of(tokenizer, media_placeholder_token_id="<|media_pad|>")
    model = built("kimi_vl", {"text_config": text, "vision_config": vision, **token})
    return model, KimiVLProcessor(KimiVLImageProcessor(patch_size=8), tokenizer)


@builder
def deepseek_vl_v2() -> tuple[Any, Any]:
    from mlx_vlm.models.deepseek_vl_v2.processing_deepsek_vl_v2 import DeepseekVLV2Processor

    tokenizer = tokenizer_with("<image>", bos="<s>")
    text = (
        SIZES
        | LATENT
        | GROUPED
        | {
            "model_type": "deepseek_v2",
            "topk_method": "greedy",
            "rope_theta": 10000.0,
        }
    )
    vision = {
        "model_type": "vision",
        "layers": 1,
        "width": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "mlp_ratio": 2.0,
    }
    projector = {"input_dim": 32, "n_embed": 64}
    processor = DeepseekVLV2Processor(
        tokenizer, candidate_resolutions=((32, 32), (64, 32)), patch_size=8, downsample_ratio=2, pad_token="<pad>"
    )
    token = {"image_token_index": processor.image_token_id}
    config = {"text_config": text, "vision_config": vision, "projector_config": projector, **token}
    return built("deepseek_vl_v2", config), processor


@builder
def ernie4_5_moe_vl() -> tuple[Any, Any]:
    from mlx_vlm.models.ernie4_5_moe_vl import Ernie4_5_VLProcessor, ImageProcessor

    marks = ("<|IMAGE_START|>", "<|IMAGE_END|>", "<|IMAGE_PLACEHOLDER|>")
    tokenizer = tokenizer_with(*marks)
    text = SIZES | {
        "moe_num_experts": [8, 6],
        "moe_intermediate_size": [32, 16],
        "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [2, 2],
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "rope_theta": 10000.0,
        "mrope_section": [3, 3, 2],
        "pixel_hidden_size": 32,
    }
    vision = {
        "depth": 1,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": 8,
        "mlp_ratio": 2.0,
    }
    tokens = ids_of(tokenizer, image_start_token_id=marks[0], image_end_token_id=marks[1], im_patch_id=marks[2])
    model = built("ernie4_5_moe_vl", {**text, "vision_config": vision, **tokens})
    tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
        "{% else %}<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>{% endif %}{% endfor %}{% endfor %}"
    )
    return model, Ernie4_5_VLProcessor(ImageProcessor(patch_size=8, min_pixels=256), tokenizer)


def built(folder: str, config: dict[str, Any]) -> Any:
    """A model of mlx-vlm in float32, as ``mlx_vlm.load`` builds it, whose routers choose and hide nothing."""
    mx.random.seed(0)
    module = importlib.import_module(f"mlx_vlm.models.{folder}")
    model = module.Model(settings_of(module, {"model_type": folder, **config}))
    spread(model)
    model.eval()
    mx.eval(model.parameters())
    return model


def settings_of(module: Any, config: dict[str, Any]) -> Any:
    from mlx_vlm.utils import update_module_configs

    settings = module.ModelConfig.from_dict(config)
    return update_module_configs(settings, module, config, ["text", "vision", "projector"])


def spread(model: Any) -> None:
    """Draw what decides in the routers, of which mlx-vlm builds much as zeros."""
    from mlx_moebench.instrument.models import family_of

    family = family_of(model)
    for spec in routers_of(model):
        layer, form = model.layers[spec.layer], family.form(spec.router)
        gate = module_at(layer, form.gate)
        gate.weight = mx.random.normal(gate.weight.shape) / 2
        if form.bias and (bias := module_at(layer, form.bias)) is not None:
            parent, _, name = form.bias.rpartition(".")
            setattr(module_at(layer, parent), name, 0.2 * mx.random.normal(bias.shape))


def ids_of(tokenizer: Any, **tokens: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def tokenizer_with(*special: str, bos: str = "<s>") -> Any:
    """A tokenizer of bytes, with special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<pad>", bos, "</s>", *special], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(["what does the picture show, and how many of them are there " * 4], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token=bos, eos_token="</s>")


ROPE = {"type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

BUILT_BY = {"mistral4": "mistral3"}
"""Folders without a model of their own, and one that has their blocks."""

CHANGES: dict[str, dict[str, Any]] = {
    "cohere2_moe": {"shared_expert_combination_strategy": "sum"},
    "deepseekocr": {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    "flint": {"sliding_window": 8, "num_experts_per_tok": 3},
    "hy_v4": {"indexer_types": ["full"] * 3},
    "longcat_flash_sparse": {"attention_method": "MLA"},
    "llama4": {"moe_layers": None},
    "qwen3_omni_moe": {"rope_scaling": {"type": "default", "mrope_section": [4, 2, 2]}},
}
"""What a folder's text settings are beside those of the row of its family."""


def text_model(folder: str, row: Any) -> Any:
    """A tiny random model with the blocks of a folder, of the settings of a row, whose routers choose."""
    module = importlib.import_module(f"mlx_vlm.models.{BUILT_BY.get(folder, folder)}")
    config = deepcopy(row.config)
    text = {**(config.get("text_config") or config), **CHANGES.get(folder, {})}
    if hasattr(module, "TextConfig") and "text_config" not in config:
        text["model_type"] = f"{folder}_text"
    mx.random.seed(0)
    if folder == "qwen3_omni_moe":
        parts = module.VisionConfig(), module.AudioConfig()
        whole = module.config.ThinkerConfig(module.TextConfig.from_dict(text), *parts)
        model = module.LanguageModel(whole.text_config, whole)
    elif folder == "qwen3_5_moe":
        text["rope_parameters"] = ROPE
        whole = settings_of(module, {"model_type": folder, "text_config": text, "vision_config": {}})
        model = module.LanguageModel(whole.text_config, whole)
    elif hasattr(module, "VisionConfig") and folder not in BUILT_BY:
        model = module.LanguageModel(module.TextConfig.from_dict(text))
    else:
        model = module.Model(settings_of(module, {"vision_config": {}, **config, **CHANGES.get(folder, {})}))
    spread(model)
    model.eval()
    return model
