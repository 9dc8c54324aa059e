"""``plan --backend torch``: what transformers and bitsandbytes would hold, counted on a device without memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from public_models import PUBLIC
from without import without

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("transformers", reason="the extra `torch` is not installed")
pytest.importorskip("bitsandbytes", reason="the extra `torch` is not installed")

import torch
from test_fourbit import PLAIN, load, random_checkpoint

from mlx_moebench.analysis.outlook import outlook
from mlx_moebench.analysis.plan import Work
from mlx_moebench.checkpoints.described import describe
from mlx_moebench.checkpoints.size import by_role, held, total
from mlx_moebench.errors import ModelLoadError
from mlx_moebench.options import Loading
from torch_fallback import blueprint
from torch_fallback.fourbit import _weights

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FOUR = Loading(backend="torch", bits=4)


def bytes_of(model: Any) -> int:
    """Of every parameter in memory, tied ones once, scales included."""
    seen: dict[int | str, int] = {}
    for path, module in model.named_modules():
        if "parametrizations" in path.split("."):
            continue
        own = dict(module.named_parameters(recurse=False))
        for weight in _weights(path, module):
            seen[id(own[weight.name]) if weight.name in own else weight.full_name] = weight.nbytes
    return sum(seen.values())


@pytest.mark.parametrize("model_type", PLAIN)
def test_nf4_takes_what_a_loaded_model_takes(model_type: str, tmp_path: Path) -> None:
    random_checkpoint(tmp_path, model_type)
    described = describe(tmp_path)
    model, _ = load(tmp_path, torch.bfloat16)
    counted = blueprint.parts(described, FOUR, "bfloat16")
    assert held(counted) == bytes_of(model)
    plain = blueprint.parts(described, Loading(backend="torch"), "bfloat16")
    assert total(plain) == total(counted)
    assert held(counted) < held(plain)
    roles = by_role(counted)
    assert roles["experts"] > 0
    assert roles["routers"] > 0
    whole = {part.name: part.nbytes for part in plain if part.role in ("routers", "embedding", "head", "norms")}
    assert whole.items() <= {part.name: part.nbytes for part in counted}.items(), "these are never packed"


@pytest.fixture(scope="module")
def on_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The default machines where this one has no GPU: 24 and 80 GB."""
    found = {}
    for name in ("OLMoE-1B-7B", "Qwen1.5-MoE-A2.7B", "Mixtral-8x7B"):
        folder = tmp_path_factory.mktemp(name.replace(".", "-"))
        (folder / "config.json").write_text(json.dumps(PUBLIC[name].config | {"norm_topk_prob": False}))
        found[name] = outlook(str(folder), Loading(backend="torch"), Work(100_000), (24, 80))
    return found


def test_what_fits_on_gpus_of_24_and_80_gb(on_gpus: dict[str, dict[str, Any]]) -> None:
    fits = {
        name: [
            [(way["precision"].split(",")[0], way["fits"]) for way in machine["ways"]] for machine in one["machines"]
        ]
        for name, one in on_gpus.items()
    }
    both = [("bfloat16", True), ("NF4", True)]
    assert fits == {
        "OLMoE-1B-7B": [both, both],
        "Qwen1.5-MoE-A2.7B": [[("bfloat16", False), ("NF4", True)], both],
        "Mixtral-8x7B": [[("bfloat16", False), ("NF4", False)], [("bfloat16", False), ("NF4", True)]],
    }
    for name, one in on_gpus.items():
        assert one["parameters"]["total"] == PUBLIC[name].built
        nf4 = one["machines"][0]["ways"][1]
        assert 4.5 < 8 * nf4["weights_bytes"] / PUBLIC[name].built < 5.1
    assert on_gpus["Mixtral-8x7B"]["machines"][1]["recommended"]["command"].endswith(
        "--backend torch --device cuda --4bit"
    )
    assert on_gpus["Mixtral-8x7B"]["machines"][0]["recommended"] is None


def test_what_torch_has_not_is_said(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    with pytest.raises(ModelLoadError, match="4 bit are offered"):
        blueprint.parts(describe(tmp_path), Loading(backend="torch", bits=8), "bfloat16")


def test_without_mlx_transformers_counts_for_it(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    code = f"{without('mlx', 'mlx_lm')}from mlx_moebench.cli import main\n"
    code += f"main(['plan', {str(tmp_path)!r}, '--memory', '24', '--json'])\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["model"]["counted_by"] == blueprint.NAME
    whole = outlook(str(tmp_path), Loading(), Work(100_000), (24,))
    assert found["parameters"]["total"] == whole["parameters"]["total"]
    assert found["parameters"]["by_role"]["experts"] == whole["parameters"]["by_role"]["experts"]
    assert found["bytes"] == whole["bytes"]
