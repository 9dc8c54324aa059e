"""Routed-expert ids of the rollouts of RL trainers, whose own masks and lengths say which rows are tokens.

Batches, one array each: ``routed_experts`` (veRL, verl/experimental/agent_loop/agent_loop.py) or
``rollout_expert_indices`` (SkyRL, skyrl/train/dataset/preprocess.py), [B, S, layers, K], padded on either side with
zeros, with 0 to K - 1 or with -1, and ``attention_mask`` [B, S]. ``responses`` [B, R], or ``response_mask`` [B, R], are
the last R positions, which tell prompts from what was generated.

Samples, one after the other: ``rollout_routed_experts`` [tokens - 1, layers, K] with ``tokens`` and ``response_length``
(slime, slime/utils/types.py), or ``rollout_expert_indices`` with ``prompt_token_ids`` and ``response_ids`` (what
SkyRL's generators return), in JSON, or in a .npz as ``0.tokens``, ``0.rollout_routed_experts``, ``1.tokens``, ... .

The engines give a row for every token but the last, which no forward pass has seen; trainers pad that one, too, so it
is left out. ``loss_mask`` says what is trained on, not what is text, and is not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import Phase
from . import Importer, NamedFile
from ._arrays import PICKLES, RESPONSES, Array, arrays_of, decoded_npy, integers, responses_of
from ._ids import Reading, Recorded, statistics_of_ids
from ._survey import Choices
from ._valid import check_array

IDS = ("routed_experts", "rollout_expert_indices", "rollout_routed_experts")
MASK = "attention_mask"

CONVERT = (
    "import numpy, torch; from numpy._core import multiarray as m; d = numpy.dtype; torch.serialization."
    "add_safe_globals([m._reconstruct, numpy.ndarray, d, *{{type(d(t)) for t in "
    "('u1', 'u2', 'i2', 'i4', 'i8', 'f4', 'f8')}}]); "
    "numpy.savez({target!r}, **{{f'{{i}}.{{k}}': numpy.asarray(s[k]) for i, s in enumerate(torch.load({path!r}, "
    "map_location='cpu', weights_only=True)['samples']) for k in ('tokens', 'response_length', "
    "'rollout_routed_experts')}})"
)
"""The line that makes a .npz of the pickle of slime's --save-debug-rollout-data."""


def read(
    files: Sequence[NamedFile],
    *,
    experts: int,
    layers: tuple[int, ...] | None = None,
    phase: Phase = "unsplit",
    data: str | None = None,
    cumulative: str | None = None,
    shared_expert: tuple[int, ...] = (),
    skip_padding: bool = False,
    allow: tuple[str, ...] = (),
    model_id: str = "imported rollouts",
    **settings: Any,
) -> RoutingStats:
    """Statistics of rollouts, each of which is a sequence."""
    model = {"id": model_id, "model_type": "unknown", "backend": "rollouts"}
    reading = Reading(experts, layers, phase, choices=Choices(skip_padding, cumulative, shared_expert, allow))
    return statistics_of_ids(files, rollouts_in, reading, data=data, model=model, form="rollouts", **settings)


def rollouts_in(path: Path) -> list[Recorded]:
    """The rollouts of a .npz with a batch or with samples, or of a JSON file of samples."""
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path} is a pickle, which can run code when opened, and is not read: for a batch of another trainer than "
            "slime use numpy.savez where it is made; of slime's, this line of Python makes a .npz: "
            + CONVERT.format(path=str(path), target=str(path.with_suffix(".npz")))
        )
    if path.suffix.lower() in RESPONSES:
        return [_sample(where, number, sample) for number, (where, sample) in enumerate(responses_of(path))]
    arrays = arrays_of(path)
    if samples := _numbered(arrays):
        return [_sample(f"sample {number} of {path}", number, sample) for number, sample in samples.items()]
    return list(_batch(path, arrays))


def _numbered(arrays: Mapping[str, Array]) -> dict[int, dict[str, Any]]:
    """{number: sample} of arrays named ``0.tokens``, ``0.rollout_routed_experts``, ...; none of a batch."""
    samples: dict[int, dict[str, Any]] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"(\d{1,9})\.(\w+)", name):
            samples.setdefault(int(match[1]), {})[match[2]] = array
    return dict(sorted(samples.items()))


def _batch(path: Path, arrays: Mapping[str, Array]) -> Iterator[Recorded]:
    """The rows of a batch, without what its mask masks."""
    ids = next((arrays[name] for name in IDS if name in arrays), None)
    if ids is None or ids.ndim != 4:
        raise DataError(
            f"{path} has no array {' or '.join(IDS[:2])} of the shape [batch, tokens, layers, K], nor samples "
            f"0.{IDS[2]}, ...: save them with the trainer's masks, or import arrays of single sequences with import "
            "vllm."
        )
    if MASK not in arrays:
        raise DataError(
            f"{path} has no {MASK}, which says where the padding of its batch is: save it, too, as in "
            f"numpy.savez(path, {IDS[0]}=..., {MASK}=...)."
        )
    mask = _mask(arrays[MASK], MASK, path)
    if mask.shape != ids.shape[:2]:
        raise DataError(
            f"{path} has a mask of shape {list(mask.shape)} for ids of {list(ids.shape)}: save both of one batch."
        )
    prompts = _prompts(path, arrays, mask)
    for number, (row, there) in enumerate(zip(ids, mask, strict=True)):
        tokens = np.flatnonzero(there)
        if not len(tokens):
            continue
        if len(tokens) != tokens[-1] - tokens[0] + 1:
            raise DataError(
                f"{path} has a mask with holes in row {number}: an {MASK} masks what is before and behind a text."
            )
        prompt = None if prompts is None else min(int(prompts[number]), len(tokens) - 1)
        if len(tokens) > 1:
            yield Recorded(f"row {number} of {path}", row[tokens[0] : tokens[-1]], prompt, number)


def _prompts(path: Path, arrays: Mapping[str, Array], mask: Array) -> Array | None:
    """Tokens of each row's prompt, or None where nothing tells them."""
    length = mask.shape[1]
    if "responses" in arrays and arrays["responses"].ndim == 2:
        start = np.full(len(mask), length - arrays["responses"].shape[1])
    elif "response_mask" in arrays:
        response = _mask(arrays["response_mask"], "response_mask", path)
        if len(response) != len(mask) or response.shape[1] > length:
            raise DataError(
                f"{path} has a response_mask of shape {list(response.shape)} for a mask of {list(mask.shape)}: save "
                "both of one batch."
            )
        first = np.where(response.any(axis=1), response.argmax(axis=1), response.shape[1])
        start = length - response.shape[1] + first
    else:
        return None
    return np.asarray([row[: max(at, 0)].sum() for row, at in zip(mask, start.tolist(), strict=True)])


def _mask(mask: Array, name: str, path: Path) -> Array:
    if mask.ndim != 2 or mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise DataError(f"{path} has an array {name} that is not 0 or 1 for each token [batch, tokens].")
    return mask.astype(bool)


def _sample(where: str, number: int, sample: Mapping[str, Any]) -> Recorded:
    """A sample of slime's, or one that SkyRL's generators return."""
    found = next((sample[name] for name in IDS if sample.get(name) is not None), None)
    if found is None:
        raise DataError(
            f"{where} has no {', '.join(IDS)}: have the trainer keep them (slime: --use-rollout-routing-replay; SkyRL: "
            "generator.inference_engine.enable_return_routed_experts; veRL: rollout.enable_rollout_routing_replay)."
        )
    ids = decoded_npy(found, where) if isinstance(found, str) else _array(found, where)
    prompt, tokens = _lengths(where, sample)
    check_array(ids, where)
    if len(ids) < tokens - 1:
        raise DataError(
            f"{where} has ids of {len(ids)} tokens, but {tokens} tokens, of which all but the last have some: it was "
            "not recorded from its first token on, so leave it out."
        )
    # What is behind the last row but one is padding of the trainer's.
    return Recorded(where, ids[: tokens - 1], min(prompt, tokens - 1), number)


def _lengths(where: str, sample: Mapping[str, Any]) -> tuple[int, int]:
    """(tokens of the prompt, all tokens) by the sample's own fields."""
    if "prompt_token_ids" in sample and "response_ids" in sample:
        prompt = _array(sample["prompt_token_ids"], where).size
        tokens = prompt + _array(sample["response_ids"], where).size
    elif "tokens" in sample and "response_length" in sample:
        response = _array(sample["response_length"], where)
        tokens = _array(sample["tokens"], where).size
        prompt = tokens - int(response.flat[0]) if response.size == 1 else -1
    else:
        raise DataError(
            f"{where} does not tell its length: it needs tokens and response_length, or prompt_token_ids and "
            "response_ids."
        )
    if not 0 <= prompt <= tokens or tokens < 2:
        raise DataError(
            f"{where} has {tokens} tokens, which does not fit its response: save samples as the trainer has them."
        )
    return prompt, tokens


def _array(value: object, where: str) -> Array:
    return value if isinstance(value, np.ndarray) else integers(value, where)


IMPORTER = Importer(
    read,
    "Routed experts of RL trainers' rollouts (slime, SkyRL, veRL), with the masks that say what is padding.",
    "rollouts math=batch.npz --experts 128 --output rollouts.json",
    sequences=True,
)
