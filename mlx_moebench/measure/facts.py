"""What reports say of a loaded model, and whether a tokenizer is its own. Needs no MLX."""

from __future__ import annotations

from typing import Any

from ..errors import DataError
from ..families.settings import VOCABULARY, value_of
from ..types import Facts, Json


def loaded_facts(checkpoint: Any) -> Json:
    """What a report says of how a checkpoint was loaded, by whatever backend."""
    return {
        "id": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": checkpoint.dtype,
        "weight_bits": checkpoint.weight_bits,
        "fingerprint": checkpoint.fingerprint,
        "quantised_on_load": checkpoint.quantised_on_load,
        "adapter": checkpoint.adapter,
        **({"routers_from": checkpoint.routers_from} if checkpoint.routers_from else {}),
    }


def check_vocabulary(config: Facts, largest: int) -> None:
    """Raise DataError if the model of this config has no token of id ``largest``.

    MLX looks up an id that the model lacks without a word, in memory that is not the model's.
    """
    vocabulary = value_of(config, VOCABULARY)
    if vocabulary is not None and largest >= vocabulary:
        raise DataError(
            f"The tokenizer gives id {largest}, but the model knows {vocabulary} ids: the tokenizer is another model's."
        )
