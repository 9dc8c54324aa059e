"""Whether weights have the shapes that config.json implies, by their headers: before a library makes room for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ModelLoadError
from ..families import Family
from ..families.layers import BLOCKS
from ..families.settings import VOCABULARY, Key, Keys, names_of, value_of
from ..types import Json
from .rules import whole_settings
from .weights import Tensor, Weights

BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.")
_FUSED = re.compile(r".*\b(experts|switch_mlp)\b.*")
EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight")
_OTHER = re.compile(r"vision|visual|audio|speech|mtp|nextn|ngram|per_layer|shared_expert|encoder|draft")
"""Parts of a checkpoint that are not the language model's own, and have sizes of their own."""

WIDTH = Key(("hidden_size", "d_model", "model_dim", "n_embd"), None)

_FEW_BLOCKS, _LEAST = 1024, 2**20
"""Blocks, and a size, that are never too large: of a part, as a tower of pictures, that a checkpoint may leave out."""

_PACKED = 16
"""How many numbers a stored one holds at most, or how many matrices of a block lie in one."""


class _Size(NamedTuple):
    """A dimension that a config implies: the key that says so, and its value."""

    key: str
    value: int


def check_shapes(family: Family, config: Json, weights: Weights) -> None:
    """Raises ModelLoadError where the headers contradict the config: tensor, shape, and what the config implies.

    Vocabulary, width, blocks, experts and rows of the routers are compared, and no size may be beyond what the
    weights could hold. What else there is the libraries compare, which know every tensor.
    """
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not _OTHER.search(name)}
    _check_blocks(config, tensors)
    for name, tensor, index, size in _implied(family, config, tensors):
        if tensor.shape[index] != size.value:
            implied = ["..."] * len(tensor.shape)
            implied[index] = str(size.value)
            raise ModelLoadError(
                f"{tensor.file.name} has {name!r} of the shape {list(tensor.shape)}, and {size.key} = {size.value} of "
                f"config.json implies [{', '.join(implied)}]: config.json and weights do not fit; fetch both from one "
                "place."
            )
    for block, number in _experts(tensors).items():  # some keep those of pictures behind them, as many again
        wanted = _n_experts(family, config)
        if wanted is not None and number % wanted.value and number != _with_extra(family, config, wanted).value:
            raise ModelLoadError(
                f"The weights hold {number} experts in {block!r}, and config.json says {wanted.key} = {wanted.value}: "
                "they do not fit; fetch both from one place."
            )
    largest = max((max(tensor.shape, default=0) for tensor in weights.tensors.values()), default=0)
    for key, value in whole_settings(config):
        blocks = key.rpartition(".")[2] in (*BLOCKS, "depth")
        if blocks and value > max(_FEW_BLOCKS, len(weights.tensors)):
            raise ModelLoadError(
                f"config.json has {key} = {value:,}, and there are {len(weights.tensors):,} weights in all: they do "
                "not fit; fetch both from one place."
            )
        if value > max(_LEAST, _PACKED * largest):
            raise ModelLoadError(
                f"config.json has {key} = {value:,}, and no dimension of the weights is larger than "
                f"{largest:,}: they do not fit; fetch both from one place."
            )


def _check_blocks(config: Json, tensors: dict[str, Tensor]) -> None:
    there = max((int(match[1]) for name in tensors if (match := BLOCK.search(name))), default=-1) + 1
    size = _size(config, BLOCKS)
    if size is not None and there and size.value > there:
        raise ModelLoadError(
            f"config.json has {size.key} = {size.value:,}, and the weights have {there} blocks: they do not fit; fetch "
            "the missing weights, or config.json, again."
        )


def _implied(family: Family, config: Json, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, int, _Size]]:
    """(tensor's name, the tensor, which dimension, what it must be)."""
    vocabulary, width, experts = _size(config, VOCABULARY.keys), _size(config, WIDTH.keys), _n_experts(family, config)
    gates = gates_of(family)
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2 and EMBEDDING.fullmatch(name):
            if vocabulary is not None:
                yield name, tensor, 0, vocabulary
            if width is not None and not _is_packed(name, tensor, tensors):
                yield name, tensor, 1, width
        elif experts is not None and len(tensor.shape) > 1:
            if len(tensor.shape) == 2 and name.endswith(gates):
                yield name, tensor, 0, _with_extra(family, config, experts)
            elif len(tensor.shape) == 3 and _FUSED.fullmatch(name) and not _EXPERT.match(name):
                yield name, tensor, 0, experts


def gates_of(family: Family) -> tuple[str, ...]:
    """How the names of routers' matrices end, in mlx-lm and in transformers; empty where routers differ in E."""
    if len(family.routers) != 1:
        return ()
    (form,) = family.routers
    places = (form.gate, *((form.torch.gate,) if form.torch else ()))
    return tuple(f".{place}.weight" for place in places)


def _n_experts(family: Family, config: Json) -> _Size | None:
    return _size(config, family.n_experts) if len(family.routers) == 1 and not family.routers[0].n_experts else None


def _with_extra(family: Family, config: Json, experts: _Size) -> _Size:
    extra = family.routers[0].extra
    more = 0 if extra is None else value_of(config, extra)
    return experts._replace(value=experts.value + more) if type(more) is int else experts


def _experts(tensors: dict[str, Tensor]) -> dict[str, int]:
    """How many experts each block has, where they are stored one by one."""
    last: dict[str, int] = {}
    for name in tensors:
        if match := _EXPERT.match(name):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]) + 1)
    return last


def _size(config: Json, keys: Keys) -> _Size | None:
    """A setting that is a plain size; None where it is left out, or anything else."""
    for key in names_of(keys):
        value = value_of(config, Key(key, None))
        if value is not None:
            return _Size(key, value) if type(value) is int and value > 0 else None
    return None


def _is_packed(name: str, tensor: Tensor, tensors: dict[str, Tensor]) -> bool:
    return (
        not tensor.dtype.startswith(("F16", "BF16", "F32", "F64")) or f"{name.removesuffix('weight')}scales" in tensors
    )
