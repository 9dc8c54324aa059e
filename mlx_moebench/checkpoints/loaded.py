"""A loaded model and where it came from, whatever library loaded it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..types import Json, Network, Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from.

    name: the hub id, the folder's name, or ``moebench-nano``. revision: the commit, where the folder is a snapshot
    of the hub cache, else the revision asked for. dtype: what the model computes in. weight_bits: bits per weight
    of the experts as they are used (4 for 4-bit, whoever quantised; the mean where they differ), for unquantised ones
    as stored, before any cast (16 for bfloat16). quantised_on_load: whether ``bits`` or ``router_bits`` did it.
    adapter: name, sha256, fine_tune_type and scale of the adapter, None without. routers_from: the name of the model
    whose unquantised routers took the place of quantised ones, None without.
    fingerprint: sha256 over the names and sizes of the weight files and the values of the routers, which tells two
    checkpoints of one name apart without reading gigabytes; before quantising and without the adapter, and the same on
    every backend. backend: ``mlx`` or ``torch``. layers: where its weights are not read yet, what reads them layer by
    layer (`models.streamed.StreamedModel`).
    """

    model: Network
    tokenizer: Tokenizer
    config: Json
    name: str
    path: Path
    revision: str | None
    dtype: str
    weight_bits: float | int
    fingerprint: str
    quantised_on_load: bool = False
    adapter: Json | None = None
    routers_from: str | None = None
    backend: str = "mlx"
    layers: Any = None

    @property
    def origin(self) -> Json:
        """What stays true of the model object, whatever is done to it later: see `pair.model`."""
        facts = {"id": self.name, "revision": self.revision, "weight_bits": self.weight_bits}
        extra = {"adapter": self.adapter, "routers_from": self.routers_from}
        return facts | {name: value for name, value in extra.items() if value}


@dataclass(frozen=True)
class LoadedModel:
    """A model and tokenizer that the caller loaded."""

    model: Network
    tokenizer: Tokenizer
