"""How likely a model finds tokens, from its logits: written once, for every library that gives them."""

from __future__ import annotations

from typing import NamedTuple

from array_api_compat import array_namespace

from ..routing.record import Array
from ..routing.tally import log_softmax
from ..types import HostArray


class Places(NamedTuple):
    """Tokens to be predicted, [T] each: ``token`` from what stands at ``position`` of ``row``, and before it."""

    row: HostArray
    position: HostArray
    token: HostArray


def log_likelihoods(logits: Array, tokens: Array) -> tuple[Array, Array]:
    """(ln p [T] in float32, whether it is the likeliest [T]) of each of ``tokens`` [T] under logits [T, V]."""
    xp = array_namespace(logits)
    log_p, _, _ = log_softmax(xp.astype(logits, xp.float32))
    tokens = xp.astype(tokens, xp.int64)  # torch takes along no other
    return xp.take_along_axis(log_p, tokens[:, None], axis=-1)[:, 0], xp.argmax(log_p, axis=-1) == tokens
