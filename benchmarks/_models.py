"""The models that are measured: OLMoE's architecture with random weights, as one checkpoint for both libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mlx_moebench.checkpoints.located import NANO

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """An OLMoE: so many layers of width ``hidden`` with ``experts`` of width ``expert``, of which ``top_k`` run."""

    name: str
    layers: int
    hidden: int
    experts: int
    top_k: int
    expert: int
    heads: int
    vocabulary: int = 4096  # that of the embedded tokenizer

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says, for mlx-lm and transformers alike."""
        return {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "dtype": "float32",
            "hidden_size": self.hidden,
            "intermediate_size": self.expert,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "vocab_size": self.vocabulary,
            "eos_token_id": 0,
        }

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        layer = 4 * self.hidden**2 + 4 * self.hidden + self.experts * self.hidden * (3 * self.expert + 1)
        return self.layers * layer + self.hidden * (2 * self.vocabulary + 1)


SMALL = Shape("OLMoE-shaped", layers=4, hidden=512, experts=64, top_k=8, expert=256, heads=8)
"""The one that peers are compared on: fits into any laptop, with OLMoE's 64 experts and top-8."""

WIDE = Shape("OLMoE's widths, 2 layers", layers=2, hidden=2048, experts=64, top_k=8, expert=1024, heads=16)
"""Two layers of OLMoE-1B-7B as they are: 3.4 GB in float32."""

TINY = Shape("tiny", layers=2, hidden=64, experts=8, top_k=2, expert=32, heads=4)
"""For tests of the benchmarks themselves, where no figure counts."""


def write_checkpoint(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A float32 checkpoint as OLMoE's on the hub, a file per layer, with the embedded tokenizer; the same by seed.

    Weights are normal with the variance that keeps the size of what they multiply.
    """
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((NANO / file).read_bytes())
    (folder / "config.json").write_text(json.dumps(shape.config), encoding="utf-8")
    rng = np.random.default_rng(seed)
    index = {}
    for number in range(shape.layers + 1):
        weights = _ends(rng, shape) if number == shape.layers else _layer(rng, shape, number)
        file = f"model-{number + 1:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(weights, folder / file, {"format": "pt"})
        index |= dict.fromkeys(weights, file)
    content = {"metadata": {"total_size": 4 * shape.parameters}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _layer(rng: np.random.Generator, shape: Shape, number: int) -> dict[str, Array]:
    d, width, prefix = shape.hidden, shape.expert, f"model.layers.{number}"
    norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
    weights = {f"{prefix}.{name}.weight": np.ones(d, np.float32) for name in norms}
    weights |= {f"{prefix}.self_attn.{name}_proj.weight": _random(rng, d, d) for name in "qkvo"}
    weights[f"{prefix}.mlp.gate.weight"] = _random(rng, shape.experts, d)
    for expert in range(shape.experts):
        for name, size in (("gate", (width, d)), ("up", (width, d)), ("down", (d, width))):
            weights[f"{prefix}.mlp.experts.{expert}.{name}_proj.weight"] = _random(rng, *size)
    return weights


def _ends(rng: np.random.Generator, shape: Shape) -> dict[str, Array]:
    table, head = (_random(rng, shape.vocabulary, shape.hidden) for _ in range(2))
    norm = np.ones(shape.hidden, np.float32)
    return {"model.embed_tokens.weight": table, "lm_head.weight": head, "model.norm.weight": norm}


def _random(rng: np.random.Generator, rows: int, columns: int) -> Array:
    return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)


def random_model(shape: Shape) -> Any:
    """An mlx-lm model of this shape with random weights, where no checkpoint is needed."""
    from mlx_moebench.blas import load_fast_blas

    load_fast_blas()
    import mlx.core as mx
    from mlx_lm.models.olmoe import Model, ModelArgs

    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(shape.config))
    model.eval()
    mx.eval(model.parameters())
    return model


def random_ids(shape: Shape, rows: int, tokens: int, seed: int = 0) -> Array:
    """[rows, tokens // rows] token ids, none of which ends a text."""
    return np.random.default_rng(seed).integers(1, shape.vocabulary, (rows, tokens // rows), dtype=np.int32)


class Numbers:
    """A tokenizer of texts that are token ids, such as ``"17 4 256"``: every library then gets the same tokens."""

    bos_token = bos_token_id = None
    eos_token_id = pad_token_id = 0

    def encode(self, text: str, **_options: bool) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], *, tokenize: bool) -> str:
        raise NotImplementedError("Ids have no chats.")


def as_texts(ids: Array) -> list[str]:
    """Rows [B, S] of ids as the texts that `Numbers` reads."""
    return [Numbers().decode(row.tolist()) for row in ids]
