"""What the routers of transformers return, read as (logits, indices, weights)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from mlx_moebench.errors import RenamedError, RoutingError, UnsupportedModelError

RouterOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(logits [T, R], indices [T, K], weights [T, K])."""


def _logits_weights_indices(gate: nn.Module, output: object) -> RouterOutput:
    """Routers that return (logits, weights, indices), flattened over tokens."""
    if not isinstance(output, tuple) or len(output) != 3:
        raise UnsupportedModelError(
            "This transformers has routers that return no choice of experts: update it, pip install -U transformers."
        )
    logits, weights, indices = output
    return logits, indices, weights


def _sorted_by_expert(gate: nn.Module, output: object) -> RouterOutput:
    """Routers that return selections sorted by expert: which each is, its weight, and how many each expert got."""
    if not isinstance(output, tuple) or len(output) != 5:
        raise RenamedError("transformers", f"five outputs of {type(gate).__name__}", "the hooks read")
    order, _, sorted_weights, counts, logits = output
    n_experts, top_k = logits.shape[-1], len(order) // len(logits)
    sizes = torch.as_tensor(counts, device=order.device)
    experts = torch.repeat_interleave(torch.arange(n_experts, device=order.device), sizes)
    indices, weights = torch.empty_like(order), torch.empty_like(sorted_weights)
    indices[order], weights[order] = experts.to(order.dtype), sorted_weights
    return logits, indices.view(-1, top_k), weights.view(-1, top_k)


def _scores_logits(gate: nn.Module, output: object) -> RouterOutput:
    """Routers that return (scores, logits), the scores 0 where an expert was not chosen."""
    if not isinstance(output, tuple) or len(output) != 2:
        raise RenamedError("transformers", f"two outputs of {type(gate).__name__}", "the hooks read")
    scores, logits = output
    chosen = scores != 0
    top_k = chosen.sum(dim=-1)
    if not bool((top_k == top_k[:1]).all()):
        # A sigmoid below the smallest number of its dtype: such an expert gets nothing, and cannot be told from others.
        raise RoutingError(
            f"Some scores of {type(gate).__name__} are 0 for experts that it chose; load the model in float32."
        )
    indices = chosen.nonzero()[:, 1].view(len(scores), -1)
    return logits, indices, scores.gather(1, indices)


READINGS: dict[str, Callable[[nn.Module, object], RouterOutput]] = {
    "logits_weights_indices": _logits_weights_indices,
    "sorted_by_expert": _sorted_by_expert,
    "scores_logits": _scores_logits,
}
"""How to read the output of a router, by `InTransformers.output`; ``logits`` alone need `at_experts`, too."""

LOGITS = "logits"


def logits_of(gate: nn.Module, output: object) -> torch.Tensor:
    """The logits [T, R] of routers that return them alone."""
    if not isinstance(output, torch.Tensor):
        raise RenamedError("transformers", f"logits alone from {type(gate).__name__}", "the hooks read")
    return output.reshape(-1, output.shape[-1])


def at_experts(
    experts: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices [T, K], weights [T, K]) that experts are called with: after the hidden states, in this order."""
    found = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
    if len(found) != 3 or found[1].is_floating_point() or found[1].shape != found[2].shape:
        what = f"hidden states, indices and weights as the arguments of {type(experts).__name__}.forward"
        raise RenamedError("transformers", what, "the hooks read")
    _, indices, weights = found
    return indices.reshape(-1, indices.shape[-1]), weights.reshape(-1, weights.shape[-1])
