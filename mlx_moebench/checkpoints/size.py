"""How large a model is: parameters by what they do, and the bytes that hold them, from shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from ..errors import ModelLoadError
from ..families import Family
from ..families.base import RouterForm
from ..routing.record import RouterSpec
from .shapes import BLOCK, EMBEDDING, gates_of
from .weights import Weights

Role = Literal["experts", "shared_experts", "routers", "attention", "dense", "norms", "embedding", "head", "other"]

ROLES: tuple[Role, ...] = get_args(Role)

_HEAD = re.compile(r"(^|\.)(lm_head|output|embed_out|head)\.")
_NORM = re.compile(r"\w*norm\w*|ln(_\w+|\d*)")
_EXPERTS = re.compile(r"(^|\.)experts\.")
_SHARED = re.compile(r"shared")
_DENSE = re.compile(r"mlp|feed_forward|ffn|fc\d|gate_proj|up_proj|down_proj")
_MIXING = re.compile(r"attn|attention|mixer|mamba|conv|delta|[qkvo]_proj|qkv|rotary")

GROUPS = (64, 32)
"""Weights that share a scale in MLX's affine form: 64, or where that does not divide a row 32."""

NF4_BLOCK, NF4_TABLE = 64, 64
"""Weights that share a scale of 4 bytes in NF4, and bytes of the table of 16 values beside each packed weight."""


SLACK = 1.5
"""Of activations, so that they are counted from above: peaks measured were 0.7 to 1.14 of the sum (docs/plan.md)."""


class Part(NamedTuple):
    """A parameter. shape: unpacked. nbytes: as it is held in memory, scales included. share: of it that one token
    uses, K / E for routed experts and 1 for all else. layer: the block that it is in, if any."""

    name: str
    role: Role
    layer: int | None
    shape: tuple[int, ...]
    nbytes: int
    share: float = 1.0

    @property
    def numbers(self) -> int:
        """How many parameters these are."""
        return math.prod(self.shape)

    @property
    def active(self) -> int:
        """How many of them one token uses."""
        return round(self.numbers * self.share)


class Places:
    """Where the routers and experts of a model are, by the dotted paths inside its blocks that its family declares."""

    def __init__(self, specs: Sequence[RouterSpec], forms: Mapping[str, tuple[str, str]]) -> None:
        """forms: {router: (path of the gate, path of the experts)}."""
        self._gates = {(spec.layer, forms[spec.router][0]) for spec in specs}
        self._shares = {spec.layer: (spec.n_experts, spec.top_k / spec.n_experts) for spec in specs}
        self._experts = {(spec.layer, forms[spec.router][1]): spec.top_k / spec.n_experts for spec in specs}

    @classmethod
    def of(cls, family: Family, specs: Sequence[RouterSpec], *, torch: bool = False) -> Places:
        """As mlx-lm's model has them, or transformers'."""
        return cls(specs, {form.router: _paths(form, torch) for form in family.routers})

    def role(self, name: str, shape: Sequence[int] = ()) -> tuple[Role, int | None, float]:
        """(what the parameter of this name does, its block, the share of it that one token uses).

        shape: of one in three dimensions, the first of which is E, as transformers keeps experts beside a router.
        """
        match = BLOCK.search(name)
        if match is None:
            return _outside(name), None, 1.0
        layer, inside = int(match[1]), name[match.end() :]
        if any(layer == at and _is_in(inside, path) for at, path in self._gates):
            return "routers", layer, 1.0
        for (at, path), share in self._experts.items():
            if layer == at and _is_in(inside, path):
                return "experts", layer, share
        experts, share = self._shares.get(layer, (0, 1.0))
        if len(shape) > 2 and shape[0] == experts and "conv" not in inside:
            return "experts", layer, share
        return _inside(inside), layer, 1.0


def _paths(form: RouterForm, torch: bool) -> tuple[str, str]:
    return (form.torch.gate, form.torch.experts) if torch and form.torch else (form.gate, form.experts)


def _is_in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _outside(name: str) -> Role:
    if EMBEDDING.fullmatch(name) or "embed" in name:
        return "embedding"
    if _HEAD.search(name):
        return "head"
    return "norms" if _is_norm(name) else "other"


def _is_norm(name: str) -> bool:
    """Whether the innermost module, or the parameter itself, is a normalisation."""
    return any(_NORM.fullmatch(part) for part in name.split(".")[-2:])


def _inside(name: str) -> Role:
    if _is_norm(name):
        return "norms"
    roles: tuple[tuple[re.Pattern[str], Role], ...] = (
        (_SHARED, "shared_experts"),
        (_MIXING, "attention"),
        (_DENSE, "dense"),
    )
    return next((role for pattern, role in roles if pattern.search(name)), "other")


def header_parts(family: Family, specs: Sequence[RouterSpec], weights: Weights, plain: int) -> list[Part]:
    """The parameters that the weight files hold, under their own names, ``plain`` bytes for each number.

    For a machine without a library that could build the model. Raises ModelLoadError for packed weights, of which
    headers do not say how many parameters they are.
    """
    places, gates = Places.of(family, specs), gates_of(family)
    shares = {spec.layer: spec.top_k / spec.n_experts for spec in specs}
    parts = []
    for name, tensor in weights.tensors.items():
        if not tensor.dtype.startswith(("F16", "BF16", "F32", "F64")):
            raise ModelLoadError(
                f"{name!r} is stored as {tensor.dtype}, and without MLX or transformers nothing says what it unpacks "
                'to; install one of them: pip install "mlx-moebench[torch]".'
            )
        role, layer, share = places.role(name)
        if layer in shares and role != "routers":
            if name.endswith(gates):
                role = "routers"
            elif _EXPERTS.search(name) and role != "shared_experts":
                role, share = "experts", shares[layer]
        parts.append(Part(name, role, layer, tensor.shape, math.prod(tensor.shape) * plain, share))
    return parts


def packed_as(parts: Iterable[Part], bits: int, router_bits: int, plain: int) -> list[Part]:
    """``parts`` in MLX's affine form, as `models.precision` packs them where a model leaves no weight out.

    router_bits: 16 leaves routers whole. plain: bytes of a number that is not packed.
    """
    held_as = []
    for part in parts:
        own = router_bits if part.role == "routers" else bits
        whole = own == 16 or part.role in ("norms", "other")
        nbytes = part.numbers * plain if whole else affine_bytes(part.shape, own, plain)
        held_as.append(part._replace(nbytes=nbytes))
    return held_as


def total(parts: Iterable[Part]) -> int:
    """Parameters of all of them."""
    return sum(part.numbers for part in parts)


def active(parts: Iterable[Part]) -> int:
    """Parameters that one token uses: K of E experts, all else whole, the embedding included."""
    return sum(part.active for part in parts)


def held(parts: Iterable[Part]) -> int:
    """Bytes of all of them in memory."""
    return sum(part.nbytes for part in parts)


def by_role(parts: Iterable[Part]) -> dict[Role, int]:
    """Parameters of each role that there is, in the order of `ROLES`."""
    sums = dict.fromkeys(ROLES, 0)
    for part in parts:
        sums[part.role] += part.numbers
    return {role: number for role, number in sums.items() if number}


def by_layer(parts: Iterable[Part]) -> dict[int, list[Part]]:
    """The parameters of each block, first block first."""
    blocks: dict[int, list[Part]] = {}
    for part in parts:
        if part.layer is not None:
            blocks.setdefault(part.layer, []).append(part)
    return dict(sorted(blocks.items()))


def widest(parts: Iterable[Part]) -> int:
    """Numbers that go into and come out of the matrices of one block for one token, K times for experts; of the block
    where they are most."""
    return max((sum(_width(part) for part in block) for block in by_layer(parts).values()), default=0)


def _width(part: Part) -> int:
    if len(part.shape) < 2:
        return 0
    used = round(part.share * part.shape[0]) if part.role == "experts" and len(part.shape) > 2 else 1
    return max(1, used) * (part.shape[-1] + part.shape[-2])


def affine_bytes(shape: Sequence[int], bits: int, plain: int = 2) -> int:
    """Bytes of a weight in MLX's affine form: ``bits`` each, and a scale and a bias of ``plain`` bytes a group.

    Whole where it has one dimension, or where no group of `GROUPS` divides its rows.

    >>> affine_bytes((2, 128), 4)  # 256 halves of a byte, and 4 groups with 4 bytes each
    144
    """
    numbers = math.prod(shape)
    group = next((size for size in GROUPS if len(shape) > 1 and shape[-1] % size == 0), None)
    return numbers * plain if group is None else numbers * bits // 8 + numbers // group * 2 * plain


def nf4_bytes(shape: Sequence[int]) -> int:
    """Bytes of a weight in bitsandbytes' NF4: 4 bits each, a float32 scale for each 64, and the table of 16 values.

    >>> nf4_bytes((2, 128))
    208
    """
    numbers = math.prod(shape)
    return -(-numbers // 2) + 4 * -(-numbers // NF4_BLOCK) + NF4_TABLE
