"""Which tokens each expert takes, from a trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..data.trace import Shard, Trace
from ..errors import TraceError
from ..routing.comparison.differences import benjamini_hochberg
from ..routing.record import Phase, RouterSpec
from ..routing.repeats import repeated_openings
from ..routing.vocabulary import MIN_COUNT, VocabularySpecialisation, vocabulary_specialisation
from ..types import HostArray, Json

Of = Literal["input", "next", "predicted"]
"""The id that a token is counted under: its own, that of the token after it, or the one that the model expects."""

WHY_NO_INTERVAL = (
    "resampling sequences changes how often each id occurs, and with it the largest of E shares; compare with the null"
)


def vocabulary_report(
    path: str | Path,
    of: Of = "input",
    *,
    layers: Sequence[int] = (),
    phase: Phase = "prefill",
    min_count: int = MIN_COUNT,
    permutations: int = 200,
    seed: int = 0,
    top: int = 5,
) -> Json:
    """Vocabulary specialisation of the routers in some layers of a trace, as JSON has it.

    layers: block indices; none means all. top: ids given of each expert, those of which it takes the largest share.
    Tokens that follow the same text as others do, from its beginning, count once: repeated texts, and openings that
    texts share. q_value is Benjamini and Hochberg's over the routers.
    Reads the ids and the experts of the chosen routers into memory, K bytes per token and router (2 K above 256
    experts). Raises `TraceError` for a bad trace, a layer without a router, or predictions that were not kept.
    """
    if of not in get_args(Of):
        raise TraceError(f"Ids are input, next or predicted, not {of!r}.")
    trace = Trace(path)
    specs = _chosen(trace, path, layers)
    if of == "predicted" and not trace.predictions:
        raise TraceError(f"The trace in {path} holds no predictions: make it with analyze --trace-predictions.")
    ids, sequence, experts = _tokens(trace, of, specs, phase)
    repeated = _repeated(trace, phase)
    n_tokens = int((ids >= 0).sum())
    ids[repeated] = -1
    texts = trace.texts()
    routers = []
    for spec in specs:
        result = vocabulary_specialisation(
            ids,
            experts[spec.name],
            sequence,
            spec.n_experts,
            min_count=min_count,
            permutations=permutations,
            seed=seed,
        )
        routers.append(_router(spec, result, texts, top))
    for router, q in zip(routers, benjamini_hochberg([r.get("p_value") for r in routers]), strict=True):
        router |= {} if q is None else {"q_value": q}
    data = trace.manifest["data"]
    return {
        "schema_version": "1",
        "model": trace.manifest["model"],
        "data": {**data, "phase": phase, "complete": trace.complete},
        "settings": {"of": of, "min_count": min_count, "permutations": permutations, "seed": seed},
        "n_tokens": n_tokens,
        "repeated_tokens": n_tokens - int((ids >= 0).sum()),
        "n_sequences": len(np.unique(sequence)),
        "routers": routers,
    }


def _chosen(trace: Trace, path: str | Path, layers: Sequence[int]) -> list[RouterSpec]:
    """The routers in these layers, of all where there are none; raises `TraceError` for a layer without a router."""
    have = sorted({spec.layer for spec in trace.specs})
    if missing := sorted({*layers} - {*have}):
        listed = ", ".join(map(str, have))
        raise TraceError(f"The trace in {path} has no router in layer {missing[0]}; it has layers {listed}.")
    return [spec for spec in trace.specs if spec.layer in layers or not layers]


def tokens_of(
    trace: Trace, specs: Sequence[RouterSpec], phase: Phase
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, HostArray]]:
    """(id [T], sequence [T], experts [T, K] of each router) of a whole trace; the id of a token that repeats the
    opening of another text is -1."""
    ids, sequence, experts = _tokens(trace, "input", specs, phase)
    ids[_repeated(trace, phase)] = -1
    return ids, sequence, experts


def _tokens(
    trace: Trace, of: Of, specs: Sequence[RouterSpec], phase: Phase
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, HostArray]]:
    """(id or -1 [T], sequence [T], experts [T, K] of each router) of a whole trace."""
    ids: list[HostArray] = [np.zeros(0, np.int64)]
    sequences: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    experts: dict[str, list[HostArray]] = {spec.name: [np.zeros((0, spec.top_k), np.uint8)] for spec in specs}
    before = 0
    for shard in trace.shards(phase):
        ids.append(_ids(shard, of))
        sequences.append(shard.sequence + before)
        before += shard.n_sequences
        for name, kept in experts.items():
            kept.append(shard.arrays[f"{name}.experts"])
    return (
        np.concatenate(ids),
        np.concatenate(sequences),
        {name: np.concatenate(kept) for name, kept in experts.items()},
    )


def _repeated(trace: Trace, phase: Phase) -> npt.NDArray[np.bool_]:
    """[T] whether a token and all before it, prompt included, stand at the beginning of another sequence as well."""
    prompts: dict[tuple[int, int], HostArray] = {}
    if phase == "decode":
        for shard in trace.shards("prefill"):
            prompts |= _parts(shard)
    texts, lengths = [], []
    for shard in trace.shards(phase):
        for place, ids in _parts(shard).items():
            texts.append(np.concatenate([prompts.get(place, ids[:0]), ids]))
            lengths.append(len(ids))
    sizes = np.array(lengths, dtype=np.int64)
    before = np.array([len(text) for text in texts], dtype=np.int64) - sizes
    shared = np.maximum(repeated_openings(texts) - before, 0)
    inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return inside < np.repeat(shared, sizes)


def _parts(shard: Shard) -> dict[tuple[int, int], HostArray]:
    """The token ids of each sequence, in order, by row and window."""
    places = zip(shard.arrays["sequence.row"].tolist(), shard.arrays["sequence.window"].tolist(), strict=True)
    return dict(zip(places, np.split(shard.arrays["token.id"], np.cumsum(shard.lengths)[:-1]), strict=True))


def _ids(shard: Shard, of: Of) -> npt.NDArray[np.int64]:
    if of == "predicted":
        return shard.arrays["token.predicted"].astype(np.int64)
    ids = shard.arrays["token.id"].astype(np.int64)
    if of == "input":
        return ids
    following = np.full_like(ids, -1)  # a sequence's last token has no next one here
    same = shard.sequence[1:] == shard.sequence[:-1]
    following[:-1][same] = ids[1:][same]
    return following


def _router(spec: RouterSpec, result: VocabularySpecialisation, texts: dict[int, str], top: int) -> Json:
    facts = {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k")}
    if not len(result.ids):
        return {**facts, "n_ids": 0, "value": None, "reason": "no id occurs often enough", "experts": []}
    experts = []
    for expert in range(spec.n_experts):
        share = result.shares[:, expert]
        order = np.lexsort((-result.n_tokens, -share))[:top]
        tokens = [
            {
                "id": int(result.ids[x]),
                "text": texts.get(int(result.ids[x]), ""),
                "n_tokens": int(result.n_tokens[x]),
                "share": float(share[x]),
                "null_share": float(result.null_shares[x, expert]),
            }
            for x in order
            if share[x] > 0
        ]
        experts.append({"expert": expert, "tokens": tokens})
    return {
        **facts,
        "n_ids": len(result.ids),
        "value": result.value,
        "low": None,
        "high": None,
        "reason": WHY_NO_INTERVAL,
        "null": {"mean": result.null_mean, "low": result.null_low, "high": result.null_high},
        "p_value": result.p_value,
        "neighbours": result.neighbours,
        "chance": spec.top_k / spec.n_experts,
        "experts": experts,
    }
