"""A Mixtral of 2 GB with random weights, and the peak memory of a process that loads it; also a script that does that.

python tests/wide_mixtral.py FOLDER here|bitsandbytes|bfloat16    # prints one line of JSON
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

LAYERS, HIDDEN, EXPERT, EXPERTS, VOCABULARY = 16, 1024, 2560, 8, 512
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": EXPERT,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "vocab_size": VOCABULARY,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}


class Loaded(NamedTuple):
    """What a load took: seconds; the peak of resident memory and what stayed, both beyond what the imports take.

    expert_bytes, expert_bf16: what the weights of the experts take, and would take in bfloat16.
    """

    seconds: float
    peak: int
    stays: int
    expert_bytes: int
    expert_bf16: int
    finite: bool


def write_wide_mixtral(folder: Path) -> int:
    """Write the checkpoint, a file per layer, every layer with random weights of its own; returns its bytes."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)

    def random(rows: int, columns: int, spread: float = 1) -> Any:
        return (torch.randn(rows, columns, generator=generator) * spread / columns**0.5).to(torch.bfloat16)

    def layer() -> dict[str, Any]:
        found = {name: torch.ones(HIDDEN).bfloat16() for name in ("input_layernorm", "post_attention_layernorm")}
        rows = {"q_proj": HIDDEN, "k_proj": HIDDEN // 2, "v_proj": HIDDEN // 2, "o_proj": HIDDEN}
        found |= {f"self_attn.{name}": random(n, HIDDEN) for name, n in rows.items()}
        found["block_sparse_moe.gate"] = random(EXPERTS, HIDDEN, spread=2)
        for e in range(EXPERTS):
            for name, shape in (("w1", (EXPERT, HIDDEN)), ("w2", (HIDDEN, EXPERT)), ("w3", (EXPERT, HIDDEN))):
                found[f"block_sparse_moe.experts.{e}.{name}"] = random(*shape)
        return found

    weight_map, size = {}, 0
    for n in range(LAYERS + 1):
        if n < LAYERS:
            tensors = {f"model.layers.{n}.{name}.weight": value for name, value in layer().items()}
        else:
            ends = {name: random(VOCABULARY, HIDDEN) for name in ("model.embed_tokens.weight", "lm_head.weight")}
            tensors = ends | {"model.norm.weight": torch.ones(HIDDEN).bfloat16()}
        save_file(tensors, folder / f"model-{n}.safetensors", {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, f"model-{n}.safetensors")
        size += sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return size


def load_elsewhere(folder: Path, how: str, timeout: float = 170) -> Loaded:
    """Load the checkpoint in a process of its own."""
    command = [sys.executable, __file__, str(folder), how]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout)
    return Loaded(*json.loads(run.stdout.splitlines()[-1]))


def measure(folder: Path, how: str) -> Loaded:
    """Load the checkpoint in this process, whose peak must not be of anything else."""
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MixtralForCausalLM  # noqa: F401

    from mlx_moebench.families import family_for
    from torch_fallback.fourbit import expert_bytes, load_in_4bit

    before, start = _resident("VmRSS"), time.perf_counter()
    if how == "here":
        model = load_in_4bit(folder, CONFIG, device=torch.device("cpu"), dtype=torch.bfloat16)
    else:
        kind = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if how == "bitsandbytes" else None
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=kind)
    seconds, peak, stays = time.perf_counter() - start, _resident("VmHWM") - before, _resident("VmRSS") - before
    with torch.no_grad():
        finite = bool(model(torch.arange(8)[None], use_cache=False).logits.isfinite().all())
    return Loaded(seconds, peak, stays, *expert_bytes(model, family_for(CONFIG)), finite)


def _resident(kind: str) -> int:
    """Bytes of this process in memory by Linux' account: VmRSS now, VmHWM at most so far."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])) + "\n")
