"""How likely a model finds tokens, from its logits: written once, for every library that gives them."""

from __future__ import annotations

from typing import NamedTuple

from array_api_compat import array_namespace

from ..routing.record import Array
from ..types import HostArray


class Places(NamedTuple):
    """Tokens to be predicted, [T] each: ``token`` from what stands at ``position`` of ``row``, and before it."""

    row: HostArray
    position: HostArray
    token: HostArray


BLOCK = 256
"""Numbers added at a time: MLX on a CPU adds a row one by one, and ln p of 4,096 tokens was then up to 3e-5 off."""


def log_likelihoods(logits: Array, tokens: Array) -> tuple[Array, Array]:
    """(ln p [T] in float32, whether it is the likeliest [T]) of each of ``tokens`` [T] under logits [T, V]."""
    xp = array_namespace(logits)
    z = xp.astype(logits, xp.float32)
    shifted = z - xp.max(z, axis=-1, keepdims=True)  # first, or a large z would lose its digits
    tokens = xp.astype(tokens, xp.int64)  # torch takes along no other
    chosen = xp.take_along_axis(shifted, tokens[:, None], axis=-1)[:, 0]
    return chosen - xp.log(_sums(xp.exp(shifted))), xp.argmax(z, axis=-1) == tokens


def _sums(x: Array) -> Array:
    """Of each row of x [T, V]."""
    xp = array_namespace(x)
    rows, whole = x.shape[0], x.shape[1] // BLOCK * BLOCK
    blocks = xp.reshape(x[:, :whole], (rows, whole // BLOCK, BLOCK))
    return xp.sum(xp.sum(blocks, axis=-1), axis=-1) + xp.sum(x[:, whole:], axis=-1)
