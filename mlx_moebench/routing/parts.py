"""How much of a data set was measured: the ``parts`` among the facts of a source, one for each run over it.

A part says which shard it is (``i/n``, or None for all rows), its ``documents``, ``sequences`` and ``batches``, how
many of the sequences and batches are done, and the ``batch_size``. Batches run in a fixed order, so that their number
says which ones are done. ``documents`` of the source itself are those of all shards together.
"""

from __future__ import annotations

from ..types import Facts, Json

ADDITIVE = ("truncated_sequences",)
"""Facts that count something of what was measured."""


def join(a: Facts, b: Facts) -> Json:
    """Facts about one data set of which two statistics hold different rows: parts are listed, counts add up."""
    joined = {**b, **a}
    joined |= {key: a.get(key, 0) + b.get(key, 0) for key in ADDITIVE if key in joined}
    if "parts" in joined:
        joined["parts"] = sorted([*a.get("parts", ()), *b.get("parts", ())], key=_place)
    return joined


def completeness(facts: Facts) -> dict[str, object]:
    """``complete`` and ``shards``: null, or those present where some are missing. Empty when no run was planned."""
    parts = facts.get("parts")
    if not parts:
        return {}
    whole = sum(part["documents"] for part in parts) == facts["documents"]
    done = all(part["batches_done"] == part["batches"] for part in parts)
    return {"complete": whole and done, "shards": None if whole else [part["shard"] or "1/1" for part in parts]}


def _place(part: Facts) -> tuple[int, int]:
    i, n = (part["shard"] or "1/1").split("/")
    return int(n), int(i)
