"""What reports say of a loaded model, and whether a tokenizer is its own."""

from __future__ import annotations

from typing import Any

from ..errors import DataError
from ..instrument import config_of, model_facts
from ..models import Checkpoint


def checkpoint_facts(model: Any, checkpoint: Any = None) -> dict[str, Any]:
    """The ``model`` section of a report; an object that is no `Checkpoint` adds nothing to what the model shows."""
    facts = model_facts(model)
    if isinstance(checkpoint, Checkpoint):
        facts |= {
            "id": checkpoint.name,
            "revision": checkpoint.revision,
            "dtype": checkpoint.dtype,
            "weight_bits": checkpoint.weight_bits,
            "fingerprint": checkpoint.fingerprint,
            "quantised_on_load": checkpoint.quantised_on_load,
            "adapter": checkpoint.adapter,
        }
    return facts


def check_vocabulary(model: Any, largest: int) -> None:
    """Raise DataError if the model has no token of id ``largest``.

    MLX looks up an id that the model lacks without a word, in memory that is not the model's.
    """
    vocabulary = config_of(model).get("vocab_size")
    if vocabulary is not None and largest >= vocabulary:
        raise DataError(
            f"The tokenizer gives id {largest}, but the model knows {vocabulary} ids: the tokenizer is another model's."
        )
