"""Which modules get LoRA: what mlx-lm's settings ask for, and every gate that a loss is to change."""

from __future__ import annotations

import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from ..errors import TrainingError
from ..families import Family, family_for
from ..families.base import module_at
from ..instrument import config_of
from ..routing.record import RouterSpec
from ..types import Json

_LINEAR = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear, nn.Embedding, nn.QuantizedEmbedding)


def lora_keys(model: nn.Module, num_layers: int, keys: list[str] | None, routers: list[RouterSpec]) -> list[str]:
    """``keys`` for mlx-lm's ``lora_parameters`` that reach all modules asked for, and the gates of all ``routers``.

    num_layers: the last blocks to convert, 0 or less for all. keys: names inside a block, such as ``mlp.gate``; None,
    as in mlx-lm, is every linear layer. mlx-lm looks up a key inside those blocks and also in the whole model, which
    is how a gate in an earlier block is named. Raises TrainingError where a key names nothing.
    """
    family, blocks = family_for(config_of(model)), model.layers[-max(num_layers, 0) :]
    if keys is None:
        keys = [key for key in _adaptable(blocks) if key not in family.uncalled]
    else:
        known = {path for module in (*blocks, model) for path, _ in module.named_modules()}
        if missing := [key for key in keys if key not in known]:
            raise TrainingError(
                f"lora_parameters.keys names {missing[0]!r}, which no block has; linear layers of a block are "
                f"{', '.join(_adaptable(model.layers[-1:]))}."
            )
    first = len(model.layers) - len(blocks)
    paths = {id(module): path for path, module in model.named_modules()}
    gates = []
    for spec in routers:
        gate = family.form(spec.router).gate
        path = f"{paths[id(model.layers[spec.layer])]}.{gate}"
        if path not in keys and (spec.layer < first or gate not in keys):
            gates.append(path)
    return [*keys, *gates]


def check_gates(family: Family, adapters: bool) -> None:
    """Raises TrainingError where a training cannot see or change the routers.

    adapters: a routing loss is to change them, through LoRA or DoRA.
    """
    if family.untrainable:
        raise TrainingError(f"A {family.name!r} model has no gradient: {family.untrainable}.")
    if any(form.one_by_one for form in family.routers):
        raise TrainingError(
            f"A {family.name!r} model does not say in training which expert a token goes to, so its routing cannot be "
            "followed; train it with mlx_lm.lora, and measure the result."
        )
    if adapters and any(form.seam != "linear" for form in family.routers):
        raise TrainingError(
            f"The routers of a {family.name!r} model hold their weights outside of a linear layer, where LoRA cannot "
            "adapt them, so a routing loss would change nothing: use --fine-tune-type full, or leave the loss out."
        )


def _adaptable(blocks: list[nn.Module]) -> list[str]:
    """The linear layers of these blocks by their names inside a block, but for names that are another kind's in one."""
    modules = [named for block in blocks for named in block.named_modules()]
    others = {path for path, module in modules if "weight" in module and not _can_adapt(module)}
    return sorted({path for path, module in modules if _can_adapt(module)} - others)


def add_lora(model: nn.Module, num_layers: int, parameters: Json, dora: bool) -> None:
    """Put the adapters of mlx-lm on ``model``, whose other weights stay frozen."""
    try:
        linear_to_lora_layers(model, num_layers, parameters, use_dora=dora)
    except (ValueError, KeyError) as error:
        kind = "DoRA" if dora else "LoRA"
        raise TrainingError(
            f"{kind} cannot be put on this model ({error.args[0].rstrip('.')}); name linear layers in "
            "lora_parameters.keys, such as [self_attn.q_proj, mlp.gate]."
        ) from error


def unfreeze(model: nn.Module, num_layers: int, routers: list[RouterSpec]) -> None:
    """Train all weights of the last ``num_layers`` blocks, and the gates of all ``routers``.

    Raises TrainingError for quantised weights, which have no gradient.
    """
    family = family_for(config_of(model))
    gates = [module_at(model.layers[spec.layer], family.form(spec.router).gate) for spec in routers]
    for module in (*model.layers[-max(num_layers, 0) :], *gates):
        if any(isinstance(part, nn.QuantizedLinear | QuantizedSwitchLinear) for part in module.modules()):
            raise TrainingError("Quantised weights cannot be trained in full; use --fine-tune-type lora, or no --bits.")
        module.unfreeze()


def _can_adapt(module: nn.Module) -> bool:
    return hasattr(module, "to_lora") or isinstance(module, _LINEAR)
