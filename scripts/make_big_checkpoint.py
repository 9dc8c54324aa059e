"""Write a checkpoint of random weights in a real layout, as many gigabytes as asked for, in little memory.

    python scripts/make_big_checkpoint.py olmoe /tmp/big --gb 8

Forms: olmoe (an expert's matrices each on its own, bfloat16, as on the hub), deepseek_v3 (sigmoid scores, groups, a
bias, a shared expert, a dense first layer, latent attention; bfloat16) and olmoe-4bit (experts stacked and packed, as
mlx-lm writes them). Widths are those of OLMoE-1B-7B where it has them; the number of layers follows from the size.
Every tensor is drawn by its name and the seed, so that a checkpoint of fewer layers holds the same ones. The tokenizer
is that of the model in the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlx_moebench.checkpoints import NANO

HIDDEN, EXPERTS, INNER, VOCABULARY, GROUP = 2048, 64, 1024, 50304, 64
SIZES = {"BF16": 2, "F32": 4, "U32": 4}

COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "vocab_size": VOCABULARY,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}
OLMOE = COMMON | {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "intermediate_size": INNER,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "clip_qkv": None,
}
LATENT = {"q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
DEEPSEEK = (
    COMMON
    | LATENT
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "intermediate_size": 8192,
        "moe_intermediate_size": INNER,
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0,
        "rope_scaling": None,
    }
)


class Tensor(NamedTuple):
    """One tensor. spread: its standard deviation; 0 for ones."""

    name: str
    shape: tuple[int, ...]
    spread: float
    dtype: str = "BF16"

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]


def linear(name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
    return Tensor(f"{name}.weight", (rows, columns), gain / columns**0.5)


def norm(name: str, size: int) -> Tensor:
    return Tensor(f"{name}.weight", (size,), 0.0)


def packed(name: str, *shape: int) -> list[Tensor]:
    """A matrix of 4 bits with a scale and a bias for each group of 64, as MLX packs it."""
    *rows, columns = shape
    groups = (*rows, columns // GROUP)
    spread = 1 / columns**0.5
    return [
        Tensor(f"{name}.weight", (*rows, columns // 8), 1.0, "U32"),
        Tensor(f"{name}.scales", groups, spread / 4),
        Tensor(f"{name}.biases", groups, spread),
    ]


def trunk(form: str) -> list[Tensor]:
    ends = [("model.embed_tokens", 1.0), ("lm_head", 1.0)]
    if form == "olmoe-4bit":
        tensors = [tensor for name, _ in ends for tensor in packed(name, VOCABULARY, HIDDEN)]
    else:
        tensors = [Tensor(f"{name}.weight", (VOCABULARY, HIDDEN), 1.0 if "embed" in name else 0.02) for name, _ in ends]
    return [*tensors, norm("model.norm", HIDDEN)]


def olmoe_layer(at: str) -> Iterator[Tensor]:
    yield from (norm(f"{at}.{name}", HIDDEN) for name in ("input_layernorm", "post_attention_layernorm"))
    yield from (norm(f"{at}.self_attn.{name}", HIDDEN) for name in ("q_norm", "k_norm"))
    yield from (linear(f"{at}.self_attn.{name}_proj", HIDDEN, HIDDEN) for name in "qkvo")
    yield linear(f"{at}.mlp.gate", EXPERTS, HIDDEN, 2.0)
    for expert in range(EXPERTS):
        yield from mlp(f"{at}.mlp.experts.{expert}", INNER)


def packed_layer(at: str) -> Iterator[Tensor]:
    yield from (norm(f"{at}.{name}", HIDDEN) for name in ("input_layernorm", "post_attention_layernorm"))
    yield from (norm(f"{at}.self_attn.{name}", HIDDEN) for name in ("q_norm", "k_norm"))
    for name in "qkvo":
        yield from packed(f"{at}.self_attn.{name}_proj", HIDDEN, HIDDEN)
    yield linear(f"{at}.mlp.gate", EXPERTS, HIDDEN, 2.0)
    for name, rows, columns in (("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)):
        yield from packed(f"{at}.mlp.switch_mlp.{name}_proj", EXPERTS, rows, columns)


def deepseek_layer(at: str, dense: bool) -> Iterator[Tensor]:
    heads, rank, latent = 16, LATENT["q_lora_rank"], LATENT["kv_lora_rank"]
    nope, rope, value = (LATENT[f"{name}_head_dim"] for name in ("qk_nope", "qk_rope", "v"))
    yield from (norm(f"{at}.{name}", HIDDEN) for name in ("input_layernorm", "post_attention_layernorm"))
    yield linear(f"{at}.self_attn.q_a_proj", rank, HIDDEN)
    yield norm(f"{at}.self_attn.q_a_layernorm", rank)
    yield linear(f"{at}.self_attn.q_b_proj", heads * (nope + rope), rank)
    yield linear(f"{at}.self_attn.kv_a_proj_with_mqa", latent + rope, HIDDEN)
    yield norm(f"{at}.self_attn.kv_a_layernorm", latent)
    yield linear(f"{at}.self_attn.kv_b_proj", heads * (nope + value), latent)
    yield linear(f"{at}.self_attn.o_proj", HIDDEN, heads * value)
    if dense:
        yield from mlp(f"{at}.mlp", DEEPSEEK["intermediate_size"])
        return
    yield linear(f"{at}.mlp.gate", EXPERTS, HIDDEN, 2.0)
    yield Tensor(f"{at}.mlp.gate.e_score_correction_bias", (EXPERTS,), 0.05, "F32")
    yield from mlp(f"{at}.mlp.shared_experts", INNER)
    for expert in range(EXPERTS):
        yield from mlp(f"{at}.mlp.experts.{expert}", INNER)


def mlp(at: str, inner: int) -> list[Tensor]:
    sizes = (("gate", inner, HIDDEN), ("up", inner, HIDDEN), ("down", HIDDEN, inner))
    return [linear(f"{at}.{name}_proj", rows, columns) for name, rows, columns in sizes]


def layer(form: str, number: int) -> list[Tensor]:
    at = f"model.layers.{number}"
    if form == "deepseek_v3":
        return list(deepseek_layer(at, number < DEEPSEEK["first_k_dense_replace"]))
    return list((packed_layer if form == "olmoe-4bit" else olmoe_layer)(at))


def drawn(tensor: Tensor, seed: int) -> npt.NDArray[Any]:
    """Its values, by its name and the seed; bfloat16 as the upper halves of float32."""
    digest = hashlib.sha256(f"{seed} {tensor.name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    if tensor.dtype == "U32":
        return rng.integers(0, 2**32, tensor.shape, dtype=np.uint32)
    if not tensor.spread:
        values = np.ones(tensor.shape, dtype=np.float32)
    elif tensor.name.endswith(".scales"):
        values = np.full(tensor.shape, tensor.spread, dtype=np.float32)
    elif tensor.name.endswith(".biases"):  # so that the 16 values of a group lie about 0
        values = np.full(tensor.shape, -1.875 * tensor.spread, dtype=np.float32)
    else:
        values = rng.standard_normal(tensor.shape, dtype=np.float32) * np.float32(tensor.spread)
    return values if tensor.dtype == "F32" else ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def write_shard(path: Path, tensors: list[Tensor], seed: int) -> None:
    header, place = {}, 0
    for tensor in tensors:
        end = place + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps({"__metadata__": {"format": "mlx" if "U32" in str(header) else "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(drawn(tensor, seed).tobytes())


def make(form: str, folder: Path, gb: float, layers: int | None, seed: int) -> int:
    """Write the checkpoint; returns its bytes."""
    ends = trunk(form)
    size = sum(tensor.nbytes for tensor in ends)
    count = layers or 0
    if layers is None:
        while size < gb * 1e9:
            size += sum(tensor.nbytes for tensor in layer(form, count))
            count += 1
    folder.mkdir(parents=True)
    shards = [ends, *(layer(form, number) for number in range(count))]
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / name, tensors, seed)
        index |= {tensor.name: name for tensor in tensors}
    whole = sum(tensor.nbytes for tensors in shards for tensor in tensors)
    content = {"metadata": {"total_size": whole}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    config = {"num_hidden_layers": count} | (DEEPSEEK if form == "deepseek_v3" else OLMOE)
    if form == "olmoe-4bit":
        packing: dict[str, Any] = {"group_size": GROUP, "bits": 4}
        gates = {f"model.layers.{number}.mlp.gate": False for number in range(count)}
        config |= {"quantization": packing | gates, "quantization_config": packing | gates}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NANO / name, folder / name)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("form", choices=["olmoe", "deepseek_v3", "olmoe-4bit"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, default=8.0, help="size, in gigabytes of 10^9 bytes, at least")
    parser.add_argument("--layers", type=int, help="number of layers, in place of a size")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = make(arguments.form, arguments.folder, arguments.gb, arguments.layers, arguments.seed)
    print(f"{size / 1e9:.2f} GB in {arguments.folder}")


if __name__ == "__main__":
    main()
