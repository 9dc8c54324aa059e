"""Mixture-of-experts models in 4 bit (NF4), the fused experts included, quantised layer by layer while they are read.

transformers keeps the experts of a layer as fused 3-D parameters, and bitsandbytes by itself quantises ``nn.Linear``
only: such a load leaves most of the model at full precision without a word. Here experts and linear layers become
4 bit; routers, embeddings, norms and the output layer stay as they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from mlx_moebench.checkpoints.foreign import FOREIGN
from mlx_moebench.errors import MissingExtraError, ModelLoadError, needed
from mlx_moebench.families import Family, family_for
from mlx_moebench.families.settings import count
from mlx_moebench.options import Step, quiet_step
from mlx_moebench.types import Json

from .reading import auto_class
from .weights import dtypes, layer_of, plan, stored_tensors

MOST = 0.30
"""The largest share of their bytes in bfloat16 that experts in 4 bit may take: 4.5 bits of 16 are 0.28."""

State = Any
"""What bitsandbytes keeps of a packed weight: its ``QuantState``, which has no types."""

_BLOCK = 64  # weights that share a scale: bitsandbytes' default
_SLICE = 1 << 20  # weights quantised at a time: on a CPU bitsandbytes needs some 20 bytes for each meanwhile
_KIND = "nf4"


class Weight(NamedTuple):
    """A weight of a model and where it is. shape: unquantised. nbytes: what it takes in memory, scales included."""

    module: nn.Module
    path: str
    name: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def full_name(self) -> str:
        return f"{self.path}.{self.name}"


def load_in_4bit(
    folder: Path,
    config: Json,
    *,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    step: Step = quiet_step,
) -> nn.Module:
    """The causal language model of ``folder`` in eval mode on ``device``, with its experts and linear layers in 4 bit.

    config: what the folder's config.json holds. dtype: of all that is not quantised, and what 4-bit weights are
    computed in. step: called before the first layer and after each.

    Every tensor is read, converted, quantised on ``device`` and dropped before the next, so that no more than one
    fused weight of one layer is ever at full precision.

    Raises ModelLoadError where the checkpoint is quantised already, or its keys or shapes are not the model's, both
    before any weight is read, or where experts did not become smaller; UnsupportedModelError where no family serves
    it; MissingExtraError without bitsandbytes or accelerate.
    """
    family = family_for(config)
    _check_unquantised(config, folder)
    _import_extras()
    model = empty_model(folder, dtype, trust_remote_code)
    parts = plan(model, tensors := stored_tensors(folder))
    kept = dtypes(model, dtype)
    chosen = {weight.full_name: weight for weight in [*expert_weights(model, family), *linear_weights(model, family)]}
    last = {layer: number for number, part in enumerate(parts) if (layer := layer_of(part.name)) is not None}
    done = 0
    step("Quantising layers", done, len(last))
    for number, part in enumerate(parts):
        for name, value in part.convert(model, lambda key: tensors[key].read()).items():
            if name in chosen:
                _fill_in_4bit(chosen[name], value, device, dtype)
            else:
                _fill(model, name, value.to(device, kept[name]))
            del value  # before the next is read
        if number in last.values():
            step("Quantising layers", done := done + 1, len(last))
    _finish(model, folder, device)
    _cache_in_blocks(model, expert_weights(model, family))
    check_experts(model, family)
    return model


def expert_bytes(model: nn.Module, family: Family) -> tuple[int, int]:
    """Bytes that the weights of the routed experts take in memory, scales included, and would take in bfloat16."""
    experts = expert_weights(model, family)
    return sum(weight.nbytes for weight in experts), sum(2 * _size(weight.shape) for weight in experts)


def check_experts(model: nn.Module, family: Family) -> None:
    """Raises ModelLoadError where the routed experts are not in 4 bit: all of them, measured in bytes."""
    experts = expert_weights(model, family)
    layers = {spec.layer for spec in family.specs(model.config.to_dict(), torch=True)}
    missing = layers - {layer_of(weight.path) for weight in experts}
    if missing or not experts:
        raise ModelLoadError(
            f"Expert weights were found in {len(layers - missing)} of the {len(layers)} sparse layers of this "
            f"{family.name} model, so it cannot be said that the others are in 4 bit; leave --4bit out."
        )
    taken, full = expert_bytes(model, family)
    whole = [weight for weight in experts if weight.nbytes >= _size(weight.shape)]  # 8 bits and more each
    if whole or taken > MOST * full:
        raise ModelLoadError(
            f"The experts of this {family.name} model are not in 4 bit: they take {taken:,} bytes, "
            f"{taken / full:.2f} of the {full:,} in bfloat16, where at most {MOST:.2f} was to be expected, and "
            f"{len(whole)} of their {len(experts)} weights were not reduced; leave --4bit out."
        )


def expert_weights(model: nn.Module, family: Family) -> list[Weight]:
    """The weights of the routed experts, found by their shape and place, whatever the family calls them.

    That is, inside a block: fused parameters [E, ...] of three dimensions; those of two, [E x rows, columns], of a
    module that has "expert" in its path; and the linear layers of a list of E experts.
    """
    n_experts = count(model.config.to_dict(), family.n_experts)
    listed = _in_lists(model, n_experts)
    weights: list[Weight] = []
    for path, module in model.named_modules():
        if layer_of(path) is not None and not isinstance(module, _NO_EXPERTS):
            weights += _fused(list(_weights(path, module)), n_experts)
        elif id(module) in listed:
            weights += [weight for weight in _weights(path, module) if weight.name == "weight"]
    return weights


def _in_lists(model: nn.Module, n_experts: int) -> set[int]:
    """The linear layers, by their id, of the lists of E experts inside blocks."""
    return {
        id(module)
        for path, experts in model.named_modules()
        if isinstance(experts, nn.ModuleList) and len(experts) == n_experts and layer_of(path) is not None
        for module in experts.modules()
        if isinstance(module, nn.Linear)
    }


_NO_EXPERTS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, parametrize.ParametrizationList)


def _fused(weights: list[Weight], n_experts: int) -> list[Weight]:
    """Those of the parameters of one module that hold all experts at once."""
    cubes = [weight for weight in weights if len(weight.shape) > 2]
    if any(weight.shape[0] == n_experts for weight in cubes):
        return cubes  # all of them: some models leave room for experts without weights in one only
    sheets = [weight for weight in weights if len(weight.shape) == 2 and "expert" in weight.path]
    return [weight for weight in sheets if weight.shape[0] > n_experts and weight.shape[0] % n_experts == 0]


def _weights(path: str, module: nn.Module) -> Iterator[Weight]:
    """The parameters that ``module`` itself holds, quantised or not."""
    for name, parameter in module.named_parameters(recurse=False):
        state = _state(parameter, parameter)
        shape = tuple(parameter.shape if state is None else state.shape)
        yield Weight(module, path, name, shape, parameter.nbytes + _scale_bytes(state))
    if parametrize.is_parametrized(module):
        for name, parametrization in module.parametrizations.items():
            packed = parametrization.original
            state = _state(parametrization[0], packed)
            shape = tuple(packed.shape if state is None else state.shape)
            yield Weight(module, path, name, shape, packed.nbytes + _scale_bytes(state))


def _state(holder: object, stored: torch.Tensor) -> State | None:
    """None for a weight that is not packed."""
    if stored.dtype != torch.uint8:
        return getattr(holder, "quant_state", None)
    return needed(holder, "quant_state", "bitsandbytes", "knows the shape of a packed weight")


def _scale_bytes(state: State | None) -> int:
    """Bytes of all that stands beside the packed weights: scales, their table, and the scales' own."""
    if state is None:
        return 0
    tensors = [value for value in (state.absmax, state.code, state.offset) if value is not None]
    return sum(int(tensor.nbytes) for tensor in tensors) + _scale_bytes(state.state2)


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _check_unquantised(config: Json, folder: Path) -> None:
    stored = config.get("quantization_config") or config.get("quantization")
    if stored:
        kind = stored.get("quant_method") if isinstance(stored, dict) else None
        raise ModelLoadError(
            f"{folder} is quantised already{f' ({kind})' if kind else ''} and cannot be quantised to 4 bit again; "
            "leave --4bit out, or give the unquantised model."
        )


def _import_extras() -> None:
    # On some CPUs it recommends a package that nothing here would use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        for name in ("accelerate", "bitsandbytes"):
            import_module(name)
    except ImportError as error:
        raise MissingExtraError("4-bit loading", "torch") from error


def empty_model(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> nn.Module:
    """The model with parameters that hold no data, and buffers that do: no checkpoint stores all of those."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with init_empty_weights(include_buffers=False):
            return auto_class(config).from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except (ImportError, *FOREIGN) as error:
        message = " ".join(str(error).split()).rstrip(".")
        if "trust_remote_code" in message and not trust_remote_code:
            raise ModelLoadError(
                f"{folder} runs its own Python code; read it, and if you trust it pass --trust-remote-code."
            ) from error
        raise ModelLoadError(f"{folder}: transformers cannot build this model ({message}).") from error


def linear_weights(model: nn.Module, family: Family) -> list[Weight]:
    """The weights of the linear layers inside blocks, routers left out.

    Whatever gives a number for each expert is a router, also with others beside them (zero or copy experts), and what
    gives just one gates a shared expert: layers of 2 E outputs and fewer stay as they are.
    """
    n_experts = count(model.config.to_dict(), family.n_experts)
    return [
        weight
        for path, module in model.named_modules()
        if type(module) is nn.Linear and layer_of(path) is not None
        if module.out_features > 2 * n_experts and "router" not in path
        for weight in _weights(path, module)
        if weight.name == "weight"
    ]


def _quantise(value: torch.Tensor, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, State]:
    """(packed, state) of a weight, as bitsandbytes makes them of the whole, but a slice at a time."""
    from bitsandbytes.functional import QuantState, quantize_4bit

    flat = value.reshape(-1)
    packed = torch.empty((flat.numel() + 1) // 2, 1, dtype=torch.uint8, device=device)
    scales = torch.empty(-(-flat.numel() // _BLOCK), dtype=torch.float32, device=device)
    for start in range(0, flat.numel(), _SLICE):  # a slice holds whole blocks
        part = flat[start : start + _SLICE].to(device, dtype)
        data, state = quantize_4bit(part, blocksize=_BLOCK, quant_type=_KIND)
        packed[start // 2 :][: len(data)] = data
        scales[start // _BLOCK :][: len(state.absmax)] = state.absmax
    return packed, QuantState(
        scales, shape=value.shape, code=state.code, blocksize=_BLOCK, quant_type=_KIND, dtype=dtype
    )


def _fill_in_4bit(weight: Weight, value: torch.Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Make a parameter one that is kept in 4 bit and dequantised when it is used.

    Linear layers, too: some models use their weights without calling them, and bitsandbytes' own ``Linear4bit``
    computes in bfloat16 on some CPUs, whatever it was told.
    """
    from bitsandbytes.nn.parametrize import replace_parameter_4bit_prequantized

    packed, state = _quantise(value, device, dtype)
    setattr(weight.module, weight.name, nn.Parameter(packed, requires_grad=False))
    replace_parameter_4bit_prequantized(weight.module, weight.name, state.as_dict(packed=True), device)


def _fill(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in dict(module.named_buffers(recurse=False)):
        setattr(module, leaf, value)
    else:
        setattr(module, leaf, nn.Parameter(value, requires_grad=False))


def _finish(model: nn.Module, folder: Path, device: torch.device) -> None:
    """Tie what is shared, move buffers, and leave the model as ``from_pretrained`` would."""
    from transformers import GenerationConfig

    empty = {name for name, value in model.named_parameters(remove_duplicate=False) if value.is_meta}
    model.tie_weights(missing_keys=empty, recompute_mapping=False)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    if empty := {name for name, value in model.named_parameters() if value.is_meta}:
        raise ModelLoadError(f"{folder} does not fill {sorted(empty)[0]!r} ({len(empty)} in all); fetch it again.")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.eval()


def _cache_in_blocks(model: nn.Module, experts: Iterable[Weight]) -> None:
    """Dequantise once per forward of a block also where the block, not the module that holds them, uses the weights."""
    for path in {weight.path.rpartition(".")[0] for weight in experts if parametrize.is_parametrized(weight.module)}:
        _cache_while_running(model.get_submodule(path))


def _cache_while_running(block: nn.Module) -> None:
    running = []

    def enter(*_: object) -> None:
        running.append(parametrize.cached())
        running[-1].__enter__()

    def leave(*_: object) -> None:
        if running:
            running.pop().__exit__(None, None, None)

    block.register_forward_pre_hook(enter)
    block.register_forward_hook(leave, always_call=True)
